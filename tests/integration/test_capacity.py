"""A full graph is waited for, in order of arrival."""

from __future__ import annotations

import asyncio
import threading

import pytest
from ray.dag import InputNode, MultiOutputNode
from ray.exceptions import RayCgraphCapacityExceeded

import async_adag
from async_adag import CapacityExceeded, GraphClosed
from tests.threads import in_thread
from tests.turns import turns


@pytest.fixture
def dag(workers):
    with InputNode() as x:
        return workers[0].hold_or_echo.bind(x)


def start(coroutines):
    return [asyncio.ensure_future(coroutine) for coroutine in coroutines]


async def test_ten_executions_fit_by_default(dag, gate):
    async with async_adag.compile(dag) as compiled:
        futures = [await compiled.execute_async(gate.path)]
        futures += [await compiled.execute_async(n) for n in range(9)]
        assert compiled.stats().in_flight == 10
        gate.open()
        assert await asyncio.gather(*futures[1:]) == list(range(9))


async def test_a_full_graph_makes_callers_wait(dag, gate):
    async with async_adag.compile(dag, max_inflight=2) as compiled:
        await compiled.execute_async(gate.path)
        await compiled.execute_async(1)
        waiting = asyncio.ensure_future(compiled.execute_async(2))
        await turns()
        assert not waiting.done()
        assert compiled.stats().in_flight == 2
        assert compiled.stats().executions == 2
        gate.open()
        assert await (await waiting) == 2


async def test_waiters_are_admitted_in_the_order_of_arrival(workers, make_gate):
    with InputNode() as x:
        dag = workers[1].note.bind(workers[0].hold_or_echo.bind(x))
    gates = [make_gate() for _ in range(2)]
    async with async_adag.compile(dag, max_inflight=2) as compiled:
        held = [await compiled.execute_async(gate.path) for gate in gates]
        waiting = start(compiled(n) for n in range(30))
        await turns()
        late = None
        for gate in gates:
            gate.open("gate")
            late = late or asyncio.ensure_future(compiled(-1))
        assert await asyncio.gather(*held) == ["gate", "gate"]
        assert await asyncio.gather(*waiting) == list(range(30))
        assert await late == -1
    assert await workers[1].take_notes.remote() == ["gate", "gate", *range(30), -1]


async def test_nobody_slips_in_between_a_grant_and_its_waiter(workers, gate):
    with InputNode() as x:
        dag = workers[1].note.bind(workers[0].hold_or_echo.bind(x))
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        held = await compiled.execute_async(gate.path)
        first = asyncio.ensure_future(compiled(1))
        await turns()
        # The callback runs in the turn in which the place comes free, before the waiter does.
        jumped = []
        held.add_done_callback(lambda _: jumped.append(asyncio.ensure_future(compiled(2))))
        gate.open("0")
        await first
        await jumped[0]
    assert await workers[1].take_notes.remote() == ["0", 1, 2]


async def test_tasks_that_keep_calling_take_turns(workers, gate):
    """Whoever calls again goes to the end of the line, also when it was admitted at once the last time."""
    with InputNode() as x:
        dag = workers[1].note.bind(workers[0].hold_or_echo.bind(x))
    await workers[1].take_notes.remote()

    async def keep_calling(name):
        for number in range(30):
            assert await compiled((name, number)) == (name, number)

    async with async_adag.compile(dag, max_inflight=1) as compiled:
        held = await compiled.execute_async(gate.path)
        tasks = start(keep_calling(name) for name in range(6))
        await turns()
        gate.open("gate")
        await asyncio.gather(held, *tasks)
    notes = await workers[1].take_notes.remote()
    assert notes[1:] == [(name, number) for number in range(30) for name in range(6)]


async def test_cancelling_a_waiter_keeps_the_order(workers, gate):
    with InputNode() as x:
        dag = workers[1].note.bind(workers[0].hold_or_echo.bind(x))
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        held = await compiled.execute_async(gate.path)
        waiting = start(compiled(n) for n in range(10))
        await turns()
        for n in (0, 4, 5, 9):
            waiting[n].cancel()
        await turns()
        assert compiled.stats().waiting == 6
        gate.open("gate")
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [r for r in results if not isinstance(r, asyncio.CancelledError)] == [1, 2, 3, 6, 7, 8]
        assert await held == "gate"
        assert compiled.stats().executions == 7
    assert await workers[1].take_notes.remote() == ["gate", 1, 2, 3, 6, 7, 8]


async def test_cancelling_a_waiter_that_was_just_granted_passes_the_place_on(dag, gate):
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        held = await compiled.execute_async(gate.path)
        first, second = start(compiled(n) for n in range(2))
        await turns()
        held.add_done_callback(lambda _: first.cancel())
        gate.open()
        assert await second == 1
        assert first.cancelled()
        assert await compiled(3) == 3


