"""Counters of a running graph, gathered into a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from async_adag.actor.control import Control
from async_adag.graph.plan import Plan


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What one node has done.

    Attributes:
        label: the node in words: ``method on Actor(id)``.
        calls: how often it ran.
        seconds: how long it ran in all.
        number: the node's, in the order of flow.
        method: the method's name.
        actor: the actor's name and the first digits of its id: ``Actor(id)``.
    """

    label: str
    calls: int
    seconds: float
    number: int = 0
    method: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a graph.

    Attributes:
        executions: admitted so far.
        in_flight: admitted, and not all outputs arrived.
        waiting: callers in line for a place now.
        waits: how often a caller had to wait for a place.
        bytes: of payload written to channels, by the driver and all actors; tensors that a communicator carries
            are not counted.
        parked: how often an actor's loop, or a thread that waits for a result, went to sleep.
        busy_poll_hits: how often one got its news while busy-polling instead.
        nodes: what each node has done, in the order of flow.
        seconds: since the graph was compiled.
    """

    executions: int
    in_flight: int
    waiting: int
    waits: int
    bytes: int
    parked: int
    busy_poll_hits: int
    nodes: tuple[NodeStats, ...]
    seconds: float = 0.0


def take_stats(
    plan: Plan,
    controls: Sequence[Control],
    *,
    executions: int,
    in_flight: int,
    waiting: int,
    waits: int,
    written: int,
    parked: int,
    spun: int,
    seconds: float,
) -> Stats:
    """Gather a snapshot: the driver's counters, given, and the actors', read from their control pages."""
    nodes: dict[int, NodeStats] = {}
    graph = plan.graph
    for control in controls:
        for number, calls, nanoseconds in control.computed():
            node = graph.nodes[number]
            label, actor = graph.label(number), str(graph.actors[node.actor])
            nodes[number] = NodeStats(label, calls, nanoseconds / 1e9, number, node.method, actor)
    waited = [control.waits() for control in controls]
    return Stats(
        executions=executions,
        in_flight=in_flight,
        waiting=waiting,
        waits=waits,
        bytes=written + sum(control.bytes() for control in controls),
        parked=parked + sum(one for one, _ in waited),
        busy_poll_hits=spun + sum(one for _, one in waited),
        nodes=tuple(nodes[number] for number in sorted(nodes)),
        seconds=seconds,
    )
