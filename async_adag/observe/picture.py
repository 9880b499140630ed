"""What there is to draw: a plan in words, for text, DOT and SVG alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from async_adag.graph.model import Const, FromInput, FromNode, Graph
from async_adag.graph.plan import DRIVER, Plan
from async_adag.observe.words import describe, describe_call, human_size, printable

INPUT = -1
"""The input's number among what arrows join; nodes have theirs."""
OUTPUT = -2
"""The output's."""


@dataclass(frozen=True, slots=True)
class Transport:
    """What moves values.

    Attributes:
        short: in a word, for the label of an arrow.
        words: in full.
    """

    short: str
    words: str

    def __str__(self) -> str:
        return f"{self.short}: {self.words}"


IN_ACTOR = Transport("local", "stays in the actor")
IN_DRIVER = Transport("local", "stays in the driver")
HAND_OVER = Transport("hand-over", "handed over within the driver's process")
GPU_EDGES = {"ipc": "CUDA IPC", "nccl": "NCCL"}
"""What carries tensors from GPU to GPU, in words."""


def ring_transport(slots: int, buffer_size: int, communicator: str = "") -> Transport:
    """A ring in shared memory, with so many slots, whose payload blocks keep so many bytes warm.

    Args:
        slots: how many.
        buffer_size: in bytes.
        communicator: the user's, by name, or one of `GPU_EDGES`, if one carries the tensors.
    """
    ring = f"shared memory ring, {slots} slots, buffers of {human_size(buffer_size)}"
    if communicator in GPU_EDGES.values():
        return Transport(communicator, f"tensors on a GPU by {communicator}, the rest by {ring}")
    if communicator:
        return Transport("communicator", f"tensors by {printable(communicator)}, the rest by {ring}")
    return Transport("ring", ring)


def tcp_transport(ring: Transport) -> Transport:
    """TCP to another host, where the frames land in this ring."""
    short = "TCP" if ring.short == "ring" else f"{ring.short}, TCP"
    return Transport(short, f"TCP to another host, there a {ring.words}")


@dataclass(frozen=True, slots=True)
class Carrier:
    """What carries values away from where they are made: a channel, or nothing where they stay in their process.

    Attributes:
        channel: its number, or None.
        origin: the node that makes the values, or `INPUT`.
        values: the values in words.
        readers: who gets them, in words.
        transport: what moves them.
    """

    channel: int | None
    origin: int
    values: str
    readers: str
    transport: Transport

    @property
    def label(self) -> str:
        """In a word or two."""
        short = self.transport.short
        return short if self.channel is None else f"{self.channel}: {short}"

    def __str__(self) -> str:
        name = self.transport.short if self.channel is None else f"channel {self.channel}"
        return f"{name}: {self.values} -> {self.readers}  [{self.transport.words}]"


@dataclass(frozen=True, slots=True)
class Arrow:
    """Values on their way: from `INPUT` or a node, to a node or `OUTPUT`."""

    origin: int
    target: int
    carrier: Carrier


@dataclass(frozen=True, slots=True)
class Call:
    """A node in words.

    Attributes:
        number: the node's.
        actor: the number of its actor.
        method: the method's name.
        text: the call with its arguments.
    """

    number: int
    actor: int
    method: str
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A plan in words.

    Attributes:
        keys: which parts the input has; none where it is used as a whole.
        actors: their names, each with the first digits of the id.
        calls: the nodes, in the order of flow.
        carriers: by origin, channels first.
        arrows: in the order of their targets.
        output: what comes out.
    """

    keys: tuple[str, ...]
    actors: tuple[str, ...]
    calls: tuple[Call, ...]
    carriers: tuple[Carrier, ...]
    arrows: tuple[Arrow, ...]
    output: str

    def legend(self) -> list[Transport]:
        """The transports that occur, each once."""
        return list(dict.fromkeys(carrier.transport for carrier in self.carriers))


def make_picture(plan: Plan, transport: Callable[[int], Transport]) -> Picture:
    """Put a plan into words. Deterministic: the same plan gives the same picture.

    Args:
        plan: the plan.
        transport: what moves the frames of a channel.
    """
    graph = plan.graph
    writes = {write.channel: task.node for actor in plan.actors for task in actor.tasks for write in task.writes}
    channels = {
        channel.number: Carrier(
            channel.number,
            writes.get(channel.number, INPUT),
            ", ".join(describe(graph, value) for value in channel.values) or "trigger",
            ", ".join("Output" if r == DRIVER else printable(str(graph.actors[r])) for r in channel.readers),
            transport(channel.number),
        )
        for channel in plan.channels
    }
    moved, stays = _moves(plan)
    local = {
        (origin, target): Carrier(
            None,
            origin,
            ", ".join(describe(graph, value) for value in values),
            "Output" if target == OUTPUT else f"#{target}",
            IN_DRIVER if target == OUTPUT else IN_ACTOR,
        )
        for (origin, target), values in stays.items()
    }
    arrows = [Arrow(channels[number].origin, target, channels[number]) for number, target in moved]
    arrows += [Arrow(origin, target, carrier) for (origin, target), carrier in local.items()]
    outputs = [describe(graph, output) for output in graph.outputs]
    return Picture(
        keys=_keys(graph),
        actors=tuple(printable(str(actor)) for actor in graph.actors),
        calls=tuple(
            Call(node.number, node.actor, printable(node.method), describe_call(graph, node.number))
            for node in graph.nodes
        ),
        carriers=tuple(sorted([*channels.values(), *local.values()], key=lambda carrier: carrier.origin)),
        # An output comes last, though its number is below those of the nodes.
        arrows=tuple(sorted(arrows, key=lambda arrow: (arrow.target == OUTPUT, arrow.target, arrow.origin))),
        output=f"[{', '.join(outputs)}]" if graph.multi else outputs[0],
    )


Value = FromInput | FromNode


def _moves(plan: Plan) -> tuple[list[tuple[int, int]], dict[tuple[int, int], list[Value]]]:
    """Each channel with each place it goes to; and the values that stay in their process, by both ends."""
    carried = {(value, reader): c.number for c in plan.channels for value in c.values for reader in c.readers}
    moved: dict[tuple[int, int], None] = {}  # keeps its order, as a set would not
    stays: dict[tuple[int, int], list[Value]] = {}
    for value, target, process in _uses(plan.graph):
        channel = carried.get((value, process))
        if channel is not None:
            moved[channel, target] = None
        else:
            values = stays.setdefault((value.node if isinstance(value, FromNode) else INPUT, target), [])
            if value not in values:
                values.append(value)
    nodes = plan.graph.nodes
    for actor in plan.actors:
        fed = {number for number, target in moved if target >= 0 and nodes[target].actor == actor.actor}
        for task in actor.tasks:
            # A trigger has no values: it goes to the node that it starts.
            moved |= {(read.channel, task.node): None for read in task.reads if read.channel not in fed}
    return list(moved), stays


def _uses(graph: Graph) -> Iterator[tuple[Value, int, int]]:
    """Each value with each place that uses it, and the process where that is."""
    for node in graph.nodes:
        for source in node.sources():
            if not isinstance(source, Const):
                yield source, node.number, node.actor
    for output in graph.outputs:
        yield output, OUTPUT, DRIVER


def _keys(graph: Graph) -> tuple[str, ...]:
    if any(isinstance(value, FromInput) and value.key is None for value, _, _ in _uses(graph)):
        return ()
    keys = [*range(graph.signature.positional), *graph.signature.keywords]
    return tuple(printable(f"[{key!r}]") for key in keys)
