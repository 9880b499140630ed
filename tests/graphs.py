"""Graphs written by hand, as `read_dag` would give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from async_adag.graph.model import Actor, Const, FromInput, FromNode, Graph, Node, Packed, Signature

GraphMaker = Callable[..., Graph]


def build_graph(*calls: tuple[Any, ...], outputs: Any = None, multi: bool | None = None) -> Graph:
    """A graph from one tuple for each node: its actor, its positional arguments, how many values it returns.

    An argument is a source, or a plain value that stands for a constant. A mapping among the arguments gives the
    keyword arguments. By default the last node is the output.
    """
    nodes = []
    for number, (actor, arguments, *rest) in enumerate(calls):
        args = tuple(_source(value) for value in arguments if not isinstance(value, dict))
        kwargs = tuple(
            (name, _source(value))
            for mapping in arguments
            if isinstance(mapping, dict)
            for name, value in mapping.items()
        )
        nodes.append(Node(number, actor, f"method{number}", args, kwargs, rest[0] if rest else 1))
    ends = (FromNode(len(nodes) - 1),) if outputs is None else tuple(outputs)
    actors = tuple(
        Actor(number, f"{number:032x}", f"Actor{number}")
        for number in range(1 + max(node.actor for node in nodes))
    )
    return Graph(actors, tuple(nodes), _signature(nodes), ends, (len(ends) > 1) if multi is None else multi)


def _source(value: Any) -> Any:
    return value if isinstance(value, Const | FromInput | FromNode | Packed) else Const(value)


def _signature(nodes: list[Node]) -> Signature:
    keys = [source.key for node in nodes for source in node.sources() if isinstance(source, FromInput)]
    if None in keys:
        return Signature(1)
    positions = [key for key in keys if isinstance(key, int)]
    names = sorted({key for key in keys if isinstance(key, str)})
    return Signature(max(positions) + 1 if positions else 0, tuple(names))
