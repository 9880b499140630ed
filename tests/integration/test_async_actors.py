"""Nodes of an async actor run on its own event loop, several executions interleaved."""

from __future__ import annotations

import asyncio

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import RemoteError


@pytest.fixture(scope="module")
def meeting(async_worker):
    with InputNode() as names:
        dag = async_worker.meet.bind(names)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


def dag_of(method):
    with InputNode() as x:
        return method.bind(x)


async def test_round_trip(async_worker):
    async with async_adag.compile(dag_of(async_worker.echo)) as compiled:
        assert await asyncio.gather(*(compiled(n) for n in range(100))) == list(range(100))


def test_round_trip_of_the_blocking_side(async_worker):
    with async_adag.compile(dag_of(async_worker.echo)) as compiled:
        assert [compiled.execute(n).get() for n in range(20)] == list(range(20))


async def test_two_executions_that_need_each_other(meeting):
    one = await meeting.execute_async(("one", "two"))
    two = await meeting.execute_async(("two", "one"))
    assert await asyncio.gather(one, two) == ["one", "two"]


async def test_outputs_are_in_order_whichever_ends_first(async_worker):
    order = []
    async with async_adag.compile(dag_of(async_worker.wait)) as compiled:
        futures = [await compiled.execute_async(f"order {n}") for n in range(5)]
        for future in futures:
            future.add_done_callback(lambda done: order.append(done.result()))
        for n in (4, 2, 0, 3, 1):
            await async_worker.set.remote(f"order {n}")
        assert await asyncio.gather(*futures) == [f"order {n}" for n in range(5)]
    assert order == [f"order {n}" for n in range(5)]


async def test_ordinary_calls_run_beside_it(async_worker):
    async with async_adag.compile(dag_of(async_worker.wait)) as compiled:
        future = await compiled.execute_async("beside")
        assert await async_worker.echo.remote(1) == 1
        await async_worker.set.remote("beside")
        assert await future == "beside"


async def test_contexts_do_not_leak(async_worker):
    async with async_adag.compile(dag_of(async_worker.mark)) as compiled:
        assert await asyncio.gather(*(compiled(f"{n}") for n in range(20))) == ["nothing"] * 20
        assert await compiled("later") == "nothing"


async def test_all_methods_run_on_the_actors_own_loop(async_worker):
    ordinary = await async_worker.loop_id.remote()
    with InputNode() as x:
        dag = MultiOutputNode([async_worker.loop_id.bind(x), async_worker.plain_loop_id.bind(x)])
    async with async_adag.compile(dag) as compiled:
        assert await compiled(1) == [ordinary, ordinary]


async def test_errors(async_worker):
    def divide(x):
        return 1 // x

    with InputNode() as x:
        dag = async_worker.call.bind(divide, x)
    async with async_adag.compile(dag) as compiled:
        results = await asyncio.gather(*(compiled(n) for n in (1, 0, 1)), return_exceptions=True)
        assert [type(result) for result in results] == [int, ZeroDivisionError, int]


async def test_a_cancellation_in_the_actor_is_an_error_here(async_worker):
    def cancel():
        asyncio.current_task().cancel()

    def raise_cancelled():
        raise asyncio.CancelledError

    with InputNode() as function:
        dag = async_worker.call.bind(function)
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(RemoteError, match="CancelledError"):
            await compiled(raise_cancelled)
        assert await compiled(int) == 0
        assert await compiled(cancel) is None, "it asks its own task, which ends first"
        assert await compiled(int) == 0


async def test_between_synchronous_actors(workers, async_worker):
    with InputNode() as x:
        dag = workers[1].add.bind(async_worker.echo.bind(workers[0].add.bind(x)))
    async with async_adag.compile(dag, max_inflight=50) as compiled:
        assert await asyncio.gather(*(compiled(n) for n in range(500))) == [n + 2 for n in range(500)]


async def test_several_nodes_of_one_execution(async_worker, workers):
    with InputNode() as x:
        first = async_worker.echo.bind(x)
        away = workers[0].add.bind(first)
        dag = MultiOutputNode([async_worker.call.bind(max, first, away), first])
    async with async_adag.compile(dag) as compiled:
        assert await asyncio.gather(*(compiled(n) for n in range(50))) == [[n + 1, n] for n in range(50)]


async def test_cancelled_executions_run_on_over_there(meeting):
    one = await meeting.execute_async(("left", "right"))
    one.cancel()
    assert await meeting(("right", "left")) == "right"


async def test_executions_interleave_up_to_the_capacity(async_worker):
    async with async_adag.compile(dag_of(async_worker.wait), max_inflight=20) as compiled:
        futures = [await compiled.execute_async(f"full {n}") for n in range(20)]
        await async_worker.set.remote("full 19")  # only helps if all twenty have begun or may begin
        for n in range(19):
            await async_worker.set.remote(f"full {n}")
        assert await asyncio.gather(*futures) == [f"full {n}" for n in range(20)]


async def test_teardown_while_executions_wait_leaves_the_actor_usable(async_worker):
    compiled = async_adag.compile(dag_of(async_worker.wait))
    future = await compiled.execute_async("never")
    compiled.teardown()
    with pytest.raises(async_adag.GraphClosed):
        await future
    assert await async_worker.echo.remote(1) == 1
    async with async_adag.compile(dag_of(async_worker.echo)) as again:
        assert await again(2) == 2


async def test_draining_lets_executions_finish(async_worker):
    compiled = async_adag.compile(dag_of(async_worker.wait))
    futures = [await compiled.execute_async(f"drain {n}") for n in range(3)]
    closing = asyncio.ensure_future(compiled.aclose())
    for n in range(3):
        await async_worker.set.remote(f"drain {n}")
    await closing
    assert [await future for future in futures] == [f"drain {n}" for n in range(3)]


async def test_two_graphs_on_one_async_actor(async_worker):
    first, second = (async_adag.compile(dag_of(async_worker.meet)) for _ in range(2))
    async with first, second:
        results = await asyncio.gather(first(("mine", "yours")), second(("yours", "mine")))
    assert results == ["mine", "yours"]


def test_many_loops_over_the_actors_life(async_worker):
    for n in range(3):
        with async_adag.compile(dag_of(async_worker.echo)) as compiled:
            assert ray.get(compiled.execute(n)) == n
