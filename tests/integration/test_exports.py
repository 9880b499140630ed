"""What leaves the process: figures for Prometheus, spans for OpenTelemetry, a view in the terminal."""

from __future__ import annotations

import asyncio
import gc
import io
import sys

import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GraphClosed
from async_adag.observe.prometheus import GraphCollector


@pytest.fixture
def pair(workers):
    with InputNode() as x:
        return workers[1].echo.bind(workers[0].add.bind(x))


# Prometheus


@pytest.fixture
def registry():
    prometheus_client = pytest.importorskip("prometheus_client")
    return prometheus_client.CollectorRegistry(auto_describe=True)


def scraped(registry):
    """The text that Prometheus gets, parsed back: by name, the samples' labels and values."""
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_figures_of_two_graphs(registry, pair, worker):
    with InputNode() as x:
        other = worker.echo.bind(x)
    with async_adag.compile(pair) as one, async_adag.compile(other) as two:
        collector = GraphCollector({"one": one})
        registry.register(collector)
        collector.add("two", two)
        for n in range(3):
            one.execute(n).get()
        two.execute(1).get()
        while one.stats().bytes < 3 * 3 * 8:  # actors keep their books when they have nothing else to do
            pass
        found = scraped(registry)
        assert found["async_adag_executions_total"] == [({"graph": "one"}, 3), ({"graph": "two"}, 1)]
        assert found["async_adag_in_flight"] == [({"graph": "one"}, 0), ({"graph": "two"}, 0)]
        calls = [
            (labels["graph"], labels["node"], labels["method"], value)
            for labels, value in found["async_adag_node_calls_total"]
        ]
        assert calls == [("one", "0", "add", 3), ("one", "1", "echo", 3), ("two", "0", "echo", 1)]
        assert all(value > 0 for _, value in found["async_adag_node_seconds_total"])
        assert dict(found["async_adag_node_calls_total"][0][0])["actor"] == one.stats().nodes[0].actor
        stats = one.stats()
        written = {labels["graph"]: value for labels, value in found["async_adag_written_bytes_total"]}
        assert written["one"] == stats.bytes
        collector.remove("one")
        assert [labels["graph"] for labels, _ in scraped(registry)["async_adag_executions_total"]] == ["two"]
        with pytest.raises(ValueError, match="'two' already"):
            collector.add("two", one)


def test_a_graph_that_is_dropped_is_not_held(registry, worker):
    with InputNode() as x:
        compiled = async_adag.compile(worker.echo.bind(x))
    registry.register(GraphCollector({"graph": compiled}))
    del compiled
    gc.collect()
    assert "async_adag_executions_total" not in scraped(registry)


def test_a_graph_that_is_closed_keeps_its_figures(registry, worker):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    with async_adag.compile(dag) as compiled:
        registry.register(GraphCollector({"graph": compiled}))
        compiled.execute(1).get()
    assert scraped(registry)["async_adag_executions_total"] == [({"graph": "graph"}, 1)]


class Parents:
    """A graph of the process that this one was forked from: see `test_fork.py`."""

    def stats(self):
        raise GraphClosed


def test_a_graph_that_is_the_parents_is_left_out(registry, worker):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    parents = Parents()
    with async_adag.compile(dag) as compiled:
        registry.register(GraphCollector({"other": parents, "own": compiled}))
        assert scraped(registry)["async_adag_executions_total"] == [({"graph": "own"}, 0)]


def test_without_prometheus_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"pip install 'async-adag\[prometheus\]'"):
        GraphCollector()


# OpenTelemetry


class Spans:
    """A provider whose spans can be looked at once they have ended."""

    def __init__(self):
        export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        self._exporter = export.InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    def ended(self):
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def spans():
    made = Spans()
    yield made
    made.provider.shutdown()


def described(span):
    events = [event.name for event in span.events]
    return span.name, span.status.status_code.name, events


async def test_a_span_for_each_execution_under_the_callers(spans, pair):
    async with async_adag.compile(pair) as compiled:
        spanned = compiled.with_spans("decode", spans.provider)
        with spans.tracer.start_as_current_span("request") as request:
            assert await spanned(1) == 2
            future = await spanned.execute_async(2)
            assert await future == 3
    one, two, outer = spans.ended()
    assert outer.name == "request"
    for span in (one, two):
        assert described(span) == ("decode", "UNSET", ["admitted"])
        assert span.parent.span_id == request.get_span_context().span_id
        assert dict(span.attributes) == {"async_adag.graph": "decode"}
        assert span.start_time <= span.events[0].timestamp <= span.end_time


