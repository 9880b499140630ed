"""A thousand cancellations, of everything that can be cancelled, and every other result is right."""

from __future__ import annotations

import asyncio
import random

import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag

CANCELLATIONS = 1000


@pytest.fixture(scope="module")
def chain(workers):
    with InputNode() as x:
        dag = workers[1].add.bind(workers[0].add.bind(x))
    compiled = async_adag.compile(dag, max_inflight=8)
    yield compiled
    compiled.teardown()


async def after(turns: int, task: asyncio.Future) -> bool:
    for _ in range(turns):
        await asyncio.sleep(0)
    return task.cancel()


async def test_of_calls(chain):
    """Calls are cancelled while they wait for a place, and while they wait for their result."""
    chance = random.Random(1)
    cancelled = number = 0
    while cancelled < CANCELLATIONS:
        tasks = {number + n: asyncio.ensure_future(chain(number + n)) for n in range(40)}
        victims = chance.sample(sorted(tasks), 25)
        await asyncio.gather(*(after(chance.randrange(12), tasks[victim]) for victim in victims))
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for n, result in zip(tasks, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                assert n in victims
                cancelled += 1
            else:
                assert result == n + 2
        number += 40
    assert await chain(0) == 2
    assert (chain.stats().in_flight, chain.stats().waiting) == (0, 0)


async def test_of_admissions(chain):
    chance = random.Random(2)
    cancelled = number = 0
    before = chain.stats().executions
    while cancelled < CANCELLATIONS:
        numbers = range(number, number + 40)
        tasks = [asyncio.ensure_future(chain.execute_async(n)) for n in numbers]
        victims = chance.sample(tasks, 30)
        await asyncio.gather(*(after(chance.randrange(6), victim) for victim in victims))
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for n, future in zip(numbers, done, strict=True):
            if isinstance(future, asyncio.CancelledError):
                cancelled += 1
            else:
                assert await future == n + 2
        number += 40
    assert chain.stats().executions == before + number - cancelled, "a cancelled wait admitted something"
    assert await chain(0) == 2
    assert (chain.stats().in_flight, chain.stats().waiting) == (0, 0)


async def test_of_futures(chain):
    chance = random.Random(3)
    cancelled = number = 0
    while cancelled < CANCELLATIONS:
        futures = {n: await chain.execute_async(n) for n in range(number, number + 20)}
        for n in chance.sample(sorted(futures), 10):
            cancelled += futures[n].cancel()
        for n, future in futures.items():
            if not future.cancelled():
                assert await future == n + 2
        number += 20
    assert await chain(0) == 2
    assert chain.stats().in_flight == 0


async def test_of_some_outputs_and_not_of_others(workers):
    with InputNode() as x:
        dag = MultiOutputNode([worker.add.bind(x, n) for n, worker in enumerate(workers)])
    chance = random.Random(4)
    async with async_adag.compile(dag) as compiled:
        for number in range(200):
            futures = await compiled.execute_async(number)
            victim = chance.randrange(3)
            futures[victim].cancel()
            for n, future in enumerate(futures):
                if not future.cancelled():
                    assert await future == number + n
        assert await compiled(0) == [0, 1, 2]
        assert compiled.stats().in_flight == 0


async def test_of_anything_at_random_in_ten_thousand_executions(workers):
    """Admissions, calls, and one output of several; every other result is right."""
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].add.bind(x, 1), workers[1].add.bind(x, 2)])
    chance = random.Random(5)
    cancelled = []

    async def call(number):
        assert await compiled(number) == [number + 1, number + 2]

    async def submit(number):
        futures = await compiled.execute_async(number)
        victim = chance.choice([0, 1, None])
        if victim is not None:
            cancelled.append(futures[victim].cancel())
        for place, future in enumerate(futures):
            if place != victim:
                assert await future == number + 1 + place

    async with async_adag.compile(dag, max_inflight=8) as compiled:
        number = 0
        while compiled.stats().executions < 10_000:
            tasks = []
            for _ in range(250):
                tasks.append(asyncio.ensure_future(chance.choice([call, submit])(number)))
                number += 1
            victims = chance.sample(tasks, 50)
            await asyncio.gather(*(after(chance.randrange(40), victim) for victim in victims))
            for task, result in zip(tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
                assert result is None or (task in victims and isinstance(result, asyncio.CancelledError))
                cancelled.append(result is not None)
        assert sum(cancelled) > 3000
        assert await compiled(0) == [1, 2]
        assert (compiled.stats().in_flight, compiled.stats().waiting) == (0, 0)


async def test_it_is_never_swallowed(chain, workers, gate):
    """A task that is cancelled at every point of a call ends as cancelled."""
    with InputNode() as x:
        dag = workers[2].hold_or_echo.bind(x)
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        await compiled.execute_async(gate.path)
        for turns in range(20):
            task = asyncio.ensure_future(compiled(turns))
            assert await after(turns, task)
            await asyncio.wait([task])
            assert task.cancelled()
        gate.open()
        assert await compiled(5) == 5


async def test_of_a_call_whose_result_has_just_arrived(chain):
    """Either outcome is right; the graph goes on with both."""
    for _ in range(100):
        task = asyncio.ensure_future(chain(1))
        future = await chain.execute_async(2)
        future.add_done_callback(lambda _, task=task: task.cancel())
        assert await future == 4
        await asyncio.wait([task])
        assert task.cancelled() or task.result() == 3
    assert await chain(0) == 2
