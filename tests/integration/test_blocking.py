"""The blocking side: execute, and refs that are got."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import warnings

import pytest
import ray
from ray.dag import InputNode
from ray.exceptions import RayChannelTimeoutError

import async_adag
from async_adag import ExecutionTimeout
from tests.threads import in_thread


@pytest.fixture(scope="module")
def dag(workers):
    with InputNode() as x:
        return workers[0].hold_or_echo.bind(x)


@pytest.fixture(scope="module")
def compiled(dag):
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


def test_in_any_order_and_repeatedly(compiled):
    refs = [compiled.execute(n) for n in range(20)]
    for n in (19, 3, 3, 0):
        assert refs[n].get() == n
    assert [ref.get() for ref in refs] == list(range(20))
    assert [ref.get() for ref in refs] == list(range(20))


def test_the_same_object_each_time(compiled):
    ref = compiled.execute([1])
    assert ref.get() is ref.get()


def test_ray_get(compiled):
    refs = [compiled.execute(n) for n in range(5)]
    assert ray.get(refs[2]) == 2
    assert ray.get(refs) == list(range(5))
    assert ray.get(refs[0], timeout=0) == 0


def test_dropped_refs(compiled):
    for n in range(100):
        compiled.execute(n)
    gc.collect()
    assert compiled.execute(1).get() == 1


def test_a_timeout_of_zero_gives_what_has_arrived(compiled, gate):
    held = compiled.execute(gate.path)
    with pytest.raises(ExecutionTimeout):
        held.get(timeout=0)
    after = compiled.execute(1)
    gate.open("held")
    assert after.get() == 1
    assert held.get(timeout=0) == "held"  # it came before the other


def test_a_timeout_consumes_nothing_and_names_the_method(compiled, gate):
    ref = compiled.execute(gate.path)
    gate.entered()
    for timeout in (0, 0.01, 0.02):
        with pytest.raises(ExecutionTimeout, match="hold_or_echo") as caught:
            ref.get(timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, RayChannelTimeoutError)
    gate.open("held")
    assert ref.get() == "held"
    assert ref.get(timeout=0) == "held"


def test_ray_get_times_out_too(compiled, gate):
    ref = compiled.execute(gate.path)
    with pytest.raises(TimeoutError):
        ray.get(ref, timeout=0.01)
    gate.open()
    assert ray.get(ref) == ""


def test_get_timeout_is_what_get_waits_when_told_nothing(dag, gate):
    with async_adag.compile(dag, get_timeout=0.01) as compiled:
        ref = compiled.execute(gate.path)
        with pytest.raises(ExecutionTimeout):
            ref.get()
        gate.open("held")
        assert ref.get(timeout=50) == "held"


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon", True])
def test_a_bad_timeout(compiled, timeout):
    with pytest.raises(ValueError, match="timeout"):
        compiled.execute(1).get(timeout=timeout)


def test_from_several_threads_at_once(compiled):
    def work(begin):
        refs = [compiled.execute(begin + n) for n in range(200)]
        return [ref.get() for ref in refs]

    threads = [in_thread(work, 1000 * n) for n in range(8)]
    for n, thread in enumerate(threads):
        assert thread.result() == list(range(1000 * n, 1000 * n + 200))


def test_one_ref_from_several_threads(compiled, gate):
    ref = compiled.execute(gate.path)
    threads = [in_thread(ref.get) for _ in range(6)]
    gate.open("all")
    assert [thread.result() for thread in threads] == ["all"] * 6


async def test_threads_beside_a_running_loop(compiled):
    def work(begin):
        return [compiled.execute(n).get() for n in range(begin, begin + 200)]

    async def await_some(begin):
        return [await compiled(n) for n in range(begin, begin + 200)]

    threads = [asyncio.wrap_future(in_thread(work, 1000 * n)) for n in range(4)]
    tasks = [await_some(10_000 + 1000 * n) for n in range(4)]
    results = await asyncio.gather(*threads, *tasks)
    begins = [0, 1000, 2000, 3000, 10_000, 11_000, 12_000, 13_000]
    assert results == [list(range(begin, begin + 200)) for begin in begins]


async def test_a_thread_waits_while_the_loop_serves_the_same_graph(compiled, make_gate):
    """The loop is told of every arrival too: it must pass the news on to the thread."""
    for _ in range(50):
        gate = make_gate()
        waiting = in_thread(lambda path=gate.path: compiled.execute(path).get())
        gate.entered()
        later = await compiled.execute_async(1)
        gate.open("opened")
        assert await asyncio.wrap_future(waiting) == "opened"
        assert await later == 1


async def test_a_thread_gets_what_arrives_while_the_loop_stands_still(compiled, make_gate):
    """Whoever is there takes in what arrives, also for the others."""
    mine, theirs = make_gate(), make_gate()
    future = await compiled.execute_async(mine.path)
    thread = in_thread(lambda: compiled.execute(theirs.path).get())
    mine.open("mine")
    theirs.open("theirs")
    assert thread.result() == "theirs"  # the loop cannot run meanwhile
    assert await future == "mine"


async def test_blocking_on_the_loops_thread_works_and_warns_once(dag):
    with async_adag.compile(dag) as compiled:
        ref = compiled.execute(1)
        with pytest.warns(RuntimeWarning, match="execute_async") as caught:
            assert ref.get() == 1
        assert caught[0].filename == __file__, "the warning does not point at the caller's line"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert compiled.execute(2).get() == 2
            assert ray.get(compiled.execute(3)) == 3


async def test_a_get_that_does_not_wait_warns_nobody(dag, gate):
    async with async_adag.compile(dag) as compiled:
        ref = compiled.execute(gate.path)
        with pytest.raises(ExecutionTimeout):
            ref.get(timeout=0)
        gate.open()


async def test_waiting_for_a_place_on_the_loops_thread_warns_too(dag, gate):
    with async_adag.compile(dag, max_inflight=1) as compiled:
        compiled.execute(gate.path)

        def open_once_somebody_waits():
            while not compiled.stats().waiting:
                os.sched_yield()
            gate.open()

        opening = in_thread(open_once_somebody_waits)
        with pytest.warns(RuntimeWarning, match="execute_async"):
            ref = compiled.execute(1)
        assert ref.get() == 1
        opening.result()


def test_no_warning_where_no_loop_runs(dag):
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == 1


async def test_compile_and_teardown_never_warn(dag):
    compiled = async_adag.compile(dag)
    assert await compiled(1) == 1
    compiled.teardown()
    with async_adag.compile(dag) as compiled:
        assert await compiled(1) == 1


def test_a_ref_belongs_to_this_process(compiled):
    ref = compiled.execute(1)
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ValueError, match="GraphRef"):
            take(ref)
    assert ref.get() == 1
    assert "GraphRef" in repr(ref)


def test_a_ref_is_no_object_of_ray(compiled, worker):
    ref = compiled.execute(1)
    with pytest.raises(TypeError, match="GraphRef"):
        ray.wait([ref])
    with pytest.raises(TypeError, match="cannot be used as Ray task/actor argument"):
        worker.echo.remote(ref)
    with pytest.raises(ValueError, match="CompiledDAGRef"):
        ray.get([ref, ray.put(2)])
    assert ref.get() == 1


def test_refs_are_got_between_runs_of_the_loop(compiled):
    futures = []

    async def submit():
        futures.append(await compiled.execute_async(1))

    async def wait():
        return await futures[0]

    with asyncio.Runner() as runner:
        runner.run(submit())
        assert compiled.execute(2).get() == 2
        assert runner.run(wait()) == 1
