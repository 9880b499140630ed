"""A graph as the user described it: actors, nodes, where their arguments come from, and what goes out."""

from __future__ import annotations

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


Source = Const | FromInput | FromNode


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
class Node:
    """One call of an actor's method in each execution.

    Attributes:
        number: its place in `Graph.nodes`, which is an order in which all nodes can run.
        actor: the number of its actor.
        method: the method's name.
        args: where its positional arguments come from.
        kwargs: where its keyword arguments come from.
        returns: how many values it returns (``num_returns``); more than one are each a result of their own.
        transport: what ``with_tensor_transport`` asked for: "auto", "shm", "accelerator", or None.
    """

    number: int
    actor: int
    method: str
    args: tuple[Source, ...]
    kwargs: tuple[tuple[str, Source], ...]
    returns: int = 1
    transport: str | None = None

    def sources(self) -> tuple[Source, ...]:
        """Where all its arguments come from."""
        return self.args + tuple(source for _, source in self.kwargs)


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
    """

    actors: tuple[Actor, ...]
    nodes: tuple[Node, ...]
    signature: Signature
    outputs: tuple[FromNode, ...]
    multi: bool

    def label(self, node: int) -> str:
        """A node in words: ``method on Actor(id)``."""
        spec = self.nodes[node]
        return f"{spec.method} on {self.actors[spec.actor]}"
