"""Announcements: before a user's communicator is called, every rank learns what all contributions are.

Such a communicator waits for all ranks. If one of them did not call it, since the method that makes its
contribution has failed, or made something that does not fit, the others would wait for ever. So each rank tells
the others first, by an edge like any other: one that carries types and shapes, or the failure, which then is the
result at every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from async_adag.graph.model import Collective, FromInput, FromNode, Node, Packed, Source

Outputs = tuple[FromNode | FromInput, ...]


def announce(nodes: list[Node], groups: list[object], outputs: Outputs) -> tuple[tuple[Node, ...], Outputs]:
    """Add a node for each announcement, ahead of the parts of the operation.

    Args:
        nodes: in an order in which all can run.
        groups: for each node what those of one operation share; None where no announcement is needed.
        outputs: of the graph.
    """
    added: list[Node] = []
    place: dict[int, int] = {}
    announced: dict[int, list[FromNode]] = {}

    def moved(source: Source) -> Source:
        if isinstance(source, Packed):
            return replace(source, parts=tuple(map(moved, source.parts)))
        return FromNode(place[source.node], source.index) if isinstance(source, FromNode) else source

    for node, group in zip(nodes, groups, strict=True):
        if group is not None and id(group) not in announced:
            # The first of its parts in the order: all contributions have been made by now.
            parts = sorted((one for one, other in zip(nodes, groups, strict=True) if other is group), key=_rank)
            announced[id(group)] = [_add_announcement(added, part, moved) for part in parts]
        place[node.number] = len(added)
        args = tuple(map(moved, node.args))
        if group is not None:
            args += tuple(announced[id(group)])
        kwargs = tuple((name, moved(source)) for name, source in node.kwargs)
        added.append(replace(node, number=len(added), args=args, kwargs=kwargs))
    ends = tuple(FromNode(place[out.node], out.index) if isinstance(out, FromNode) else out for out in outputs)
    return tuple(added), ends


def _add_announcement(nodes: list[Node], part: Node, moved: Callable[[Source], Source]) -> FromNode:
    assert part.collective is not None
    telling = Collective("announce", None, _rank(part), part.collective.size)
    args = tuple(map(moved, part.args))
    nodes.append(Node(len(nodes), part.actor, f"announce {part.method}", args, (), collective=telling))
    return FromNode(len(nodes) - 1)


def _rank(part: Node) -> int:
    assert part.collective is not None
    return part.collective.rank
