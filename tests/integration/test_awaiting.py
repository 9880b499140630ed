"""The future is an asyncio.Future: all that asyncio and anyio do with one works."""

from __future__ import annotations

import asyncio
import sys

import anyio
import pytest
from ray.dag import InputNode

import async_adag
from tests.gate import wait_at
from tests.turns import turns


@pytest.fixture(scope="module")
def holding(workers):
    """Strings are gates to stand at; everything else comes straight back."""
    with InputNode() as x:
        dag = workers[0].hold_or_echo.bind(x)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


@pytest.fixture(scope="module")
def calling(workers):
    with InputNode() as function:
        dag = workers[1].call.bind(function)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


async def test_it_is_a_future_of_the_running_loop(holding):
    future = await holding.execute_async(1)
    assert isinstance(future, asyncio.Future)
    assert future.get_loop() is asyncio.get_running_loop()
    assert await future == 1


async def test_twice(holding):
    future = await holding.execute_async([1])
    assert await future is await future


async def test_out_of_order(holding):
    futures = [await holding.execute_async(n) for n in range(10)]
    for n in (9, 3, 0, 7):
        assert await futures[n] == n
    assert [await future for future in futures] == list(range(10))


async def test_never(holding):
    for n in range(100):
        await holding.execute_async(n)
    assert await holding(1) == 1


async def test_by_several_tasks(holding, gate):
    future = await holding.execute_async(gate.path)

    async def wait():
        return await future

    tasks = [asyncio.create_task(wait()) for _ in range(5)]
    await asyncio.sleep(0)
    gate.open("opened")
    assert await asyncio.gather(*tasks) == ["opened"] * 5


async def test_callbacks(holding):
    future = await holding.execute_async(5)
    called = asyncio.Event()
    future.add_done_callback(lambda done: called.set() if done.result() == 5 else None)
    await called.wait()


async def test_callbacks_run_in_the_order_of_execution(holding):
    order = []
    futures = [await holding.execute_async(n) for n in range(20)]
    for future in futures:
        future.add_done_callback(lambda done: order.append(done.result()))
    await asyncio.gather(*futures)
    assert order == list(range(20))


async def test_gather(holding, calling):
    assert await asyncio.gather(*(holding(n) for n in range(50))) == list(range(50))
    one, error = await asyncio.gather(holding(1), calling(_fail), return_exceptions=True)
    assert one == 1
    assert type(error) is LookupError


def _fail():
    raise LookupError("no")


async def test_wait_for_the_first(holding, gate):
    slow = await holding.execute_async(gate.path)
    other = asyncio.get_running_loop().create_future()
    other.set_result(None)
    done, pending = await asyncio.wait([slow, other], return_when=asyncio.FIRST_COMPLETED)
    assert (done, pending) == ({other}, {slow})
    gate.open("late")
    assert await slow == "late"


async def test_as_completed(holding):
    futures = [await holding.execute_async(n) for n in range(10)]
    assert sorted([await future for future in asyncio.as_completed(futures)]) == list(range(10))


async def test_a_timeout_abandons_the_result_and_not_the_graph(holding, gate):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await holding(gate.path)
    gate.open()
    assert await holding(2) == 2


async def test_a_timeout_that_does_not_fire(holding):
    async with asyncio.timeout(50):
        assert await holding(2) == 2


async def test_wait_for(holding, gate):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(await holding.execute_async(gate.path), 0.01)
    gate.open()
    assert await asyncio.wait_for(holding(3), 50) == 3


async def test_shield_keeps_the_future(holding, gate):
    future = await holding.execute_async(gate.path)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.shield(future)
    gate.open("kept")
    assert await future == "kept"


async def test_cancelling_a_task_cancels_the_future_it_awaits(holding, gate):
    future = await holding.execute_async(gate.path)

    async def wait():
        return await future

    one, two = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    one.cancel()
    results = await asyncio.gather(one, two, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert future.cancelled()
    gate.open()
    assert await holding(1) == 1


async def test_task_group(holding):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(holding(n)) for n in range(20)]
    assert [task.result() for task in tasks] == list(range(20))


async def test_a_task_group_that_fails_cancels_its_other_executions(holding, calling, gate):
    tasks = []

    async def run():
        async with asyncio.TaskGroup() as group:
            tasks.append(group.create_task(holding(gate.path)))
            group.create_task(calling(_fail))

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert tasks[0].cancelled()
    gate.open()
    assert await holding(1) == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_tasks(holding, gate):
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        before = holding.stats().executions
        task = asyncio.create_task(holding(gate.path))
        assert holding.stats().executions == before + 1, "it did not begin at once"
        tasks = [asyncio.create_task(holding(n)) for n in range(20)]
        gate.open("eager")
        assert await task == "eager"
        assert await asyncio.gather(*tasks) == list(range(20))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(holding(n)) for n in range(60)]  # more than fit
        assert [task.result() for task in tasks] == list(range(60))
        assert [result async for result in holding.map(range(60))] == list(range(60))
    finally:
        loop.set_task_factory(None)


async def test_anyio_task_group(holding):
    results = []

    async def run(n):
        results.append(await holding(n))

    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(run, n)
    assert sorted(results) == list(range(20))


async def test_anyio_cancel_scopes(holding, gate):
    with anyio.move_on_after(0.01) as scope:
        await holding(gate.path)
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError), anyio.fail_after(0.01):
        await holding(2)  # behind the gate
    gate.open()
    with anyio.CancelScope(shield=True):
        assert await holding(3) == 3


async def test_an_anyio_scope_that_is_cancelled_leaves_the_graph_alone(holding, make_gate):
    gates = [make_gate() for _ in range(3)]
    async with anyio.create_task_group() as group:
        for gate in gates:
            group.start_soon(holding, gate.path)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    for gate in gates:
        gate.open()
    assert await holding(4) == 4


async def test_an_anyio_scope_ends_a_map(holding, gate):
    results = []
    with anyio.move_on_after(50) as scope:
        async for result in holding.map([1, 2, gate.path, 3]):
            results.append(result)
            if len(results) == 2:
                scope.cancel()
    assert scope.cancelled_caught
    assert results == [1, 2]
    gate.open()
    assert await holding(4) == 4


async def test_the_loop_is_free_meanwhile(calling, gate):
    path = gate.path
    future = asyncio.ensure_future(calling(lambda: wait_at(path)))
    await turns(100)
    assert not future.done()
    gate.open("free")
    assert await future == "free"