async def test_a_span_of_an_execution_that_fails_or_is_not_begun(spans, pair):
    async with async_adag.compile(pair) as compiled:
        spanned = compiled.with_spans("decode", spans.provider)
        with pytest.raises(TypeError):
            await spanned("text")
        with pytest.raises(TypeError):
            await spanned(1, 2, 3)
    failed, refused = spans.ended()
    assert described(failed) == ("decode", "ERROR", ["admitted", "exception"])
    assert failed.status.description.startswith("TypeError: ")
    assert described(refused) == ("decode", "ERROR", ["exception"])


async def test_a_span_of_an_execution_that_is_cancelled(spans, worker, gate):
    with InputNode() as x:
        dag = worker.hold_or_echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        held = await compiled.with_spans(tracer_provider=spans.provider).execute_async(gate.path)
        held.cancel()
        gate.open()
        await compiled(1)
    (span,) = spans.ended()
    assert span.attributes["async_adag.cancelled"] is True


async def test_spans_of_map_of_deadlines_and_of_several_outputs(spans, workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), workers[1].add.bind(x)])
    async with async_adag.compile(dag) as compiled:
        spanned = compiled.options(timeout=100).with_spans("both", spans.provider)
        assert [pair async for pair in spanned.map(range(5), window=2)] == [[n, n + 1] for n in range(5)]
        assert await spanned(1) == [1, 2]
        with pytest.raises(TypeError):
            await spanned("text")
    ended = spans.ended()
    assert [described(span)[1] for span in ended] == ["UNSET"] * 6 + ["ERROR"]
    assert [event.name for event in ended[-1].events] == ["admitted", "exception"], "the first error"


def test_spans_of_refs_end_when_they_are_settled_or_dropped(spans, pair):
    with async_adag.compile(pair) as compiled:
        spanned = compiled.with_spans("decode", spans.provider)
        ref = spanned.execute(1)
        assert ref.get() == 2
        assert ref.get() == 2
        assert [described(span) for span in spans.ended()] == [("decode", "UNSET", ["admitted"])]
        failing = spanned.execute("text")
        with pytest.raises(TypeError):
            failing.get()
        assert described(spans.ended()[1]) == ("decode", "ERROR", ["admitted", "exception"])
        dropped = spanned.execute(3)
        del dropped
        gc.collect()
        assert len(spans.ended()) == 3
        compiled.execute(4).get()
    assert len(spans.ended()) == 3, "each ends once"


def test_a_span_of_several_refs_ends_with_the_last_of_them(spans, workers, gate):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), workers[1].hold_or_echo.bind(x)])
    with async_adag.compile(dag) as compiled:
        spanned = compiled.with_spans("both", spans.provider)
        dropped, held = spanned.execute(gate.path)
        del dropped
        gc.collect()
        assert not spans.ended()
        gate.open("opened")
        assert held.get() == "opened"
    assert [described(span) for span in spans.ended()] == [("both", "UNSET", ["admitted"])]


async def test_what_was_traced_as_spans(spans, pair):
    async with async_adag.compile(pair) as compiled:
        with compiled.trace() as trace:
            assert await compiled(1) == 2
            with pytest.raises(TypeError):
                await compiled("text")
        with spans.tracer.start_as_current_span("request") as request:
            trace.export_spans("decode", spans.provider)
    add, echo, whole, failed_add, failed, _ = spans.ended()
    assert [span.name.partition(" on ")[0] for span in (add, echo, whole)] == ["add", "echo", "decode"]
    assert whole.parent.span_id == request.get_span_context().span_id
    for node in (add, echo):
        assert node.parent.span_id == whole.get_span_context().span_id
        assert whole.start_time <= node.start_time <= node.end_time <= whole.end_time
    assert [span.status.status_code.name for span in (whole, failed_add, failed)] == ["UNSET", "ERROR", "ERROR"]
    assert dict(failed.attributes) == {"async_adag.graph": "decode", "async_adag.execution": 1}


def test_without_opentelemetry(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with async_adag.compile(pair) as compiled, pytest.raises(ImportError, match=r"async-adag\[opentelemetry\]"):
        compiled.with_spans()


# the terminal


async def test_a_graph_that_is_watched(pair):
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), width=120, record=True)
    async with async_adag.compile(pair) as compiled:
        with compiled.watch(console=console):
            await asyncio.gather(*(compiled(n) for n in range(5)))
        assert repr(compiled) in console.export_text(clear=False)
    text = console.export_text()
    assert "add #0" in text
    assert "echo #1" in text
