"""Closing: drain or abandon, again and again; what was there stays readable."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import weakref

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import ExecutionTimeout, GraphClosed
from tests.threads import in_thread
from tests.turns import turns, until


@pytest.fixture
def dag(workers):
    """Strings are gates to stand at; everything else comes straight back."""
    with InputNode() as x:
        return workers[1].echo.bind(workers[0].hold_or_echo.bind(x))


async def test_aclose_drains(dag, make_gate):
    gates = [make_gate() for _ in range(3)]
    compiled = async_adag.compile(dag)
    futures = [await compiled.execute_async(gate.path) for gate in gates]
    closing = asyncio.ensure_future(compiled.aclose())
    await turns()
    assert not closing.done()
    for gate in gates:
        gate.open(gate.path)
    await closing
    assert [future.result() for future in futures] == [gate.path for gate in gates]


async def test_a_clean_exit_drains(dag, gate):
    async with async_adag.compile(dag) as compiled:
        future = await compiled.execute_async(gate.path)
        in_thread(gate.open, "drained")
    assert future.result() == "drained"


def test_a_clean_exit_drains_on_the_blocking_side_too(dag, gate):
    with async_adag.compile(dag) as compiled:
        ref = compiled.execute(gate.path)
        in_thread(gate.open, "drained")
    assert ref.get(timeout=0) == "drained"


async def test_an_exit_with_an_exception_abandons(dag, gate):
    futures = []

    async def leave():
        async with async_adag.compile(dag) as compiled:
            futures.append(await compiled.execute_async(gate.path))
            gate.entered()
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await leave()
    with pytest.raises(GraphClosed):
        await futures[0]
    gate.open()


def test_an_exit_with_an_exception_abandons_on_the_blocking_side_too(dag, gate):
    refs = []

    def leave():
        with async_adag.compile(dag) as compiled:
            refs.append(compiled.execute(gate.path))
            gate.entered()
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        leave()
    with pytest.raises(GraphClosed):
        refs[0].get()
    gate.open()


async def test_teardown_abandons_and_keeps_what_has_arrived(dag, gate):
    compiled = async_adag.compile(dag)
    early = [await compiled.execute_async(n) for n in range(3)]
    early_refs = [compiled.execute(n) for n in range(3)]
    late = await compiled.execute_async(gate.path)
    late_ref = compiled.execute(5)
    gate.entered()
    await until(lambda: compiled.stats().in_flight == 2)
    compiled.teardown()
    assert [await future for future in early] == [0, 1, 2]
    assert [ref.get() for ref in early_refs] == [0, 1, 2]
    with pytest.raises(GraphClosed):
        await late
    for _ in range(2):
        with pytest.raises(GraphClosed):
            late_ref.get()
    gate.open()


def test_teardown_takes_in_what_nobody_has_looked_at(workers):
    """The result was written before the teardown; nobody waited for it."""
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), workers[0].note.bind(x)])
    compiled = async_adag.compile(dag)
    first = compiled.execute("first")
    compiled.execute("second").get()
    compiled.teardown()
    assert first.get(timeout=0) == ["first", "first"]


async def test_teardown_is_idempotent(dag):
    compiled = async_adag.compile(dag)
    assert await compiled(1) == 1
    for _ in range(2):
        compiled.teardown()
        await compiled.aclose()
    with pytest.raises(GraphClosed):
        await compiled(1)


async def test_every_way_to_close_what_is_closed(dag):
    async with async_adag.compile(dag) as compiled:
        compiled.teardown()
    with async_adag.compile(dag) as compiled:
        compiled.teardown()
    async with async_adag.compile(dag) as compiled:
        await compiled.aclose()
    compiled.teardown()
    await asyncio.gather(compiled.aclose(), compiled.aclose())


async def test_two_tasks_close_at_once(dag, gate):
    compiled = async_adag.compile(dag)
    future = await compiled.execute_async(gate.path)
    closing = [asyncio.ensure_future(compiled.aclose()) for _ in range(2)]
    await turns()
    gate.open("both")
    await asyncio.gather(*closing)
    assert await future == "both"


def test_several_threads_close_at_once(dag):
    compiled = async_adag.compile(dag)
    ref = compiled.execute(1)
    for closing in [in_thread(compiled.teardown) for _ in range(4)]:
        closing.result()
    try:
        assert ref.get() == 1
    except GraphClosed:
        pass
    with pytest.raises(GraphClosed):
        compiled.execute(1)


async def test_use_after_teardown(dag):
    compiled = async_adag.compile(dag)
    compiled.teardown()
    for call in (compiled, compiled.execute_async, compiled.options(timeout=5)):
        with pytest.raises(GraphClosed) as caught:
            await call(1)
        assert isinstance(caught.value, RuntimeError)
    with pytest.raises(GraphClosed):
        compiled.execute(1)
    with pytest.raises(GraphClosed):
        async with compiled:
            pass
    with pytest.raises(GraphClosed), compiled:
        pass
    assert "closed" in repr(compiled)
    assert compiled.stats().executions == 0


async def test_recompiling_on_the_same_actors(dag):
    for n in range(10):
        async with async_adag.compile(dag) as compiled:
            assert await asyncio.gather(*(compiled(n + k) for k in range(10))) == list(range(n, n + 10))


async def test_recompiling_other_dags_on_the_same_actors(workers):
    for n in range(6):
        with InputNode() as x:
            node = x
            for k in range(n + 1):
                node = workers[(n + k) % 3].add.bind(node)
        async with async_adag.compile(node) as compiled:
            assert await compiled(0) == n + 1


async def test_recompiling_while_an_abandoned_method_still_runs(workers, gate):
    """An actor gives its share back when its method returns, and a new graph's nodes wait for that."""
    with InputNode() as x:
        dag = workers[0].hold_or_echo.bind(x)
    compiled = async_adag.compile(dag)
    await compiled.execute_async(gate.path)
    gate.entered()
    compiled.teardown()
    async with async_adag.compile(dag) as again:
        future = await again.execute_async(1)
        gate.open()
        assert await future == 1