async def test_a_cancelled_execution_frees_its_place_on_arrival(dag, gate):
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        held = await compiled.execute_async(gate.path)
        held.cancel()
        waiting = asyncio.ensure_future(compiled(1))
        await turns()
        assert compiled.stats().in_flight == 1
        assert not waiting.done()
        gate.open()
        assert await waiting == 1


async def test_results_that_nobody_fetched_take_no_place(dag):
    async with async_adag.compile(dag, max_inflight=2) as compiled:
        kept = [await compiled.execute_async(n) for n in range(50)]
        assert await asyncio.gather(*kept) == list(range(50))


def test_refs_that_nobody_got_take_no_place(dag):
    with async_adag.compile(dag, max_inflight=2) as compiled:
        refs = [compiled.execute(n) for n in range(50)]
        assert [ref.get() for ref in refs] == list(range(50))


async def test_an_execution_keeps_its_place_until_its_last_output(workers, gate):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].hold_or_echo.bind(x[0]), workers[1].echo.bind(x[1])])
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        slow, fast = await compiled.execute_async(gate.path, 1)
        assert await fast == 1
        waiting = asyncio.ensure_future(compiled(2, 3))
        await turns()
        assert not waiting.done()
        gate.open("slow")
        assert await slow == "slow"
        assert await waiting == [2, 3]


async def test_a_payload_that_cannot_be_pickled_takes_no_place(dag, gate):
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        for _ in range(3):
            with pytest.raises(TypeError, match="pickle"):
                await compiled.execute_async(threading.Lock())
        assert compiled.stats().executions == 0
        held = await compiled.execute_async(gate.path)
        waiting = start([compiled(threading.Lock()), compiled(1)])
        await turns()
        gate.open()
        failed, fine = await asyncio.gather(*waiting, return_exceptions=True)
        assert type(failed) is TypeError
        assert fine == 1
        await held


async def test_waiters_fail_when_the_graph_closes(dag, gate):
    compiled = async_adag.compile(dag, max_inflight=1)
    held = await compiled.execute_async(gate.path)
    waiting = start(compiled(n) for n in range(3))
    await turns()
    gate.entered()
    compiled.teardown()
    results = await asyncio.gather(held, *waiting, return_exceptions=True)
    assert [type(result) for result in results] == [GraphClosed] * 4
    gate.open()


async def test_waiters_fail_when_the_graph_drains(dag, gate):
    compiled = async_adag.compile(dag, max_inflight=1)
    held = await compiled.execute_async(gate.path)
    waiting = asyncio.ensure_future(compiled(1))
    await turns()
    closing = asyncio.ensure_future(compiled.aclose())
    with pytest.raises(GraphClosed):
        await waiting
    gate.open("drained")
    await closing
    assert await held == "drained"


def test_submit_timeout_of_zero_does_not_wait(dag, gate):
    with async_adag.compile(dag, max_inflight=2, submit_timeout=0) as compiled:
        refs = [compiled.execute(gate.path), compiled.execute(1)]
        with pytest.raises(CapacityExceeded, match=r"^2 executions are in flight") as caught:
            compiled.execute(2)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, RayCgraphCapacityExceeded)
        assert compiled.stats().executions == 2
        gate.open("held")
        assert [ref.get() for ref in refs] == ["held", 1]
        assert compiled.execute(3).get() == 3


def test_a_finite_submit_timeout(dag, gate):
    with async_adag.compile(dag, max_inflight=1, submit_timeout=0.05) as compiled:
        ref = compiled.execute(gate.path)
        gate.entered()
        with pytest.raises(
            CapacityExceeded, match=r"^1 execution is in flight.*submit_timeout=0\.05 s.*hold_or_echo"
        ):
            compiled.execute(2)
        gate.open("held")
        assert ref.get() == "held"


def test_without_a_submit_timeout_a_thread_waits_for_its_place(dag, gate):
    with async_adag.compile(dag, max_inflight=1) as compiled:
        ref = compiled.execute(gate.path)
        waiting = in_thread(lambda: compiled.execute(1).get())
        gate.open("held")
        assert waiting.result() == 1
        assert ref.get() == "held"


def test_execute_async_ignores_submit_timeout(dag, gate):
    async def main():
        async with async_adag.compile(dag, max_inflight=1, submit_timeout=0) as compiled:
            held = await compiled.execute_async(gate.path)
            waiting = asyncio.ensure_future(compiled(1))
            await turns()
            gate.open()
            await held
            assert await waiting == 1

    asyncio.run(main())
