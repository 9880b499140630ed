"""compiled.options(timeout=): a deadline for each execution."""

from __future__ import annotations

import asyncio
import re

import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import ExecutionTimeout
from tests.gate import wait_at


@pytest.fixture(scope="module")
def compiled(workers):
    with InputNode() as x:
        dag = workers[0].hold_or_echo.bind(x)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


async def test_a_missed_deadline_abandons_the_execution_and_the_graph_goes_on(compiled, gate):
    with pytest.raises(ExecutionTimeout, match="hold_or_echo"):
        await compiled.options(timeout=0.1)(gate.path)
    gate.open()
    assert await compiled(1) == 1
    assert compiled.stats().in_flight == 0


@pytest.mark.parametrize("way", ["await", "ref", "map"])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_it_says_which_node_computes_where_and_for_how_long(workers, async_worker, gate, kind, way):
    actor = workers[1] if kind == "sync" else async_worker
    name = f"{'Worker' if kind == 'sync' else 'AsyncWorker'}({actor._actor_id.hex()[:6]})"
    said = rf"^execution 1 .*; call on {re.escape(name)}: computing execution 0 since \d+\.\d s"
    with InputNode() as x:
        dag = actor.call.bind(wait_or_echo, x)
    async with async_adag.compile(dag) as compiled:
        hasty = compiled.options(timeout=0)
        held = await compiled.execute_async(gate.path)
        await asyncio.to_thread(gate.entered)
        ask = {
            "await": lambda: hasty(1),
            "ref": lambda: asyncio.to_thread(lambda: hasty.execute(1).get()),
            "map": lambda: anext(hasty.map([1])),
        }
        with pytest.raises(ExecutionTimeout, match=said):
            await ask[way]()
        gate.open("held")
        assert await held == "held"
        assert await compiled(2) == 2


def wait_or_echo(value):
    return wait_at(value) if isinstance(value, str) else value


async def test_each_execution_has_its_own(compiled, gate):
    hasty, patient = compiled.options(timeout=0.02), compiled.options(timeout=50)
    future = await patient.execute_async(gate.path)
    with pytest.raises(ExecutionTimeout):
        await hasty(1)
    gate.open("in time")
    assert await future == "in time"


async def test_a_deadline_that_is_met(compiled):
    view = compiled.options(timeout=50)
    assert await view(1) == 1
    assert await (await view.execute_async(2)) == 2
    assert [result async for result in view.map(range(5))] == list(range(5))
    assert await compiled.options(timeout=None)(3) == 3


async def test_a_missed_deadline_is_the_outcome_for_good(compiled, gate):
    future = await compiled.options(timeout=0.01).execute_async(gate.path)
    for _ in range(2):
        with pytest.raises(ExecutionTimeout):
            await future
    gate.open("too late")
    assert await compiled(1) == 1
    assert isinstance(future.exception(), ExecutionTimeout)


async def test_of_several_outputs(workers, gate):
    with InputNode() as x:
        dag = MultiOutputNode([workers[1].hold.bind(x), workers[2].echo.bind(x)])
    async with async_adag.compile(dag) as compiled:
        held, fine = await compiled.options(timeout=0.3).execute_async(gate.path)
        assert await fine == gate.path
        with pytest.raises(ExecutionTimeout):
            await held
        assert fine.result() == gate.path
        gate.open()


async def test_map_stops_at_a_missed_deadline(compiled, gate):
    with pytest.raises(ExecutionTimeout):
        await anext(compiled.options(timeout=0.05).map([gate.path]))
    gate.open()
    assert await compiled(1) == 1


async def test_the_wait_for_a_place_is_included(workers, gate):
    with InputNode() as x:
        dag = workers[1].hold_or_echo.bind(x)
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        held = await compiled.execute_async(gate.path)
        patient = asyncio.ensure_future(compiled.options(timeout=50)(1))
        await asyncio.sleep(0)
        with pytest.raises(ExecutionTimeout):
            await compiled.options(timeout=0.02)(2)
        with pytest.raises(ExecutionTimeout):
            await compiled.options(timeout=0.02).execute_async(3)
        gate.open()
        await held
        assert await patient == 1
        assert compiled.stats().executions == 2


def test_the_wait_for_a_place_is_included_on_the_blocking_side(workers, gate):
    with InputNode() as x:
        dag = workers[1].hold_or_echo.bind(x)
    with async_adag.compile(dag, max_inflight=1) as compiled:
        held = compiled.execute(gate.path)
        with pytest.raises(ExecutionTimeout):
            compiled.options(timeout=0.02).execute(2)
        gate.open("held")
        assert held.get() == "held"
        assert compiled.stats().executions == 1


def test_of_refs(compiled, gate):
    ref = compiled.options(timeout=0.02).execute(gate.path)
    for _ in range(2):
        with pytest.raises(ExecutionTimeout, match="abandoned"):
            ref.get()
    gate.open("too late")
    assert compiled.execute(1).get() == 1
    with pytest.raises(ExecutionTimeout, match="abandoned"):
        ref.get()


def test_a_get_that_times_out_before_the_deadline_consumes_nothing(compiled, gate):
    ref = compiled.options(timeout=50).execute(gate.path)
    with pytest.raises(ExecutionTimeout):
        ref.get(timeout=0.01)
    gate.open("in time")
    assert ref.get() == "in time"


async def test_a_view_of_a_view_has_its_own_deadline(compiled, gate):
    patient, hasty = compiled.options(timeout=50), compiled.options(timeout=0.02)
    held = await hasty.options(timeout=50).execute_async(gate.path)
    for_ever = await hasty.options().execute_async(1)
    with pytest.raises(ExecutionTimeout, match=r"deadline of 0\.01 s"):
        await patient.options(timeout=0.01)(2)
    with pytest.raises(ExecutionTimeout, match=r"deadline of 0\.02 s"):  # itself it stays as it was
        await hasty(3)
    gate.open("in time")
    assert await held == "in time"
    assert await for_ever == 1


def test_a_view_says_of_what_and_which_deadline(compiled):
    view = compiled.options(timeout=0.25)
    assert repr(view) == f"<GraphView of {compiled!r} with a deadline of 0.25 s>"
    assert repr(view.options(timeout=3)) == f"<GraphView of {compiled!r} with a deadline of 3 s>"
    assert repr(view.options()) == f"<GraphView of {compiled!r} with no deadline>"


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "soon", True])
def test_a_bad_deadline(compiled, timeout):
    for graph in (compiled, compiled.options(timeout=1)):
        with pytest.raises(ValueError, match="timeout"):
            graph.options(timeout=timeout)


def test_an_unknown_option(compiled):
    with pytest.raises(TypeError):
        compiled.options(deadline=1)
