"""compiled.map: many executions, a window of them under way."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GraphClosed
from tests.gate import wait_at
from tests.turns import turns, until


@pytest.fixture(scope="module")
def compiled(workers):
    """Strings are gates to stand at; everything else comes straight back."""
    with InputNode() as x:
        dag = workers[0].hold_or_echo.bind(x)
    compiled = async_adag.compile(dag, max_inflight=16)
    yield compiled
    compiled.teardown()


@pytest.fixture(scope="module")
def dividing(workers):
    with InputNode() as x:
        dag = workers[1].call.bind(divide, x)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


def divide(x):
    return 10 // x


class Source:
    """A plain iterator that knows how much of it was taken."""

    def __init__(self, items):
        self.items = iter(items)
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self.items)
        self.taken += 1
        return item


class AsyncSource:
    """An async generator's worth of items, which knows whether it was closed."""

    def __init__(self, items):
        self.items = items
        self.taken = 0
        self.closed = False

    async def __aiter__(self):
        try:
            for item in self.items:
                self.taken += 1
                yield item
        finally:
            self.closed = True


class Unpicklable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


async def listed(results):
    return [result async for result in results]


async def until_error(results):
    """The results before the first error, and the error."""
    found = []
    try:
        async for result in results:
            found += [result]
    except (Exception, asyncio.CancelledError) as error:
        return found, error
    return found, None


async def test_a_plain_iterable(compiled):
    assert await listed(compiled.map(range(500))) == list(range(500))


async def test_an_async_iterable(compiled):
    assert await listed(compiled.map(AsyncSource(range(500)))) == list(range(500))


async def test_no_items(compiled):
    assert await listed(compiled.map([])) == []
    assert await listed(compiled.map(AsyncSource([]))) == []


@pytest.mark.parametrize("window", [1, 2, 7, 100])
@pytest.mark.parametrize("source", [Source, AsyncSource])
async def test_the_window_bounds_what_is_taken_and_not_yielded(compiled, window, source):
    items = source(range(50))
    yielded = 0
    async for _ in compiled.map(items, window=window):
        yielded += 1
        # What has just been yielded is no longer in the window.
        assert items.taken - yielded <= window
    assert yielded == 50


async def test_the_window_is_used(compiled, gate):
    items = Source([gate.path, *range(100)])
    results = compiled.map(items, window=5)
    first = asyncio.ensure_future(anext(results))
    await until(lambda: items.taken == 5)
    gate.open("first")
    assert await first == "first"
    assert await listed(results) == list(range(100))


async def test_the_window_is_max_inflight_by_default(compiled, gate):
    items = Source([gate.path, *range(100)])
    results = compiled.map(items)
    first = asyncio.ensure_future(anext(results))
    await until(lambda: items.taken >= 16)
    await turns()
    assert items.taken == 16
    gate.open("first")
    assert await first == "first"
    await results.aclose()


async def test_unordered_gives_what_is_there_first(compiled, gate):
    """Executions complete in order; an item that cannot be sent is done at once."""
    with pytest.raises(TypeError, match="pickle"):
        await anext(compiled.map([gate.path, threading.Lock()], ordered=False))
    gate.open()
    assert await compiled(1) == 1


async def test_unordered_yields_all(compiled):
    assert sorted(await listed(compiled.map(range(300), ordered=False))) == list(range(300))
    assert sorted(await listed(compiled.map(AsyncSource(range(300)), ordered=False))) == list(range(300))


async def test_a_slow_source_yields_results_as_they_come(compiled):
    """Each item is asked for only after the result of the one before it was yielded."""
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def source():
        while (item := await queue.get()) >= 0:
            yield item

    results = compiled.map(source())
    for n in range(10):
        queue.put_nowait(n)
        assert await anext(results) == n
    queue.put_nowait(-1)
    assert await listed(results) == []


async def test_two_items_at_once_from_a_slow_source(compiled, gate):
    """The source is asked for more while results are awaited."""
    asked = []

    async def source():
        for item in (gate.path, 1, 2):
            asked.append(item)
            yield item
        gate.open("all were asked for")

    assert await listed(compiled.map(source())) == ["all were asked for", 1, 2]
    assert asked == [gate.path, 1, 2]


