"""Actors shared by graphs, by ordinary calls, and with the driver."""

from __future__ import annotations

import asyncio
from itertools import groupby

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from tests.actors import Worker


async def test_methods_of_two_graphs_on_one_actor_never_overlap(worker):
    with InputNode() as x:
        dag = worker.alone.bind(x)
    async with async_adag.compile(dag) as one, async_adag.compile(dag) as two:
        calls = [graph(n) for n in range(500) for graph in (one, two)]
        results = await asyncio.gather(*calls)
    assert results == [n for n in range(500) for _ in range(2)]
    assert await worker.take_overlaps.remote() == 0


async def test_methods_within_a_graph_never_overlap(workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].alone.bind(x), workers[0].alone.bind(workers[1].echo.bind(x))])
    async with async_adag.compile(dag) as compiled:
        assert await asyncio.gather(*(compiled(n) for n in range(300))) == [[n, n] for n in range(300)]
    assert await workers[0].take_overlaps.remote() == 0


def work(value):
    for _ in range(20_000):
        pass
    return value


async def test_graphs_on_one_actor_take_turns(worker, gate):
    """Both have all their work before they begin, so that nothing but the actor decides who does how much."""
    with InputNode() as x:
        dag = worker.note.bind(worker.call.bind(work, worker.hold_or_echo.bind(x)))
    await worker.take_notes.remote()
    count = 100
    async with (
        async_adag.compile(dag, max_inflight=count) as one,
        async_adag.compile(dag, max_inflight=count) as two,
    ):
        results = [await one.execute_async(gate.path)]
        await asyncio.to_thread(gate.entered)
        for _ in range(1, count):
            results += [await one.execute_async(1), await two.execute_async(2)]
        gate.open()
        await asyncio.gather(*results)
    notes = (await worker.take_notes.remote())[1:]
    turns = len(list(groupby(notes)))
    assert turns > 12, "one graph did its work while the other had to wait"


async def test_a_method_of_one_graph_waits_for_that_of_another(worker, make_gate):
    first, second = make_gate(), make_gate()
    with InputNode() as x:
        dag = worker.hold_or_echo.bind(x)
    async with async_adag.compile(dag) as one, async_adag.compile(dag) as two:
        held = await one.execute_async(first.path)
        first.entered()
        waiting = await two.execute_async(1)
        behind = await one.execute_async(second.path)
        assert await asyncio.gather(*(worker.add.remote(n) for n in range(50))) == list(range(1, 51))
        assert not waiting.done()
        first.open("first")
        assert await held == "first"
        second.open("second")
        assert await asyncio.gather(waiting, behind) == [1, "second"]


async def test_ordinary_calls_run_beside_a_graph(worker, gate):
    with InputNode() as x:
        dag = worker.hold_or_echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        held = await compiled.execute_async(gate.path)
        gate.entered()
        assert await asyncio.gather(*(worker.add.remote(n) for n in range(50))) == list(range(1, 51))
        assert not held.done()
        gate.open("held")
        assert await held == "held"
        assert await worker.echo.remote("after") == "after"


async def test_a_graph_runs_beside_an_ordinary_call(worker, gate):
    with InputNode() as x:
        dag = worker.add.bind(x)
    async with async_adag.compile(dag) as compiled:
        busy = worker.hold.remote(gate.path)
        gate.entered()
        assert await asyncio.gather(*(compiled(n) for n in range(50))) == list(range(1, 51))
        gate.open("busy")
        assert await busy == "busy"


async def test_ordinary_calls_and_executions_see_the_same_actor(worker):
    with InputNode() as x:
        dag = worker.note.bind(x)
    await worker.take_notes.remote()
    async with async_adag.compile(dag) as compiled:
        await compiled(1)
        await worker.note.remote(2)
        await compiled(3)
    assert await worker.take_notes.remote() == [1, 2, 3]


async def test_many_graphs_on_the_same_actors(workers):
    graphs = []
    for n in range(8):
        with InputNode() as x:
            dag = workers[n % 3].add.bind(workers[(n + 1) % 3].add.bind(x, n), n)
        graphs.append(async_adag.compile(dag))
    results = await asyncio.gather(*(graph(k) for graph in graphs for k in range(20)))
    assert results == [k + 2 * n for n in range(8) for k in range(20)]
    for graph in graphs[::2]:
        graph.teardown()
    assert await asyncio.gather(*(graph(0) for graph in graphs[1::2])) == [2 * n for n in range(1, 8, 2)]
    for graph in graphs[1::2]:
        await graph.aclose()


@ray.remote(num_cpus=0)
class Driver:
    """An actor that compiles graphs of its own."""

    def run(self, actor, count):
        with InputNode() as x:
            dag = actor.add.bind(x)
        with async_adag.compile(dag) as compiled:
            return [compiled.execute(n).get() for n in range(count)]

    def add(self, value, amount=1):
        return value + amount

    def run_through_myself(self, other, count):
        me = ray.get_runtime_context().current_actor
        with InputNode() as x:
            dag = me.add.bind(other.add.bind(me.add.bind(x)))
        with async_adag.compile(dag) as compiled:
            refs = [compiled.execute(n) for n in range(count)]
            return [ref.get() for ref in refs]


@ray.remote(num_cpus=0)
class AsyncDriver:
    """An async actor that compiles graphs of its own."""

    async def run(self, actor, count):
        with InputNode() as x:
            dag = actor.add.bind(x)
        async with await async_adag.compile_async(dag) as compiled:
            return [result async for result in compiled.map(range(count))]

    async def add(self, value, amount=1):
        return value + amount

    async def run_through_myself(self, other, count):
        me = ray.get_runtime_context().current_actor
        with InputNode() as x:
            dag = me.add.bind(other.add.bind(me.add.bind(x)))
        async with await async_adag.compile_async(dag) as compiled:
            return list(await asyncio.gather(*(compiled(n) for n in range(count))))

    async def get_through_myself(self):
        me = ray.get_runtime_context().current_actor
        with InputNode() as x:
            dag = me.add.bind(x)
        async with await async_adag.compile_async(dag) as compiled:
            try:
                return repr(compiled.execute(1).get())
            except RuntimeError as error:
                return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("kind", [Driver, AsyncDriver])
def test_the_driver_may_be_an_actor(worker, make_actor, kind):
    driver = make_actor(kind)
    assert ray.get(driver.run.remote(worker, 30)) == list(range(1, 31))
    assert ray.get(driver.run_through_myself.remote(worker, 30)) == list(range(3, 33))


def test_blocking_on_the_loop_on_which_a_node_runs_is_refused(make_actor):
    driver = make_actor(AsyncDriver)
    answer = ray.get(driver.get_through_myself.remote(), timeout=100)
    assert answer.startswith("RuntimeError: ")


def test_a_worker_with_several_threads(make_actor):
    worker = make_actor(Worker, max_concurrency=3)
    with InputNode() as x:
        dag = worker.alone.bind(x)
    with async_adag.compile(dag) as one, async_adag.compile(dag) as two:
        refs = [graph.execute(n) for n in range(16) for graph in (one, two)]
        assert [ref.get() for ref in refs] == [n for n in range(16) for _ in range(2)]
    assert ray.get(worker.take_overlaps.remote()) == 0
