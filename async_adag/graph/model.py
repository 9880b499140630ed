"""A graph as the user described it: actors, nodes, where their arguments come from, and what goes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

InputKey = int | str | None
"""Which part of the input: a position, a keyword, or None for the one argument of a graph that takes one."""


@dataclass(frozen=True, slots=True)
class Const:
    """An argument that was bound as a value."""

    value: Any


@dataclass(frozen=True, slots=True)
class FromInput:
    """An argument, or an output, that is (a part of) the input of the execution."""

    key: InputKey


@dataclass(frozen=True, slots=True)
class FromNode:
    """An argument, or an output, that is a result of a node: its number, and which of its return values."""

    node: int
    index: int = 0


Leaf = Const | FromInput | FromNode


@dataclass(frozen=True, slots=True)
class Packed:
    """An argument that is a container with parts of the input, or results, inside; each execution gets a new one.

    Attributes:
        type: list, dict, tuple, or a class made by ``namedtuple``.
        parts: what lies in it, in order.
        keys: of a dictionary, the keys of the parts.
    """

    type: type
    parts: tuple[Source, ...]
    keys: tuple[Any, ...] = ()


Source = Const | FromInput | FromNode | Packed


def leaves(sources: tuple[Source, ...]) -> Iterator[Leaf]:
    """What these sources are made of, in order."""
    for source in sources:
        if isinstance(source, Packed):
            yield from leaves(source.parts)
        else:
            yield source


@dataclass(frozen=True, slots=True)
class Actor:
    """An actor of the graph.

    Attributes:
        number: its place in `Graph.actors`.
        id: Ray's actor id, in hexadecimal.
        name: the class name.
    """

    number: int
    id: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}({self.id[:6]})"


@dataclass(frozen=True, slots=True)
class Host:
    """Where processes live that share memory.

    Attributes:
        node: the id of Ray's node, in hexadecimal.
        address: the node's address, as Ray knows it.
        cell: tells apart those on one node that cannot share memory, such as containers; 0 where they can.
    """

    node: str
    address: str
    cell: int = 0

    def __str__(self) -> str:
        return f"{self.address} (node {self.node[:6]}{f', apart: {self.cell}' if self.cell else ''})"


@dataclass(frozen=True, slots=True)
class TensorTransport:
    """How the tensors in a node's result are to travel: what ``with_tensor_transport`` asked for.

    Attributes:
        kind: "auto", "shm", "accelerator".
        device: where they are to be at the reader: "default" (as at the writer), "cpu", "gpu".
        static_shape: whether shapes and types are the same in every execution.
        direct_return: whether the result is a tensor itself, and not something that holds tensors.
        communicator: the user's own, which carries the tensors to other actors; None for ours.
        ranks: in that communicator, by actor; None for an actor that is none of its ranks.
    """

    kind: str
    device: str = "default"
    static_shape: bool = False
    direct_return: bool = False
    communicator: Any = None
    ranks: tuple[int | None, ...] = ()

    def needs_gpu(self) -> bool:
        """Whether shared memory would not be what was asked for."""
        return self.communicator is None and (self.kind == "accelerator" or self.device == "gpu")

    def may_use_gpu(self) -> bool:
        """Whether tensors on a GPU are to go to another actor's GPU by themselves, where both have one."""
        return self.communicator is None and self.kind in ("accelerator", "auto") and self.device != "cpu"

    def may_stage(self) -> bool:
        """Whether tensors may have to be brought to another device on the way."""
        return self.communicator is None and self.device in ("cpu", "gpu")


REDUCTIONS = ("sum", "product", "max", "min", "avg")
"""How a collective operation can make one value of many."""


@dataclass(frozen=True, slots=True)
class Collective:
    """What a node does that calls no method: its actor's part of a collective operation.

    Without a communicator, its arguments are the contributions of all ranks, by rank, as many of
    each as it has results. With one they are its own contributions, then what `announce` adds.

    Attributes:
        kind: "allreduce", "allgather", "reducescatter"; "announce": tells the other ranks that the arguments are
            there, and what they are.
        reduction: one of `REDUCTIONS`; None where nothing is reduced.
        rank: the actor's.
        size: how many ranks there are.
        communicator: the user's own, or NCCL's, which is to do it; None where it goes through channels.
        operation: what that one calls the reduction.
        number: of the operation, among those of the graph.
        transport: what was asked for where there is no communicator of the user's: "auto", "accelerator", "shm".
    """

    kind: str
    reduction: str | None
    rank: int
    size: int
    communicator: Any = None
    operation: Any = None
    number: int = 0
    transport: str = "shm"


