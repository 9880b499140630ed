"""One running loop at a time, one after another."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest
import ray
import uvloop
from ray.dag import InputNode

import async_adag
from tests.belongings import take_stock
from tests.threads import in_thread
from tests.turns import until

FACTORIES = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(scope="module")
def compiled(workers):
    with InputNode() as x:
        dag = workers[0].hold_or_echo.bind(x)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


def run(coroutine, factory):
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


async def several(compiled):
    return await asyncio.gather(*(compiled(n) for n in range(10)))


def test_one_loop_after_another(compiled):
    for factory in FACTORIES * 3:
        assert run(several(compiled), factory) == list(range(10))


def test_loops_with_blocking_calls_in_between(compiled):
    for factory in FACTORIES * 2:
        assert compiled.execute(5).get() == 5
        assert run(several(compiled), factory) == list(range(10))


def test_loops_come_and_go_while_threads_get(compiled):
    """Threads are served by whoever is there: the loop of the moment, or they themselves between two loops."""
    got = [0, 0, 0]
    over = threading.Event()

    def keep_getting(thread):
        while not over.is_set():
            value = (thread, got[thread])
            assert compiled.execute(value).get() == value
            got[thread] += 1

    threads = [in_thread(keep_getting, thread) for thread in range(len(got))]
    try:
        while min(got) < 100 and not any(thread.done() for thread in threads):
            for factory in FACTORIES:
                assert run(several(compiled), factory) == list(range(10))
    finally:
        over.set()
    for thread in threads:
        thread.result()


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_loop_that_is_closed_with_executions_in_flight(compiled, gate, factory):
    async def leave():
        await compiled.execute_async(gate.path)
        await compiled.execute_async(1)

    run(leave(), factory)
    gate.open()
    assert run(several(compiled), factory) == list(range(10))
    assert compiled.execute(6).get() == 6
    assert compiled.stats().in_flight == 0


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_loop_that_is_closed_with_a_deadline_in_flight(compiled, gate, factory):
    """Its future has a callback, which the closed loop does not take."""

    async def leave():
        await compiled.options(timeout=60).execute_async(gate.path)

    run(leave(), factory)
    gate.open()
    assert compiled.execute(6).get() == 6
    assert compiled.stats().in_flight == 0


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_loop_that_is_closed_with_callers_in_line(workers, gate, factory):
    with InputNode() as x:
        dag = workers[1].hold_or_echo.bind(x)
    with async_adag.compile(dag, max_inflight=1) as compiled:

        async def leave():
            await compiled.execute_async(gate.path)
            waiting = asyncio.ensure_future(compiled(1))
            await asyncio.sleep(0)
            assert not waiting.done()

        run(leave(), factory)
        gate.open()
        assert run(several(compiled), factory) == list(range(10))


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_loop_that_merely_stands_still_gives_way(compiled, factory):
    first, second = factory(), factory()
    try:
        assert first.run_until_complete(several(compiled)) == list(range(10))
        assert second.run_until_complete(several(compiled)) == list(range(10))
        assert first.run_until_complete(several(compiled)) == list(range(10))
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_second_live_loop_is_refused(compiled, factory):
    serving, done = threading.Event(), threading.Event()

    def serve():
        async def main():
            assert await compiled(1) == 1
            serving.set()
            await asyncio.wrap_future(in_thread(done.wait))
            return await compiled(2)

        return run(main(), factory)

    other = in_thread(serve)
    serving.wait()
    try:
        with pytest.raises(RuntimeError, match="event loop"):
            run(compiled(1), factory)
        assert compiled.execute(3).get() == 3, "threads are welcome all the same"
    finally:
        done.set()
    assert other.result() == 2, "the refused loop spoiled it for the first"
    assert run(compiled(4), factory) == 4


def test_without_a_running_loop(compiled):
    coroutine = compiled.execute_async(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_graph_that_is_dropped_while_its_loop_lives(workers, factory):
    """Its descriptors leave the loop before they are closed: the next ones with their numbers work."""
    with InputNode() as x:
        dag = workers[1].echo.bind(x)

    async def main():
        for n in range(5):
            compiled = async_adag.compile(dag)
            assert await compiled(n) == n
            del compiled
            gc.collect()

    run(main(), factory)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_graph_lives_while_a_task_awaits_its_result(workers, gate, factory):
    with InputNode() as x:
        dag = workers[1].hold.bind(x)

    async def main():
        compiled = async_adag.compile(dag)
        future = await compiled.execute_async(gate.path)
        del compiled
        gc.collect()
        gate.open("still there")
        return await future

    assert run(main(), factory) == "still there"


@pytest.mark.parametrize("dropped", ["before the loop is closed", "after that"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_a_graph_that_is_dropped_while_a_closed_loop_has_executions_in_flight(workers, gate, factory, dropped):
    """Nobody can await them any more: they do not keep the graph."""
    before = take_stock().of_graphs()
    with InputNode() as x:
        compiled = async_adag.compile(workers[1].hold.bind(x))
    held, gone = [compiled], weakref.ref(compiled)
    del compiled

    async def leave():
        await held[0].execute_async(gate.path)
        gate.entered()  # an execution that has not begun when its graph is gone never will
        if dropped.startswith("before"):
            held.clear()
            gc.collect()
            assert gone() is not None

    run(leave(), factory)
    held.clear()
    gc.collect()
    assert gone() is None
    for _ in range(100):  # a thread that looks after the line to another host ends in its own time
        left = take_stock().of_graphs() - before
        if not left:
            break
    assert not left
    gate.open()
    assert ray.get(workers[1].echo.remote(1)) == 1


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_graph_lives_while_a_task_of_a_loop_that_stands_still_awaits_its_result(workers, gate, factory):
    """Also when another loop has taken it over."""
    with InputNode() as x:
        compiled = async_adag.compile(workers[1].hold.bind(x))
    gone = weakref.ref(compiled)

    async def begin(compiled):
        return await compiled.execute_async(gate.path)

    async def take_over(compiled):
        with pytest.raises(TypeError, match="pickle"):
            await compiled.execute_async(threading.Lock())
        del compiled

    async def serve():
        gc.collect()
        gate.open("still there")
        await until(lambda: gone() is None)  # nothing is in flight any more

    async def finish(future):
        return await future

    first, second = factory(), factory()
    try:
        future = first.run_until_complete(begin(compiled))
        second.run_until_complete(take_over(compiled))
        del compiled
        second.run_until_complete(serve())
        assert first.run_until_complete(finish(future)) == "still there"
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("factory", FACTORIES)
def test_teardown_from_another_thread(workers, gate, factory):
    with InputNode() as x:
        dag = workers[1].hold_or_echo.bind(x)

    async def main():
        compiled = async_adag.compile(dag)
        assert await compiled(1) == 1
        future = await compiled.execute_async(gate.path)
        gate.entered()
        await asyncio.wrap_future(in_thread(compiled.teardown))
        with pytest.raises(async_adag.GraphClosed):
            await future
        gate.open()

    run(main(), factory)


@pytest.mark.parametrize("factory", FACTORIES)
def test_in_the_debug_mode_of_asyncio(workers, make_gate, factory, caplog):
    """It says nothing, whatever is done: called, cancelled, dropped, iterated, closed."""
    with InputNode() as x:
        dag = workers[1].hold_or_echo.bind(x)
    gates = [make_gate() for _ in range(2)]

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60
        async with await async_adag.compile_async(dag, max_inflight=2) as compiled:
            held = await compiled.execute_async(gates[0].path)
            waiting = asyncio.ensure_future(compiled(1))
            full = asyncio.ensure_future(compiled(2))
            await asyncio.sleep(0)
            full.cancel()
            gates[0].open("held")
            assert await asyncio.gather(held, waiting) == ["held", 1]
            (await compiled.execute_async(gates[1].path)).cancel()
            gates[1].open()
            await compiled.execute_async(3)
            assert [result async for result in compiled.map(range(5))] == list(range(5))
            assert await compiled.options(timeout=50)(6) == 6

    with asyncio.Runner(debug=True, loop_factory=factory) as runner:
        runner.run(main())
    gc.collect()
    assert caplog.records == []
