"""Results that are held, dropped, or never looked at: what the driver keeps of them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import ClassVar

import numpy as np
import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag
from tests.turns import until


class Marked:
    """Counts how many of it live in this process."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, number):
        self.number = number
        Marked.alive.add(self)

    def __reduce__(self):
        return Marked, (self.number,)


@pytest.fixture(scope="module")
def compiled(workers):
    with InputNode() as x:
        dag = workers[0].echo.bind(x)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


async def test_results_that_nobody_awaits_are_gone_with_their_futures(compiled):
    for number in range(100):
        await compiled.execute_async(Marked(number))
    await until(lambda: compiled.stats().in_flight == 0)
    await asyncio.sleep(0)
    gc.collect()
    assert len(Marked.alive) == 0


def test_results_that_nobody_gets_are_gone_with_their_refs(compiled):
    for number in range(100):
        compiled.execute(Marked(number))
    assert compiled.execute(1).get() == 1
    gc.collect()
    assert len(Marked.alive) == 0


async def test_futures_that_nobody_awaits_keep_their_results_and_no_place(compiled):
    futures = [await compiled.execute_async(Marked(number)) for number in range(100)]
    assert compiled.stats().executions - compiled.stats().in_flight >= 100 - 32
    await until(lambda: compiled.stats().in_flight == 0)
    assert [future.result().number for future in futures] == list(range(100))
    assert len(Marked.alive) == 100
    del futures
    await asyncio.sleep(0)
    gc.collect()
    assert len(Marked.alive) == 0


async def test_stats_say_what_has_not_arrived_yet(workers, gate):
    with InputNode() as x:
        dag = workers[1].hold_or_echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        futures = [await compiled.execute_async(gate.path)]
        futures += [await compiled.execute_async(number) for number in range(5)]
        assert compiled.stats().in_flight == 6
        del futures
        gc.collect()
        assert compiled.stats().in_flight == 6, "an execution that nobody awaits is still in flight"
        gate.open()
        await until(lambda: compiled.stats().in_flight == 0)


async def test_results_that_arrived_outlive_the_graph_and_go_to_any_task(workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), workers[1].echo.bind(x)])

    async def await_it(future):
        return await future

    compiled = async_adag.compile(dag)
    futures = await compiled.execute_async(np.arange(100_000))
    await asyncio.wait(futures)
    compiled.teardown()
    del compiled
    for _ in range(2):
        arrays = await asyncio.gather(*(asyncio.create_task(await_it(future)) for future in futures))
        assert all(np.array_equal(array, np.arange(100_000)) for array in arrays)