async def test_cancelling_aclose_abandons(dag, gate):
    compiled = async_adag.compile(dag)
    future = await compiled.execute_async(gate.path)
    gate.entered()
    closing = asyncio.ensure_future(compiled.aclose())
    await turns()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(GraphClosed):
        await future
    gate.open()
    async with async_adag.compile(dag) as again:
        assert await again(1) == 1


@pytest.mark.parametrize("outputs", ["a result", "the input"])
def test_draining_waits_for_room_for_the_last_word(workers, gate, outputs):
    """Every output has arrived, but a slow leaf has not yet taken its input: the channel to it is full."""
    with InputNode() as x:
        workers[1].hold_or_echo.bind(x[1])
        dag = MultiOutputNode([workers[0].echo.bind(x[0]) if outputs == "a result" else x[0]])
    opener = threading.Thread(target=gate.open, daemon=True)
    with async_adag.compile(dag, max_inflight=2) as compiled:
        # The leaf takes the first and stands at the gate; the next two fill its channel.
        refs = [compiled.execute(number, path) for number, path in enumerate([gate.path, 0, 0])]
        assert [ref.get() for ref in refs] == [[0], [1], [2]]
        opener.start()
    opener.join()


async def test_draining_runs_leaves_to_their_end(workers, gate):
    with InputNode() as x:
        workers[0].note.bind(workers[0].hold_or_echo.bind(x))
        dag = workers[1].echo.bind(x)
    await workers[0].take_notes.remote()
    async with async_adag.compile(dag) as compiled:
        assert await compiled(gate.path) == gate.path
        assert await compiled(1) == 1
        assert compiled.stats().in_flight == 0
        in_thread(gate.open, "leaf")
    assert await workers[0].take_notes.remote() == ["leaf", 1]


def test_a_graph_that_is_dropped_frees_its_actors(workers):
    with InputNode() as x:
        dag = workers[2].echo.bind(x)
    for n in range(3):
        compiled = async_adag.compile(dag)
        assert compiled.execute(n).get() == n
        del compiled
        gc.collect()
    for _ in range(200):  # each look is a call, which gives the loops time to end
        threads = ray.get(workers[2].threads.remote())
        if not any("async_adag" in name for name in threads):
            break
    else:
        pytest.fail(f"still running: {threads}")


@pytest.mark.parametrize("held", [True, False])
async def test_a_graph_that_is_dropped_with_executions_in_flight_frees_its_actors(workers, gate, held):
    """It lives until they have arrived, whether or not somebody still holds their futures."""
    with InputNode() as x:
        dag = workers[2].hold.bind(x)
    future = await async_adag.compile(dag).execute_async(gate.path)
    gate.entered()
    gc.collect()
    assert any("async_adag" in name for name in await workers[2].threads.remote())
    if held:
        gate.open("late")
        assert await future == "late"
    else:
        del future
        gc.collect()
        gate.open()
    for _ in range(200):
        if not any("async_adag" in name for name in await workers[2].threads.remote()):
            break
    else:
        pytest.fail("its loop is still running")


def test_a_graph_that_is_dropped_with_refs_in_flight_frees_its_actors(workers, gate):
    """Nobody can get them any more: they are abandoned."""
    with InputNode() as x:
        dag = workers[2].hold_or_echo.bind(x)
    refs = [async_adag.compile(dag).execute(gate.path)]
    gate.entered()
    gc.collect()
    gone = weakref.ref(refs[0]._owner)
    refs.clear()
    gc.collect()
    assert gone() is None
    gate.open()
    with async_adag.compile(dag) as again:
        assert again.execute(2).get() == 2


def test_a_graph_whose_refs_missed_their_deadline_is_let_go_of(workers, gate):
    """What `get` raised holds the frames that it went through, and those hold the graph."""

    def miss(compiled):
        ref = compiled.options(timeout=0.01).execute(gate.path)
        gate.entered()
        with pytest.raises(ExecutionTimeout):
            ref.get()
        return weakref.ref(compiled)

    with InputNode() as x:
        dag = workers[2].hold_or_echo.bind(x)
    gone = miss(async_adag.compile(dag))
    gc.collect()
    assert gone() is None
    gate.open()


def test_a_ref_keeps_a_dropped_graph_until_it_is_got(dag):
    ref = async_adag.compile(dag).execute(1)
    gc.collect()
    assert ref.get() == 1


def test_a_graph_cannot_be_pickled(dag):
    with async_adag.compile(dag) as compiled, pytest.raises(TypeError, match="pickled"):
        pickle.dumps(compiled)
