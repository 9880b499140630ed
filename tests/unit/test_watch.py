"""The live view: what it shows, and that it shows it."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest

from async_adag.observe.shares import shares_between
from async_adag.observe.watch import Row, Watch, headline, rows_of
from tests.unit.test_shares import AFTER, BEFORE, FIRST, SECOND, stats


def test_rows_are_nodes_by_actor():
    assert rows_of(shares_between(BEFORE, AFTER)) == [
        Row("method0 #0", FIRST, "30%", "1", "200 ms", "20%", "████"),
        Row("method1 #1", "", "", "1", "500 ms", "50%", "██████████"),
        Row("method2 #2", SECOND, "100%", "0", "0 µs", "0%", ""),
    ]


def test_a_node_that_is_busier_than_all_the_time_fills_its_bar():
    (row, *_) = rows_of(shares_between(None, stats(10, (15, 30.0), (0, 0.0), (0, 0.0))))
    assert (row.busy, row.bar) == ("300%", "█" * 20)


def test_before_any_time_has_passed():
    assert [row.rate for row in rows_of(shares_between(AFTER, AFTER))] == ["0", "0", "0"]
    assert headline(shares_between(AFTER, AFTER)).startswith("0 executions/s")


def test_the_headline_is_of_the_whole_graph():
    assert headline(shares_between(BEFORE, AFTER)) == (
        "2 executions/s, 1 in flight, 2 callers in line for a place\n"
        "100 B/s written, 0 waits/s for a place, 0 sleeps/s"
    )


def test_one_caller_is_one():
    assert "1 in flight, 1 caller in line for a place" in headline(
        shares_between(BEFORE, replace(AFTER, waiting=1))
    )


def test_without_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.live", None)
    with pytest.raises(ImportError, match=r"pip install 'async-adag\[watch\]'"):
        Watch(lambda: BEFORE, "graph")


@pytest.fixture
def console():
    rich = pytest.importorskip("rich.console")
    return rich.Console(file=io.StringIO(), width=120, record=True)


@pytest.mark.parametrize("refresh", [0, -1, float("nan")])
def test_how_often_it_draws_has_to_be_a_number_of_times(console, refresh):
    with pytest.raises(ValueError, match="more than 0"):
        Watch(lambda: AFTER, "graph", console, refresh)


def test_what_is_drawn(console):
    taken = iter([BEFORE, AFTER])
    watch = Watch(lambda: next(taken), "[the graph]", console)
    console.print(watch.table())
    text = console.export_text()
    assert "[the graph]" in text
    (line,) = [line for line in text.splitlines() if "method1" in line]
    assert line.replace("│", " ").split() == ["method1", "#1", "1", "500", "ms", "50%", "█" * 10]
    assert "2 executions/s" in text


def test_the_figures_are_of_the_last_second(console):
    times = [10, 10.25, 10.5, 11.25, 12.5, 12.75]
    taken = iter([stats(t, (0, 0.0), (0, 0.0), (0, 0.0)) for t in times])
    watch = Watch(lambda: next(taken), "graph", console)
    assert [watch._shares().seconds for _ in times[1:]] == [0.25, 0.5, 1.0, 1.25, 1.5]


def test_a_block_that_is_watched(console):
    with Watch(lambda: AFTER, "graph", console):
        pass
    assert "method2" in console.export_text()