async def test_the_first_error_comes_in_its_place_and_ends_it(dividing):
    results, error = await until_error(dividing.map([1, 2, 5, 0, 1, 0, 3]))
    assert results == [10, 5, 2]
    assert type(error) is ZeroDivisionError
    assert await dividing(1) == 10
    assert dividing.stats().in_flight == 0


async def test_an_error_of_the_source_comes_in_its_place(dividing):
    def plain():
        yield 1
        yield 2
        raise LookupError("no more")

    async def asynchronous():
        for item in plain():
            yield item

    for source in (plain, asynchronous):
        results, error = await until_error(dividing.map(source()))
        assert results == [10, 5]
        assert type(error) is LookupError


async def test_an_item_that_cannot_be_pickled_comes_in_its_place(compiled):
    results, error = await until_error(compiled.map([1, 2, threading.Lock(), 3]))
    assert results == [1, 2]
    assert type(error) is TypeError
    assert await compiled(4) == 4


@pytest.mark.parametrize("source", [Source, AsyncSource])
async def test_stop_iteration_of_pickling_comes_in_its_place_as_a_runtime_error(compiled, source):
    stop = StopIteration("over")
    results, error = await until_error(compiled.map(source([1, 2, Unpicklable(stop), 3])))
    assert results == [1, 2]
    assert type(error) is RuntimeError
    assert error.__cause__ is stop
    for call in (compiled, compiled.execute_async):
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await call(Unpicklable(stop))
        assert caught.value.__cause__ is stop
    assert await compiled(4) == 4


@pytest.mark.parametrize("source", [Source, AsyncSource])
async def test_a_cancellation_that_pickling_raises_comes_in_its_place(compiled, source):
    cancelled = asyncio.CancelledError("of pickling")
    results, error = await until_error(compiled.map(source([1, 2, Unpicklable(cancelled), 3])))
    assert results == [1, 2]
    assert error is cancelled
    assert await compiled(4) == 4


class Cancelled(AsyncSource):
    """Raises a cancellation of its own after the items."""

    def __init__(self, items):
        super().__init__(items)
        self.over = asyncio.Event()

    async def __aiter__(self):
        try:
            for item in self.items:
                yield item
            raise asyncio.CancelledError("of the source")
        finally:
            self.over.set()


async def test_a_cancellation_of_the_source_comes_in_its_place(compiled, gate):
    source = Cancelled([gate.path, 1, 2])
    task = asyncio.ensure_future(until_error(compiled.map(source)))
    await source.over.wait()
    await turns()  # by now map knows of it, and has no result yet
    assert not task.done()
    gate.open("first")
    results, error = await task
    assert results == ["first", 1, 2]
    assert type(error) is asyncio.CancelledError
    assert error.args == ("of the source",)
    assert await compiled(3) == 3


async def test_closing_after_a_cancellation_of_the_source(compiled):
    source = Cancelled([1])
    results = compiled.map(source)
    assert await anext(results) == 1
    await source.over.wait()
    await turns()
    await results.aclose()
    assert await listed(results) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await compiled(2) == 2


async def test_what_is_no_iterable(compiled):
    with pytest.raises(TypeError, match="iter"):
        await listed(compiled.map(5))


@pytest.mark.parametrize("source", [Source, AsyncSource])
async def test_breaking_out_early_leaves_nothing_behind(compiled, source):
    items = source(range(1000))
    results = compiled.map(items, window=10)
    async for result in results:
        if result == 5:
            break
    await results.aclose()
    assert items.taken <= 16
    if source is AsyncSource:
        assert items.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await compiled(1) == 1
    assert (compiled.stats().in_flight, compiled.stats().waiting) == (0, 0)


async def test_breaking_out_while_it_waits_for_a_place(workers, gate):
    with InputNode() as x:
        dag = workers[2].hold_or_echo.bind(x)
    async with async_adag.compile(dag, max_inflight=2) as compiled:
        held = await compiled.execute_async(gate.path)
        results = compiled.map(range(100), window=10)
        first = asyncio.ensure_future(anext(results))
        await until(lambda: compiled.stats().waiting)
        first.cancel()
        await asyncio.wait([first])
        await results.aclose()
        assert compiled.stats().waiting == 0
        gate.open("held")
        assert await held == "held"
        assert await compiled(1) == 1
        assert compiled.stats().in_flight == 0


