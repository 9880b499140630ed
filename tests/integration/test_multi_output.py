"""MultiOutputNode: one future or ref for each output."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import ExecutionTimeout
from tests.gate import wait_at


def fail(x):
    raise LookupError(x)


def hold_and_fail(path):
    wait_at(path)
    raise ZeroDivisionError


@pytest.fixture(scope="module")
def three(workers):
    with InputNode() as x:
        dag = MultiOutputNode([worker.add.bind(x, n) for n, worker in enumerate(workers)])
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


@pytest.fixture(scope="module")
def held_and_failed(workers):
    """The first output stands at a gate, the second fails, the third is fine."""
    with InputNode() as path:
        dag = MultiOutputNode(
            [workers[0].hold.bind(path), workers[1].call.bind(fail, path), workers[2].echo.bind(path)]
        )
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


async def test_a_call_gives_the_list_of_values(three):
    result = await three(1)
    assert result == [1, 2, 3]
    assert type(result) is list


async def test_a_list_of_futures(three):
    futures = await three.execute_async(1)
    assert isinstance(futures, list)
    assert all(isinstance(future, asyncio.Future) for future in futures)
    assert [await future for future in reversed(futures)] == [3, 2, 1]


async def test_the_list_itself_can_be_awaited_and_again(three):
    futures = await three.execute_async(1)
    assert await futures == [1, 2, 3]
    assert await futures == [1, 2, 3]
    assert await asyncio.wait_for(futures, 50) == [1, 2, 3]


async def test_gather_takes_the_futures(three):
    futures = await three.execute_async(1)
    assert await asyncio.gather(*futures) == [1, 2, 3]


async def test_gather_takes_the_lists(three):
    lists = [await three.execute_async(n) for n in range(2)]
    assert await asyncio.gather(*lists) == [[0, 1, 2], [1, 2, 3]]


async def test_the_first_error_wins_and_each_future_has_its_own_outcome(held_and_failed, gate):
    futures = await held_and_failed.execute_async(gate.path)
    with pytest.raises(LookupError, match="gate"):
        await futures  # at once: the first output is still on its way
    held, failed, fine = futures
    assert not held.done()
    assert type(failed.exception()) is LookupError
    assert await fine == gate.path
    gate.open("opened")
    assert await held == "opened"


@pytest.fixture(scope="module")
def both_fail(workers):
    """The second output fails at once, the first when its gate opens."""
    with InputNode() as path:
        dag = MultiOutputNode([workers[0].call.bind(hold_and_fail, path), workers[1].call.bind(fail, path)])
    with async_adag.compile(dag) as compiled:
        yield compiled


async def test_the_first_error_stays_the_first_when_others_follow(both_fail, gate):
    futures = await both_fail.execute_async(gate.path)
    with pytest.raises(LookupError) as first:
        await futures
    gate.open()
    with pytest.raises(ZeroDivisionError):
        await futures[0]
    for _ in range(2):
        with pytest.raises(LookupError) as again:
            await futures
        assert again.value is first.value


def test_the_first_error_of_refs_stays_the_first_when_others_follow(both_fail, gate):
    refs = both_fail.execute(gate.path)
    with pytest.raises(LookupError) as first:
        refs.get()
    gate.open()
    with pytest.raises(ZeroDivisionError):
        refs[0].get()
    for _ in range(2):
        with pytest.raises(LookupError) as again:
            refs.get()
        assert again.value is first.value


async def test_a_failed_call_leaves_the_graph_alone(held_and_failed, make_gate):
    gates = [make_gate(), make_gate()]
    for gate in gates:
        with pytest.raises(LookupError):
            await held_and_failed(gate.path)
        gate.open()


async def test_cancelling_one_future_leaves_the_others(held_and_failed, gate):
    held, failed, fine = await held_and_failed.execute_async(gate.path)
    held.cancel()
    assert await fine == gate.path
    with pytest.raises(LookupError):
        await failed
    gate.open()


async def test_cancelling_the_call_abandons_all_outputs(three):
    task = asyncio.ensure_future(three(1))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await three(2) == [2, 3, 4]


async def test_one_output_is_still_a_list(workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x)])
    async with async_adag.compile(dag) as compiled:
        assert await compiled(1) == [1]
        assert await (await compiled.execute_async(1)) == [1]


async def test_the_same_output_twice(workers):
    with InputNode() as x:
        node = workers[0].echo.bind(x)
        dag = MultiOutputNode([node, workers[0].add.bind(node), node])
    async with async_adag.compile(dag) as compiled:
        assert await compiled(1) == [1, 2, 1]


def test_a_list_of_refs(three):
    refs = three.execute(1)
    assert isinstance(refs, list)
    assert [ref.get() for ref in reversed(refs)] == [3, 2, 1]
    assert refs.get() == [1, 2, 3]
    assert refs.get(timeout=0) == [1, 2, 3]
    assert ray.get(refs) == [1, 2, 3]
    assert ray.get(list(refs)) == [1, 2, 3]


def test_the_first_error_at_once_from_refs_too(held_and_failed, gate):
    refs = held_and_failed.execute(gate.path)
    with pytest.raises(LookupError):
        refs.get()  # at once: the first output is still on its way
    held, _, fine = refs
    assert fine.get() == gate.path
    with pytest.raises(ExecutionTimeout):
        held.get(timeout=0)
    gate.open("opened")
    assert held.get() == "opened"
    with pytest.raises(LookupError):
        refs.get()


def test_a_list_of_refs_times_out_and_consumes_nothing(workers, gate):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].hold.bind(x), workers[1].echo.bind(x)])
    with async_adag.compile(dag) as compiled:
        refs = compiled.execute(gate.path)
        for timeout in (0, 0.01):
            with pytest.raises(ExecutionTimeout):
                refs.get(timeout=timeout)
        gate.open("opened")
        assert refs.get() == ["opened", gate.path]


async def test_two_outputs_of_one_node(workers):
    with InputNode() as x:
        left, right = workers[0].split.bind(x)
        dag = MultiOutputNode([left, workers[1].echo.bind(right)])
    async with async_adag.compile(dag) as compiled:
        assert await compiled(3) == [3, -3]
