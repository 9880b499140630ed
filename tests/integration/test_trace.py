"""Timelines of graphs at work."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import traceback
from uuid import uuid4

import anyio
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GraphClosed
from async_adag.actor.records import CAPACITY, count_of, records_in
from async_adag.driver import trace as trace_module
from async_adag.driver.trace import Trace
from tests.timelines import check_events, check_trace, names_of, spans, ways

CHAIN = {
    ("driver: write channel 0", "Worker: read channel 0"),
    ("Worker: read channel 0", "Worker: echo"),
    ("Worker: echo", "Worker: write channel 1"),
    ("Worker: write channel 1", "AsyncWorker: read channel 1"),
    ("AsyncWorker: read channel 1", "AsyncWorker: echo"),
    ("AsyncWorker: echo", "AsyncWorker: write channel 2"),
    ("AsyncWorker: write channel 2", "driver: read channel 2"),
}


@pytest.fixture
def chain(worker, async_worker):
    """A synchronous actor, then an asynchronous one."""
    with InputNode() as x:
        return async_worker.echo.bind(worker.echo.bind(x))


def checked(trace):
    check_trace(trace)
    return trace.events


def numbers(events, **fields):
    return [e["args"]["execution"] for e in spans(events, **fields)]


async def test_of_a_chain_every_step_of_every_execution(chain, tmp_path):
    path = tmp_path / "trace.json"
    async with async_adag.compile(chain) as compiled:
        await compiled(0)
        with compiled.trace(path) as trace:
            assert await asyncio.gather(*(compiled(n) for n in range(5))) == list(range(5))
        await compiled(9)
    events = checked(trace)
    for seq in range(1, 6):
        assert ways(events, seq) == CHAIN
    assert numbers(events, cat="in flight") == [1, 2, 3, 4, 5], "neither the one before nor the one behind"
    assert trace.lost == {}
    told = json.loads(path.read_text())
    assert told["traceEvents"] == events


async def test_it_is_written_though_its_block_is_cancelled(chain, tmp_path):
    path = tmp_path / "trace.json"
    async with async_adag.compile(chain) as compiled:
        with anyio.CancelScope() as scope:
            async with compiled.trace(path) as trace:
                await compiled(0)
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert json.loads(path.read_text())["traceEvents"] == trace.events


def test_without_an_event_loop(worker):
    with InputNode() as x:
        compiled = async_adag.compile(worker.add.bind(worker.echo.bind(x)))
    with compiled:
        for seq in (0, 1):  # each trace begins with the actor asleep
            with compiled.trace() as trace:
                compiled.execute(1).get()
            events = checked(trace)
            assert [e["name"] for e in spans(events, cat="compute", execution=seq)] == ["echo", "add"]
            assert numbers(events, cat="in flight") == [seq]


@pytest.mark.one_host(reason="readers on two hosts have a channel each")
async def test_one_frame_for_several_and_several_outputs(workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), workers[1].echo.bind(x)])
    file = io.StringIO()
    async with async_adag.compile(dag) as compiled, compiled.trace(file) as trace:
        await compiled(1)
    events = checked(trace)
    assert json.loads(file.getvalue())["traceEvents"] == events
    read = [e["pid"] for e in spans(events, name="read channel 0")]
    assert len(set(read)) == 2
    assert len([e for e in events if e["ph"] == "s"]) == 2 + 3 + 3, "channels, then within each actor and to it"
    (flight,) = spans(events, cat="in flight")
    assert "unfinished" not in flight["args"]


async def test_executions_that_interleave_on_an_async_actor(async_worker):
    with InputNode() as x:
        dag = async_worker.meet.bind(x)
    async with async_adag.compile(dag) as compiled:
        with compiled.trace() as trace:
            names = [f"{uuid4()} {n}" for n in range(2)]
            await asyncio.gather(compiled((names[0], names[1])), compiled((names[1], names[0])))
    events = checked(trace)
    lanes = [names_of(events, "thread_name")[e["pid"], e["tid"]] for e in spans(events, name="meet")]
    assert lanes == ["compute", "compute 2"]


async def test_a_node_that_fails_and_those_behind_it(worker, async_worker):
    with InputNode() as x:
        dag = worker.echo.bind(async_worker.echo.bind(worker.add.bind(x)))
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(TypeError) as plain:
            await compiled("text")
        with compiled.trace() as trace:
            with pytest.raises(TypeError) as traced:
                await compiled("text")
            assert await compiled(1) == 2
    assert traceback.format_exception(traced.value.__cause__) == traceback.format_exception(plain.value.__cause__)
    events = checked(trace)
    assert [e["name"] for e in spans(events, cat="compute", execution=1)] == ["add"], "the others were not called"
    failed = [e["name"] for e in spans(events, execution=1) if e["args"].get("failed")]
    assert failed == ["execution 1", "add", "read channel 1", "read channel 2", "read channel 3"]
    assert ("AsyncWorker: read channel 1", "AsyncWorker: write channel 2") not in ways(events, 1)
    assert not [e for e in spans(events, execution=2) if e["args"].get("failed")]


async def test_an_async_node_that_fails(async_worker):
    with InputNode() as x:
        dag = async_worker.call.bind(int, x)
    async with async_adag.compile(dag) as compiled:
        with compiled.trace() as trace, pytest.raises(ValueError, match="text"):
            await compiled("text")
    (span,) = spans(checked(trace), cat="compute")
    assert span["args"]["failed"]


async def test_a_discarded_execution(worker, gate):
    with InputNode() as x:
        dag = worker.hold_or_echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        with compiled.trace() as trace:
            held = await compiled.execute_async(gate.path)
            held.cancel()
            gate.open()
            assert await compiled(1) == 1
    assert numbers(checked(trace), cat="in flight") == [0, 1]


async def test_what_is_still_in_flight(worker, gate):
    with InputNode() as x:
        dag = worker.hold_or_echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        with compiled.trace() as first:
            held = await compiled.execute_async(gate.path)
            await asyncio.to_thread(gate.entered)
        with compiled.trace() as second:
            gate.open("held")
            assert await held == "held"
        with compiled.trace() as third:
            assert await compiled(1) == 1
    (flight,) = spans(checked(first), cat="in flight")
    assert flight["args"] == {"execution": 0, "unfinished": True}
    assert spans(first.events, cat="compute") == []
    assert numbers(checked(second), name="hold_or_echo") == [0], "as far as it was in this time"
    assert numbers(checked(third), name="hold_or_echo") == [1]


async def test_of_several_graphs_on_an_actor_one(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    with InputNode() as x:
        other_dag = worker.add.bind(x)
    async with async_adag.compile(dag) as one, async_adag.compile(other_dag) as other:
        with one.trace() as trace:
            await asyncio.gather(one(1), other(1), one(2))
    assert [e["name"] for e in spans(checked(trace), cat="compute")] == ["echo", "echo"]


@ray.remote(num_cpus=0)
class Tracer:
    """Runs a node of its own graph."""

    def echo(self, value):
        return value

    def trace_myself(self, other):
        me = ray.get_runtime_context().current_actor
        with InputNode() as x:
            dag = me.echo.bind(other.echo.bind(me.echo.bind(x)))
        with async_adag.compile(dag) as compiled, compiled.trace() as trace:
            compiled.execute(1).get()
        return trace.events, trace.clock_errors


def test_a_driver_that_is_an_actor_of_the_graph(make_actor, worker):
    events, clock_errors = ray.get(make_actor(Tracer).trace_myself.remote(worker), timeout=100)
    check_events(events, clock_errors)
    assert [e["name"] for e in spans(events, cat="compute")] == ["echo"] * 3
    assert len(names_of(events, "process_name")) == 3


@pytest.mark.one_host(reason="it looks into the actors' memory")
async def test_nothing_is_recorded_before_and_after(chain):
    async with async_adag.compile(chain) as compiled:
        controls = compiled._engine.deployment.controls

        def counts():
            return [count_of(records_in(control.records)) for control in controls]

        await compiled(1)
        assert counts() == [0, 0]
        with compiled.trace():
            await compiled(1)
        await compiled(2)  # a loop may have waited for this one before it was told
        before = counts()
        assert all(before)
        await compiled(3)
        assert counts() == before


@pytest.mark.one_host(reason="it spoils shared memory")
async def test_records_that_are_lost_are_counted(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    async with async_adag.compile(dag, max_inflight=100) as compiled:
        with compiled.trace() as trace:
            (control,) = compiled._engine.deployment.controls
            async for _ in compiled.map(range(10)):
                pass
            records_in(control.records)[0] += CAPACITY  # as if it had written that many more
    name = f"Worker({worker._actor_id.hex()[:6]})"
    assert trace.lost.keys() == {name}
    assert trace.lost[name] > 1


async def test_a_graph_that_is_closed_meanwhile(chain, tmp_path):
    path = tmp_path / "trace.json"
    async with async_adag.compile(chain) as compiled, compiled.trace(path):
        await compiled(1)
        await compiled.aclose()
    told = json.loads(path.read_text())
    events = told["traceEvents"]
    check_events(events, told["otherData"].get("clock_error_s"))
    assert ways(events, 0) == CHAIN
    assert {*numbers(events)} == {0}, "what is written to stop the actors is no execution"


async def test_an_error_in_the_block(chain, tmp_path):
    path = tmp_path / "trace.json"
    async with async_adag.compile(chain) as compiled:
        with pytest.raises(ZeroDivisionError), compiled.trace(path):
            1 / await compiled(0)
        assert ways(json.loads(path.read_text())["traceEvents"], 0) == CHAIN
        with compiled.trace():
            pass


@pytest.mark.one_host(reason="actors on other hosts make room themselves")
async def test_no_memory_for_the_records_of_one_actor(chain, tmp_path, monkeypatch):
    def none_for_the_second(records, make_room=trace_module.make_room):
        if records is controls[1].records:
            raise OSError(errno.ENOSPC, "No space left on device")
        make_room(records)

    given_back = []
    async with async_adag.compile(chain) as compiled:
        controls = compiled._engine.deployment.controls
        monkeypatch.setattr(trace_module, "make_room", none_for_the_second)
        monkeypatch.setattr(trace_module, "give_back", given_back.append)
        with pytest.raises(OSError, match="No space left"), compiled.trace(tmp_path / "trace.json"):
            pytest.fail("it does not begin")
        assert controls[0].records in given_back
        monkeypatch.undo()
        with compiled.trace() as trace:
            assert await compiled(1) == 1
    assert numbers(checked(trace), cat="in flight") == [0]


def test_what_is_refused(chain, tmp_path):
    with async_adag.compile(chain) as compiled:
        with compiled.trace() as trace:
            with pytest.raises(RuntimeError, match="leave the `with` block first"):
                trace.events  # noqa: B018
            with pytest.raises(RuntimeError, match="one trace at a time"), compiled.trace(tmp_path / "other.json"):
                pass
        with pytest.raises(RuntimeError, match="make a new one"), trace:
            pass
        with pytest.raises(FileNotFoundError), compiled.trace(tmp_path / "missing" / "trace.json"):
            pass
        compiled.execute(1).get()
    with pytest.raises(GraphClosed), compiled.trace():
        pass


@pytest.mark.one_host(reason="those on other hosts are asked for their records, and not waited for")
@pytest.mark.parametrize("waits", ["in a thread", "here"])
async def test_leaving_waits_for_actors_that_have_a_gpu_to_wait_for(chain, monkeypatch, waits):
    monkeypatch.setattr(trace_module, "SETTLE", 30)
    monkeypatch.setattr(Trace, "_have_lanes", lambda self: [0, 1])
    async with async_adag.compile(chain) as compiled:
        controls = compiled._engine.deployment.controls
        for seq in range(3):
            if waits == "here":
                with compiled.trace() as trace:
                    await compiled(1)
            else:
                async with compiled.trace() as trace:
                    await compiled(1)
            assert [control.is_heeded() for control in controls] == [True, True]
            assert numbers(checked(trace), cat="in flight") == [seq]


async def test_leaving_does_not_wait_for_a_method_that_hangs(worker, gate, monkeypatch):
    monkeypatch.setattr(trace_module, "SETTLE", 0.01)
    monkeypatch.setattr(Trace, "_have_lanes", lambda self: [0])
    with InputNode() as x:
        dag = worker.hold_or_echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        async with compiled.trace() as trace:
            held = await compiled.execute_async(gate.path)
            await asyncio.to_thread(gate.entered)
        gate.open()
        await held
    (flight,) = spans(checked(trace), cat="in flight")
    assert flight["args"] == {"execution": 0, "unfinished": True}