@dataclass(frozen=True, slots=True)
class Node:
    """One call of an actor's method, or one part of a collective operation, in each execution.

    Attributes:
        number: its place in `Graph.nodes`, which is an order in which all nodes can run.
        actor: the number of its actor.
        method: the method's name.
        args: where its positional arguments come from.
        kwargs: where its keyword arguments come from.
        returns: how many values it returns (``num_returns``); more than one are each a result of their own.
        transports: how tensors in each of its results are to travel; None for a result, or () for all of them,
            where nothing was asked for.
        collective: the part of a collective operation that it is; None for a method.
    """

    number: int
    actor: int
    method: str
    args: tuple[Source, ...]
    kwargs: tuple[tuple[str, Source], ...]
    returns: int = 1
    transports: tuple[TensorTransport | None, ...] = ()
    collective: Collective | None = None

    def mover(self, index: int) -> TensorTransport | None:
        """The transport of a result that a communicator of the user's carries to other actors; else None."""
        transport = self.transports[index] if self.transports else None
        return None if transport is None or transport.communicator is None else transport

    def sources(self) -> tuple[Leaf, ...]:
        """Where all its arguments, and what lies in them, come from."""
        return tuple(leaves(self.args + tuple(source for _, source in self.kwargs)))


@dataclass(frozen=True, slots=True)
class Signature:
    """What an execution takes: so many positional arguments, and these keywords."""

    positional: int
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """The whole DAG.

    Attributes:
        actors: in the order in which data reaches them.
        nodes: in an order in which all can run, and those of one actor in the order of their binding.
        signature: what an execution takes.
        outputs: what an execution gives.
        multi: whether the outputs come as a list (``MultiOutputNode``).
        gpus: by actor, the GPU that it has (CUDA's UUID), or "" for none; () where nobody asked.
        driver_gpu: the driver's, if it is to get results on it.
        async_actors: those of the actors with a GPU whose executions interleave.
        hosts: by actor, where it lives; () where all live where the driver does.
        driver_host: where the driver does; None where nobody asked.
    """

    actors: tuple[Actor, ...]
    nodes: tuple[Node, ...]
    signature: Signature
    outputs: tuple[FromNode | FromInput, ...]
    multi: bool
    gpus: tuple[str, ...] = ()
    driver_gpu: str = ""
    async_actors: frozenset[int] = frozenset()
    hosts: tuple[Host, ...] = ()
    driver_host: Host | None = None

    def host(self, actor: int | None) -> Host | None:
        """Where an actor lives; of None, where the driver does. None where all live on one host."""
        return self.driver_host if actor is None or not self.hosts else self.hosts[actor]

    def gpu_edge(self, result: FromNode, reader: int | None) -> str:
        """What carries tensors in a result from GPU to GPU: "ipc" on one GPU, "nccl" between two; "" for nothing.

        Args:
            result: the result.
            reader: the number of the actor that reads it; None for the driver, which is no rank of NCCL's.
        """
        writer = self.nodes[result.node]
        transport = writer.transports[result.index] if writer.transports else None
        if transport is None or not transport.may_use_gpu() or not self.gpus or writer.actor == reader:
            return ""
        here, there = self.gpus[writer.actor], self.driver_gpu if reader is None else self.gpus[reader]
        if not here or not there:
            return ""
        if here == there and self.host(writer.actor) != self.host(reader):
            return ""  # one GPU, and nothing by which its memory could be handed over
        kind = "ipc" if here == there else "" if reader is None else "nccl"
        interleaving = {writer.actor, reader} if kind == "nccl" else {writer.actor}
        # The executions of async actors interleave: they read over IPC, and that is all.
        return "" if transport.kind == "auto" and not interleaving.isdisjoint(self.async_actors) else kind

    def staging(self, result: FromNode, reader: int | None) -> tuple[bool, bool]:
        """Whether the writer of a result copies its tensors to the CPU's memory, and a reader them to its GPU.

        Args:
            result: the result.
            reader: the number of the actor that reads it; None for the driver.
        """
        writer = self.nodes[result.node]
        transport = writer.transports[result.index] if writer.transports else None
        if transport is None or not transport.may_stage() or not self.gpus or writer.actor == reader:
            return False, False
        to_gpu = transport.device == "gpu"
        by_host = not to_gpu or not self.gpu_edge(result, reader)
        return bool(self.gpus[writer.actor]) and by_host, to_gpu

    def label(self, node: int) -> str:
        """A node in words: ``method on Actor(id)``."""
        spec = self.nodes[node]
        return f"{spec.method} on {self.actors[spec.actor]}"
