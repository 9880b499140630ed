"""Compiled and torn down, over and over: every process holds what it held before."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import nullcontext
from types import NoneType

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GraphClosed, GraphError
from tests.belongings import Belongings, take_stock
from tests.threads import in_thread, join_all

ROUNDS = 30
NETWORK = "async_adag driver, network"  # of graphs over several hosts; ends when others have what was sent


@pytest.fixture(scope="module")
def processes(workers, async_worker):
    return [*workers[:2], async_worker]


def dag_of(processes):
    """Two synchronous actors and an asynchronous one; values cross processes and stay within one."""
    first, second, third = processes
    with InputNode() as x:
        start = first.echo.bind(x)
        middle = third.echo.bind(start)
        return MultiOutputNode([second.echo.bind(second.echo.bind(middle)), middle])


def everywhere(processes) -> list[Belongings]:
    return [take_stock(), *ray.get([process.call.remote(take_stock) for process in processes])]


async def check(round_, processes) -> None:
    """Nothing is left by thirty rounds; a second thirty decide, where Ray opened something meanwhile."""
    for _ in range(5):
        await round_()
    for _ in range(2):
        before = everywhere(processes)
        for _ in range(ROUNDS):
            await round_()
        for _ in range(20):  # looks, not seconds: a loop that was abandoned may still be ending
            left = [now.more_than(then) for now, then in zip(everywhere(processes), before, strict=True)]
            if not any(left):
                return
    pytest.fail(f"left behind in the driver and the actors: {left}")


@pytest.mark.one_host(reason="it looks at shared memory")
@pytest.mark.parametrize("traced", [False, True])
def test_who_executes_one_at_a_time_needs_the_memory_of_one(workers, traced):
    """Actors give back what they have read before their results are there: also an actor that returns it."""
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), workers[1].size.bind(x)])
    array = np.arange(100_000)
    with async_adag.compile(dag) as compiled:
        with compiled.trace() if traced else nullcontext():
            for _ in range(20):
                same, _ = compiled.execute(array).get()
                assert np.array_equal(same, array)
                del same
        (writer,) = compiled._engine.deployment.ends.writers.values()
        assert array.nbytes <= writer.backed_bytes() < 2 * array.nbytes


async def test_awaited_and_closed(processes):
    async def round_():
        async with async_adag.compile(dag_of(processes)) as compiled:
            await asyncio.gather(*(compiled(n) for n in range(5)))
            array = np.arange(100_000)
            assert np.array_equal((await compiled(array))[0], array)

    await check(round_, processes)


async def test_the_blocking_side(processes):
    def round_():
        with async_adag.compile(dag_of(processes)) as compiled:
            for n in range(5):
                assert compiled.execute(n).get() == [n, n]

    await check(lambda: asyncio.wrap_future(in_thread(round_)), processes)


async def test_failed_and_cancelled_and_abandoned(processes):
    with InputNode() as x:
        dag = processes[1].echo.bind(processes[0].call.bind(_divide, x))

    async def round_():
        compiled = async_adag.compile(dag, max_inflight=2)
        with pytest.raises(ZeroDivisionError):
            await compiled(0)
        tasks = [asyncio.ensure_future(compiled(n)) for n in (1, 0, 1, 0, 1)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[4].cancel()
        compiled.teardown()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.cancelled() or isinstance(task.exception(), (ZeroDivisionError, GraphClosed, NoneType))

    await check(round_, processes)


def _divide(x):
    return 1 // x


async def test_dropped(processes):
    async def round_():
        compiled = async_adag.compile(dag_of(processes))
        assert await compiled(1) == [1, 1]
        del compiled
        gc.collect()

    await check(round_, processes)


async def test_compiled_in_vain(processes, workers, gate):
    """One actor is busy: what the others were given is taken back."""
    busy = workers[2].hold.remote(gate.path)
    gate.entered()
    dag = workers[2].echo.bind(dag_of(processes).get_args()[0])

    async def round_():
        with pytest.raises(GraphError):
            async_adag.compile(dag, compile_timeout=0.05)

    await check(round_, processes)
    gate.open()
    await busy


def _tear_down(compiled):
    compiled.teardown()


def _leave(compiled):
    compiled.__exit__(None, None, None)


async def _leave_async(compiled):
    await compiled.__aexit__(None, None, None)


async def _fail(compiled):
    await compiled.execute_async(1)
    await compiled.__aexit__(KeyError, KeyError(), None)


async def _close_in_a_trace(compiled):
    async with compiled.trace() as trace:
        assert await compiled(1) == [1, 1]
        compiled.teardown()
    assert "echo" in {event["name"] for event in trace.events}


@pytest.mark.parametrize("end", [_tear_down, _leave, _leave_async, _fail, _close_in_a_trace])
async def test_a_closed_graph_that_is_held_holds_nothing_itself(processes, end):
    before = take_stock().of_graphs()
    compiled = async_adag.compile(dag_of(processes))
    assert await compiled(1) == [1, 1]
    coroutine = end(compiled)
    if coroutine is not None:
        await coroutine
    join_all(NETWORK, seconds=10)
    assert take_stock().of_graphs() - before == Counter()
    assert "closed" in repr(compiled)
    assert sum(node.calls for node in compiled.stats().nodes) >= 4


async def test_an_error_of_compiling_that_is_held_holds_nothing_itself(processes, workers, gate):
    busy = workers[2].hold.remote(gate.path)
    gate.entered()
    before = take_stock().of_graphs()
    with pytest.raises(GraphError) as caught:
        async_adag.compile(workers[2].echo.bind(dag_of(processes).get_args()[0]), compile_timeout=0.05)
    join_all(NETWORK, seconds=10)
    assert take_stock().of_graphs() - before == Counter()
    assert caught.tb is not None
    gate.open()
    await busy


async def test_arrays_that_outlive_their_graph_give_their_memory_back(processes):
    async def round_():
        async with async_adag.compile(dag_of(processes)) as compiled:
            held = [await compiled(np.full(50_000, n)) for n in range(3)]
        assert [int(array[0]) for array, _ in held] == [0, 1, 2]

    await check(round_, processes)


async def test_memory_stays_flat_under_growing_payloads(processes):
    with InputNode() as x:
        dag = processes[0].echo.bind(x)

    def resident() -> int:
        with open("/proc/self/smaps_rollup") as rollup:
            return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))

    async with async_adag.compile(dag, max_inflight=4) as compiled:

        async def grow():
            for size in range(100_000, 4_000_000, 100_000):
                assert len(await compiled(bytes(size))) == size

        await grow()
        before = resident()
        for _ in range(5):
            await grow()
        assert resident() - before < 20_000, "kilobytes"
