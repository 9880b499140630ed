"""Graphs to be drawn, and drawings of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from async_adag.graph.model import Actor, Const, FromInput, FromNode, Graph, Node, Signature
from async_adag.graph.planner import plan_graph
from async_adag.observe.picture import Picture, Transport, make_picture, ring_transport
from async_adag.observe.visualize import draw

RING = ring_transport(32, 1 << 20)
NASTY = [
    'say "hi"',
    "a\\",
    "\\N",
    '\\"',
    "<b>&lt;&amp;&",
    "]]>",
    "-->",
    "#",
    "naïve",
    "演员",
    "two\nlines",
    "\x00\x1b\ud800",
]

names = st.one_of(st.sampled_from(NASTY), st.text(st.characters(), max_size=50))
"""Whatever text there is, characters that nothing can show included."""


def picture_of(graph: Graph) -> Picture:
    return make_picture(plan_graph(graph), lambda channel: RING)


def drawn(graph: Graph, form: str, *transports: Transport) -> str:
    """A drawing, with these transports for the first channels."""
    return draw(plan_graph(graph), lambda n: transports[n] if n < len(transports) else RING, form)


def named(graph: Graph, actor: str, method: str) -> Graph:
    """The graph with other names: this one for all actors, this one for all methods."""
    actors = tuple(replace(one, name=actor) for one in graph.actors)
    return replace(graph, actors=actors, nodes=tuple(replace(node, method=method) for node in graph.nodes))


@st.composite
def graphs(draw: Any) -> Graph:
    """Graphs of up to ten nodes on up to four actors, with any names, keys and constants."""
    chosen = draw(st.lists(st.integers(0, 3), min_size=1, max_size=10))
    numbers = {actor: number for number, actor in enumerate(dict.fromkeys(chosen))}
    keys = draw(st.lists(names, max_size=8, unique=True))
    inputs = draw(st.sampled_from([[FromInput(None)], [FromInput(0), *map(FromInput, keys)]]))
    nodes: list[Node] = []
    for number, actor in enumerate(chosen):
        results = [FromNode(node.number, index) for node in nodes for index in range(node.returns)]
        source = st.one_of(st.sampled_from(inputs + results), st.builds(Const, names))
        args = tuple(draw(st.lists(source, max_size=4)))
        kwargs = tuple(draw(st.dictionaries(names, source, max_size=2)).items())
        nodes.append(Node(number, numbers[actor], draw(names), args, kwargs, draw(st.integers(1, 2))))
    results = [FromNode(node.number, index) for node in nodes for index in range(node.returns)]
    outputs = tuple(draw(st.lists(st.sampled_from(results), min_size=1, max_size=4)))
    actors = tuple(Actor(number, f"{number:032x}", draw(names)) for number in range(len(numbers)))
    signature = Signature(1, () if inputs[0].key is None else tuple(sorted(keys)))
    return Graph(actors, tuple(nodes), signature, outputs, len(outputs) > 1)
