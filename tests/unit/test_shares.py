"""Where time goes between two snapshots."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from async_adag import NodeStats, Stats
from async_adag.graph.model import FromInput, FromNode
from async_adag.graph.planner import plan_graph
from async_adag.observe.shares import human_seconds, shares_between
from async_adag.observe.svg import BUSY, PAPER
from async_adag.observe.visualize import draw
from tests.graphs import build_graph
from tests.pictures import RING

PLAN = plan_graph(build_graph((0, [FromInput(None)]), (0, [FromNode(0)]), (1, [FromNode(1)])))
FIRST, SECOND = (str(actor) for actor in PLAN.graph.actors)


def stats(seconds, *nodes, executions=0, **fields):
    """A snapshot of that graph: for each node its calls and seconds."""
    return Stats(
        executions=executions,
        in_flight=1,
        waiting=2,
        waits=fields.get("waits", 0),
        bytes=fields.get("bytes", 0),
        parked=0,
        busy_poll_hits=0,
        nodes=tuple(
            NodeStats(PLAN.graph.label(n), calls, took, n, f"method{n}", SECOND if n == 2 else FIRST)
            for n, (calls, took) in enumerate(nodes)
        ),
        seconds=seconds,
    )


BEFORE = stats(10, (5, 1.0), (5, 1.0), (5, 0.5), executions=5, waits=1, bytes=100)
AFTER = stats(20, (15, 3.0), (15, 6.0), (5, 0.5), executions=25, waits=4, bytes=1100)


def test_between_two_snapshots():
    shares = shares_between(BEFORE, AFTER)
    assert (shares.seconds, shares.executions, shares.rate) == (10, 20, 2.0)
    assert (shares.waits, shares.bytes, shares.in_flight, shares.waiting) == (3, 1000, 1, 2)
    assert [(node.calls, node.busy, node.mean) for node in shares.nodes] == [
        (10, 0.2, 0.2),
        (10, 0.5, 0.5),
        (0, 0, 0),
    ]
    assert shares.idle == {FIRST: pytest.approx(0.3), SECOND: 1.0}


def test_since_the_graph_was_compiled():
    shares = shares_between(None, AFTER)
    assert (shares.seconds, shares.executions) == (20, 25)
    assert [(node.calls, node.busy) for node in shares.nodes] == [(15, 0.15), (15, 0.3), (5, 0.025)]


def test_at_the_same_moment():
    shares = shares_between(AFTER, AFTER)
    assert shares.rate == 0
    assert [node.busy for node in shares.nodes] == [0, 0, 0]


def test_of_an_async_actor_a_node_may_be_busy_more_than_all_the_time():
    shares = shares_between(None, stats(10, (15, 30.0), (0, 0.0), (0, 0.0)))
    assert shares.nodes[0].busy == 3
    assert shares.idle[FIRST] == 0


def test_snapshots_that_do_not_belong_together():
    with pytest.raises(ValueError, match="the earlier one comes first"):
        shares_between(AFTER, BEFORE)
    with pytest.raises(ValueError, match="of two graphs"):
        shares_between(replace(BEFORE, nodes=BEFORE.nodes[:1]), AFTER)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 µs"), (1.5e-6, "1.5 µs"), (9.999e-4, "1 ms"), (0.0123, "12.3 ms"), (0.99999, "1 s"), (75, "75 s")],
)
def test_times_in_words(seconds, words):
    assert human_seconds(seconds) == words


def drawn(form, shares):
    return draw(PLAN, lambda channel: RING, form, shares)


def test_the_svg_says_where_time_goes():
    root = ET.fromstring(drawn("svg", shares_between(BEFORE, AFTER)))
    svg = "{http://www.w3.org/2000/svg}"
    texts = [
        [text.text for text in g.iter(f"{svg}text")] for g in root.iter(f"{svg}g") if g.get("class") == "node"
    ]
    assert texts[1:4] == [
        ["method0 #0", "busy 20%, 200 ms"],
        ["method1 #1", "busy 50%, 500 ms"],
        ["method2 #2", "busy 0%, 0 µs"],
    ]
    lanes = [
        [text.text for text in g.iter(f"{svg}text")] for g in root.iter(f"{svg}g") if g.get("class") == "lane"
    ]
    assert lanes == [["driver"], [FIRST, "idle 30%"], [SECOND, "idle 100%"]]
    fills = [g.find(f"{svg}rect").get("fill") for g in root.iter(f"{svg}g") if g.get("class") == "node"]
    assert fills[0] == fills[3] == PAPER
    assert len({*fills, BUSY}) == 4, "the busier, the nearer to that colour"
    (caption,) = [text.text for text in root.iter(f"{svg}text") if text.get("class") == "times"]
    assert caption.startswith("20 executions in 10 s. ")


def test_all_of_it_lies_in_the_picture():
    root = ET.fromstring(drawn("svg", shares_between(BEFORE, AFTER)))
    height = int(root.get("height"))
    (caption,) = [text for text in root if text.get("class") == "times"]
    legend = [g for g in root if g.get("class") == "legend"]
    below = max(int(text.get("y")) for g in legend for text in g if text.get("y"))
    assert below < int(caption.get("y")) < height


def test_the_dot_says_where_time_goes():
    text = drawn("dot", shares_between(BEFORE, AFTER))
    assert r'[label="method1 #1\nbusy 50%, 500 ms"' in text
    assert f'label="{FIRST}\\lidle 30%\\l"' in text
    assert "20 executions in 10 s" in text


def test_without_times_nothing_of_it_is_drawn():
    for form in ("dot", "svg"):
        assert "busy" not in drawn(form, None)
    with pytest.raises(ValueError, match="the text is the same each time"):
        drawn("text", shares_between(BEFORE, AFTER))