async def test_breaking_out_before_a_failure_is_seen_logs_nothing(workers, caplog):
    with InputNode() as x:
        dag = MultiOutputNode([workers[1].call.bind(divide, x), workers[1].echo.bind(x)])
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with async_adag.compile(dag) as compiled:
        results = compiled.map([1, 0, 0, 0])
        assert await anext(results) == [10, 1]
        assert await compiled(2) == [5, 2]  # by now the failures have arrived
        await asyncio.sleep(0)
        await results.aclose()
        del results
        gc.collect()
        await asyncio.sleep(0)
    assert complaints == []
    assert caplog.records == []


async def test_cancelling_a_task_that_iterates(compiled, gate):
    before = compiled.stats().executions

    async def iterate():
        async for _ in compiled.map([1, gate.path]):
            pass

    task = asyncio.ensure_future(iterate())
    await until(lambda: compiled.stats().executions == before + 2)
    gate.entered()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    assert await compiled(1) == 1


async def test_cancelling_a_task_that_iterates_after_a_cancellation_of_the_source(compiled, gate):
    source = Cancelled([gate.path])
    task = asyncio.ensure_future(listed(compiled.map(source)))
    await source.over.wait()
    await turns()
    assert not task.done()
    task.cancel("of the task")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("of the task",)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gate.open()
    assert await compiled(1) == 1


async def test_cancelling_a_task_that_waits_for_the_source(compiled):
    waits, closed = asyncio.Event(), asyncio.Event()

    async def source():
        yield 1
        waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    task = asyncio.ensure_future(listed(compiled.map(source())))
    await waits.wait()
    task.cancel("of the task")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("of the task",)
    assert closed.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await compiled(2) == 2


async def test_it_waits_for_a_place_among_others(workers):
    with InputNode() as x:
        dag = workers[2].echo.bind(x)
    async with async_adag.compile(dag, max_inflight=3) as compiled:
        maps = [listed(compiled.map(range(n, n + 50), window=10)) for n in (0, 100, 200)]
        calls = [compiled(n) for n in range(300, 350)]
        results = await asyncio.gather(*maps, *calls)
    assert results == [*(list(range(n, n + 50)) for n in (0, 100, 200)), *range(300, 350)]


async def test_of_a_graph_with_several_outputs(workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), workers[1].add.bind(x)])
    async with async_adag.compile(dag) as compiled:
        assert await listed(compiled.map(range(50))) == [[n, n + 1] for n in range(50)]


async def test_of_a_graph_that_takes_other_arguments(workers):
    with InputNode() as x:
        dag = workers[0].join.bind(x[0], x[1])
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(TypeError, match="2 positional"):
            await listed(compiled.map([(1, 2)]))


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_of_a_graph_that_is_torn_down_while_its_node_hangs(workers, async_worker, gate, kind):
    actor = workers[2] if kind == "sync" else async_worker
    with InputNode() as x:
        dag = actor.call.bind(wait_or_echo, x)
    compiled = async_adag.compile(dag)
    results = compiled.map([1, gate.path, 2])
    assert await anext(results) == 1
    await until(lambda: compiled.stats().executions == 3)
    second = asyncio.ensure_future(anext(results))
    await asyncio.to_thread(gate.entered)
    compiled.teardown()
    with pytest.raises(GraphClosed, match="execution 1"):
        await second
    assert await listed(results) == []
    gate.open()


def wait_or_echo(value):
    return wait_at(value) if isinstance(value, str) else value


async def test_of_a_graph_that_was_closed(workers):
    with InputNode() as x:
        dag = workers[0].echo.bind(x)
    compiled = async_adag.compile(dag)
    compiled.teardown()
    with pytest.raises(GraphClosed):
        await listed(compiled.map([1]))


@pytest.mark.parametrize("window", [0, -1, 1.5, "wide", True])
async def test_a_bad_window(compiled, window):
    with pytest.raises(ValueError, match="window"):
        compiled.map([1], window=window)
