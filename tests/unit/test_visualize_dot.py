"""The DOT form, read back by the rules of its language."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given

from async_adag.graph.model import FromInput, FromNode
from async_adag.observe.picture import INPUT, OUTPUT
from tests.pictures import NASTY, drawn, graphs, named, picture_of

WHOLE = FromInput(None)
# https://graphviz.org/doc/info/lang.html: an ID is a name, a numeral, or a quoted string, where \" is a quote.
TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z_0-9]*|[0-9]+|->|[{}\[\]=;,])')


@dataclass
class Dot:
    """A graph, or a subgraph."""

    attributes: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    edges: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    clusters: list[Dot] = field(default_factory=list)


class Reading:
    def __init__(self, text: str) -> None:
        self.tokens = []
        at = 0
        while at < len(text):
            token = TOKEN.match(text, at)
            assert token, f"no DOT: {text[at : at + 40]!r}"
            self.tokens.append(token[1])
            at = token.end()

    def take(self, expected: str | None = None) -> str:
        token = self.tokens.pop(0)
        assert expected is None or token == expected, f"{token} where {expected} belongs"
        return token

    def statements(self) -> Dot:
        dot = Dot()
        self.take("{")
        while self.tokens[0] != "}":
            name = self.take()
            if name == "subgraph":
                assert self.take().startswith("cluster")
                dot.clusters.append(self.statements())
                continue
            if self.tokens[0] == "=":
                self.take()
                dot.attributes[name] = self.take()
            elif self.tokens[0] == "->":
                self.take()
                dot.edges.append((name, self.take(), self.attributes()))
            else:
                dot.nodes[name] = self.attributes()
            self.take(";")
        self.take("}")
        return dot

    def attributes(self) -> dict[str, str]:
        found = {}
        self.take("[")
        while True:
            name = self.take()
            self.take("=")
            found[name] = self.take()
            if self.take() == "]":
                return found


def read(text: str) -> Dot:
    reading = Reading(text)
    reading.take("digraph")
    reading.take()
    dot = reading.statements()
    assert not reading.tokens
    for name in ("graph", "node", "edge"):
        dot.nodes.pop(name)  # defaults
    return dot


def shown(label: str) -> str:
    """What Graphviz shows for a label: escapes, then entities."""
    assert label[0] == label[-1] == '"'
    text = re.sub(r"\\(.)", lambda found: {"n": "\n", "l": "\n"}.get(found[1], found[1]), label[1:-1])
    return text.replace("&amp;", "&")


def test_the_dot_of_a_graph(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [FromNode(0)]), (0, [FromNode(0), FromNode(1)]))
    dot = read(drawn(graph, "dot"))
    assert [shown(cluster.attributes["label"]) for cluster in dot.clusters] == ["Actor0(000000)", "Actor1(000000)"]
    assert [list(cluster.nodes) for cluster in dot.clusters] == [["node_0", "node_2"], ["node_1"]]
    assert list(dot.nodes) == ["input", "output"]
    assert [(a, b, shown(attributes["label"]), attributes["style"]) for a, b, attributes in dot.edges] == [
        ("input", "node_0", "0: ring", "solid"),
        ("node_0", "node_1", "1: ring", "solid"),
        ("node_0", "node_2", "local", "dashed"),
        ("node_1", "node_2", "2: ring", "solid"),
        ("node_2", "output", "3: ring", "solid"),
    ]
    assert shown(dot.attributes["label"]) == (
        "ring: shared memory ring, 32 slots, buffers of 1 MiB\nlocal: stays in the actor\n"
    )


@given(graph=graphs())
def test_any_names_come_back_as_they_are(graph):
    picture = picture_of(graph)
    dot = read(drawn(graph, "dot"))
    assert [shown(cluster.attributes["label"]) for cluster in dot.clusters] == list(picture.actors)
    nodes = {name: attributes for cluster in dot.clusters for name, attributes in cluster.nodes.items()}
    for call in picture.calls:
        attributes = nodes.pop(f"node_{call.number}")
        assert shown(attributes["label"]) == f"{call.method} #{call.number}"
        assert shown(attributes["tooltip"]) == f"{call.text} on {picture.actors[call.actor]}"
    assert not nodes
    assert shown(dot.nodes["input"]["label"]) == "\n".join(["Input", *picture.keys])
    names = {INPUT: "input", OUTPUT: "output"} | {call.number: f"node_{call.number}" for call in picture.calls}
    assert [(a, b, shown(attributes["tooltip"])) for a, b, attributes in dot.edges] == [
        (names[arrow.origin], names[arrow.target], str(arrow.carrier)) for arrow in picture.arrows
    ]


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_shows_the_names(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [FromNode(0)]))
    for name in NASTY:
        odd = named(graph, name, name)
        run = subprocess.run(["dot", "-Tsvg"], input=drawn(odd, "dot").encode(), capture_output=True, check=True)
        assert not run.stderr
        texts = {element.text for element in ET.fromstring(run.stdout).iter() if element.text}
        picture = picture_of(odd)
        assert {*picture.actors, f"{picture.calls[0].method} #0"} <= texts
