"""Where time goes between two snapshots of a graph: how busy each node and each actor was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from async_adag.observe.picture import Times
from async_adag.observe.stats import Stats


@dataclass(frozen=True, slots=True)
class NodeShare:
    """What one node did meanwhile.

    Attributes:
        number: the node's.
        method: its method.
        actor: its actor.
        calls: how often it ran to its end.
        seconds: how long those calls took.
        busy: the share of time in which it ran; over 1 where calls interleave, as an async actor's do.
    """

    number: int
    method: str
    actor: str
    calls: int
    seconds: float
    busy: float

    @property
    def mean(self) -> float:
        """Seconds of a call."""
        return self.seconds / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Shares:
    """What a graph did between two snapshots.

    Attributes:
        seconds: between them.
        executions: admitted meanwhile.
        in_flight: in the end.
        waiting: callers in line for a place in the end.
        waits: how often a caller had to wait for a place.
        bytes: of payload written.
        parked: how often a loop, or a thread that waits, went to sleep.
        nodes: what each did, in the order of flow.
        idle: by actor: the share of time in which it ran no method: it waited, read or wrote.
    """

    seconds: float
    executions: int
    in_flight: int
    waiting: int
    waits: int
    bytes: int
    parked: int
    nodes: tuple[NodeShare, ...]
    idle: dict[str, float]

    @property
    def rate(self) -> float:
        """Executions admitted in a second."""
        return self.executions / self.seconds if self.seconds else 0.0


def shares_between(before: Stats | None, after: Stats) -> Shares:
    """What a graph did from ``before`` to ``after``.

    Args:
        before: the earlier snapshot of `CompiledGraph.stats`; None for when the graph was compiled.
        after: the later one.

    Raises:
        ValueError: they are of different graphs, or in the wrong order.
    """
    if before is None:
        nodes = [(node, 0, 0.0) for node in after.nodes]
        before = Stats(0, 0, 0, 0, 0, 0, 0, ())
    else:
        if [node.label for node in before.nodes] != [node.label for node in after.nodes]:
            raise ValueError("these are snapshots of two graphs: both have to be of one")
        if before.seconds > after.seconds:
            raise ValueError("the snapshots are in the wrong order: the earlier one comes first")
        pairs = zip(before.nodes, after.nodes, strict=True)
        nodes = [(node, earlier.calls, earlier.seconds) for earlier, node in pairs]
    seconds = after.seconds - before.seconds
    shares = []
    for node, calls, ran in nodes:
        took = max(0.0, node.seconds - ran)
        busy = took / seconds if seconds > 0 else 0.0
        shares.append(NodeShare(node.number, node.method, node.actor, node.calls - calls, took, busy))
    idle = {share.actor: 1.0 for share in shares}
    for share in shares:
        idle[share.actor] = max(0.0, idle[share.actor] - share.busy)
    return Shares(
        seconds=seconds,
        executions=after.executions - before.executions,
        in_flight=after.in_flight,
        waiting=after.waiting,
        waits=after.waits - before.waits,
        bytes=after.bytes - before.bytes,
        parked=after.parked - before.parked,
        nodes=tuple(shares),
        idle=idle,
    )


def describe_shares(shares: Shares, actors: Iterable[str]) -> Times:
    """The same in words, for a picture of these actors."""
    return Times(
        caption=(
            f"{shares.executions} executions in {human_seconds(shares.seconds)}. Of that time, busy: the method "
            "ran (and how long a call took); idle: the actor ran none"
        ),
        calls={
            node.number: (f"busy {node.busy:.0%}, {human_seconds(node.mean)}", node.busy) for node in shares.nodes
        },
        actors=tuple(f"idle {shares.idle[actor]:.0%}" for actor in actors),
    )


def human_seconds(seconds: float) -> str:
    """A time as people write it: 0.0015 is 1.5 ms."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale * 0.9995 or unit == "µs":
            return f"{seconds / scale:.3g} {unit}"
    raise AssertionError
