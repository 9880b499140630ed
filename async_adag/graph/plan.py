"""A plan: which channels join which processes, and what each actor does in an execution. Frozen data.

`graph/planner.py` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from async_adag.graph.model import (
    Collective,
    FromInput,
    FromNode,
    Graph,
    InputKey,
    TensorTransport,
)

DRIVER = -1
"""The driver's number among the processes; actors have theirs."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of the plan.

    Attributes:
        number: its place in `Plan.channels`.
        writer: the process that writes.
        readers: the processes that read, in the order of their reading ends.
        values: what one frame carries: one value as it is, several as a tuple, none as an empty frame.
        moved: whether a communicator of the user's carries the tensors in the values; see `Plan.mover`.
        gpu: what carries tensors on a GPU in the values: "ipc", "nccl", or "" for nothing.
        to_host: whether the writer copies tensors on its GPU to the CPU's memory, for the frame.
        to_gpu: whether each reader copies torch tensors in the CPU's memory to its GPU.
        remote: whether its readers live on another host than its writer.
        edge: from which nodes to which it goes, in words.
    """

    number: int
    writer: int
    readers: tuple[int, ...]
    values: tuple[FromInput | FromNode, ...]
    moved: bool = False
    gpu: str = ""
    to_host: bool = False
    to_gpu: bool = False
    remote: bool = False
    edge: str = field(default="", compare=False)

    @property
    def filler(self) -> int:
        """The process that fills the readers' ring: the writer, or on another host than its own the first reader,
        which receives for all.
        """
        return self.readers[0] if self.remote else self.writer


@dataclass(frozen=True, slots=True)
class Read:
    """Read a frame and put its values into registers."""

    channel: int
    registers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Promise:
    """What a hint promises of a result.

    Attributes:
        label: the node in words.
        static_shape: whether its tensors have the types and shapes that they had in the first execution.
        direct_return: whether it is a tensor itself.
        on_gpu: whether tensors on a GPU alone are meant.
    """

    label: str
    static_shape: bool
    direct_return: bool
    on_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """Write the values of registers as a frame.

    Attributes:
        channel: where.
        registers: of the values.
        promises: what was promised of each; () where nothing was of any.
    """

    channel: int
    registers: tuple[int, ...]
    promises: tuple[Promise | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Pack:
    """Put the values of registers into a new container, and that into a register.

    Attributes:
        register: where the container goes.
        type: what it is: see `Packed`.
        parts: the registers of what lies in it.
        keys: of a dictionary, its keys.
    """

    register: int
    type: type
    parts: tuple[int, ...]
    keys: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One node, as its actor runs it: reads, then the call, then writes.

    Attributes:
        node: the node's number.
        method: the method's name.
        label: the node in words.
        reads: in order; values that an earlier task of this actor read are in registers already.
        packs: containers to be made for the arguments, in order.
        args: registers of the positional arguments.
        kwargs: registers of the keyword arguments.
        results: registers of the results, as many as the method returns values.
        writes: in order.
        collective: what to do in place of calling a method.
    """

    node: int
    method: str
    label: str
    reads: tuple[Read, ...]
    packs: tuple[Pack, ...]
    args: tuple[int, ...]
    kwargs: tuple[tuple[str, int], ...]
    results: tuple[int, ...]
    writes: tuple[Write, ...]
    collective: Collective | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A channel whose tensors a communicator carries, as one actor sees it.

    Attributes:
        channel: the channel.
        edge: the channel in words.
        communicator: the user's.
        peers: the ranks at the other end: the readers', in the order in which they are served, or the writer's.
    """

    channel: int
    edge: str
    communicator: Any
    peers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GpuMove:
    """A channel whose tensors go from GPU to GPU by themselves, or from or to one, as one process sees it.

    Attributes:
        channel: the channel.
        edge: the channel in words.
        by: "ipc" or "nccl"; "" where they go in the frame.
        readers: how many processes read it.
        reader: which of them this one is; None for the writer.
        to_host: whether this process copies tensors on its GPU to the CPU's memory.
        to_gpu: whether this process copies tensors to its GPU.
    """

    channel: int
    edge: str
    by: str
    readers: int
    reader: int | None
    to_host: bool = False
    to_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """A communicator of the user's, and an actor's rank in it."""

    communicator: Any
    rank: int


@dataclass(frozen=True, slots=True)
class ActorPlan:
    """What one actor does in each execution.

    Attributes:
        actor: the actor's number.
        name: the actor in words.
        constants: the values that were bound; they fill the first registers, once.
        registers: how many registers there are.
        tasks: in order.
        moves: the channels of this actor whose tensors a communicator carries.
        gpu_moves: the channels of this actor whose tensors go from GPU to GPU, in the order of the plan.
        communicators: those of the graph that have this actor among their ranks, in one order for all actors.
    """

    actor: int
    name: str
    constants: tuple[Any, ...]
    registers: int
    tasks: tuple[Task, ...]
    moves: tuple[Move, ...] = ()
    gpu_moves: tuple[GpuMove, ...] = ()
    communicators: tuple[Membership, ...] = ()

    def reads(self) -> list[int]:
        """The channels it reads."""
        return [read.channel for task in self.tasks for read in task.reads]

    def writes(self) -> list[int]:
        """The channels it writes."""
        return [write.channel for task in self.tasks for write in task.writes]


@dataclass(frozen=True, slots=True)
class Output:
    """Where the driver finds an output: the channel, and which of the frame's values (None: the frame's one)."""

    channel: int
    position: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan. An output that is (a part of) the input never leaves the driver."""

    graph: Graph
    channels: tuple[Channel, ...]
    actors: tuple[ActorPlan, ...]
    outputs: tuple[Output | FromInput, ...]

    def inputs(self) -> list[Channel]:
        """The channels that the driver writes."""
        return [channel for channel in self.channels if channel.writer == DRIVER]

    def results(self) -> list[Channel]:
        """The channels that the driver reads."""
        return [channel for channel in self.channels if DRIVER in channel.readers]

    def mover(self, channel: int) -> TensorTransport | None:
        """How the tensors of a channel travel that a communicator carries; None for other channels."""
        return mover_of(self.graph, self.channels[channel])


def gpu_moves(channels: tuple[Channel, ...], process: int) -> tuple[GpuMove, ...]:
    """The channels of a process on which it has a GPU's part to do, in the order of the plan."""
    moves = []
    for c in channels:
        to_host = c.to_host and process == c.writer
        to_gpu = c.to_gpu and process in c.readers
        if to_host or to_gpu or (c.gpu and (process == c.writer or process in c.readers)):
            reader = None if process == c.writer else c.readers.index(process)
            moves.append(GpuMove(c.number, c.edge, c.gpu, len(c.readers), reader, to_host, to_gpu))
    return tuple(moves)


def mover_of(graph: Graph, channel: Channel) -> TensorTransport | None:
    """How the tensors of a channel travel that a communicator carries; None for other channels."""
    if not channel.moved:
        return None
    (first, *_) = channel.values
    assert isinstance(first, FromNode)
    return graph.nodes[first.node].mover(first.index)


def input_key(value: FromInput | FromNode) -> InputKey:
    """The key of a value that an input channel carries."""
    assert isinstance(value, FromInput)
    return value.key
