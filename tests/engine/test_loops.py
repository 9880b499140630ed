"""Event loops that go from thread to thread, that are not the graph's, and that run its nodes."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import uvloop

from async_adag import GraphClosed
from tests.threads import in_thread
from tests.turns import turns

FACTORIES = [asyncio.new_event_loop, uvloop.new_event_loop]


class Moved:
    """A stage whose graph was used on a loop in this thread; another thread runs that loop now."""

    def __init__(self, make_stage, factory):
        self.stage = make_stage(1, max_inflight=2)
        self.loop = factory()
        self.loop.set_debug(True)  # it says when it is called by the wrong thread
        self.loop.slow_callback_duration = 60
        self.loop.run_until_complete(self.first())
        self._ran = in_thread(self.loop.run_forever)
        self.run(asyncio.sleep(0))

    async def first(self):
        future = await self.stage.compiled.execute_async(0)
        self.stage.parts[0].answer(0)
        assert await future == 0

    def begin(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine):
        return self.begin(coroutine).result(30)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._ran.result(30)
        self.loop.close()


@pytest.fixture(params=FACTORIES, ids=["asyncio", "uvloop"])
def moved(request, make_stage):
    moved = Moved(make_stage, request.param)
    yield moved
    moved.close()


def sent(stage, number):
    """Wait until so many executions have been sent in all."""
    while stage.engine.ledger.admitted < number:
        time.sleep(0)


def test_a_task_in_line_gets_its_place_on_a_loop_that_another_thread_runs_now(moved):
    stage = moved.stage
    refs = [stage.compiled.execute(number) for number in (1, 2)]
    result = moved.begin(stage.compiled(3))
    while not len(stage.engine.line):
        time.sleep(0)
    stage.parts[0].answer(1)
    stage.parts[0].answer(2)
    sent(stage, 4)
    stage.parts[0].answer(3)
    assert result.result(30) == 3
    assert [ref.get() for ref in refs] == [1, 2]


def test_a_thread_takes_in_what_a_task_awaits_on_a_loop_that_another_thread_runs_now(moved):
    stage = moved.stage
    result = moved.begin(stage.compiled(1))
    sent(stage, 2)
    ref = stage.compiled.execute(2)
    busy, go_on = threading.Event(), threading.Event()
    moved.loop.call_soon_threadsafe(lambda: (busy.set(), go_on.wait(100)))
    assert busy.wait(100)
    stage.parts[0].answer(1)
    stage.parts[0].answer(2)
    try:
        assert ref.get(30) == 2
    finally:
        go_on.set()
    assert result.result(30) == 1


def test_a_teardown_wakes_the_tasks_of_a_loop_that_another_thread_runs_now(moved):
    stage = moved.stage
    result = moved.begin(stage.compiled(1))
    sent(stage, 2)
    stage.compiled.teardown()
    with pytest.raises(GraphClosed):
        result.result(30)


async def test_two_threads_tear_a_graph_down_while_its_loop_is_busy(make_stage):
    """Neither closes a descriptor that the loop still watches."""
    stage = make_stage(1)
    future = await stage.compiled.execute_async(1)
    bell = stage.engine.deployment.ends.doorbell
    for done in [in_thread(stage.compiled.teardown) for _ in range(2)]:
        assert done.exception(30) is None  # as the loop does not get at it, they wait for a second at most
    assert bell.fd >= 0
    with pytest.raises(GraphClosed):
        await future
    await turns(3)
    assert bell.fd < 0


async def test_closing_from_a_second_loop_is_refused_and_spoils_nothing(make_stage):
    stage = make_stage(1)
    future = await stage.compiled.execute_async(1)

    async def close():
        await stage.compiled.aclose()

    async def leave():
        async with stage.compiled:
            pass

    for end in (close, leave):
        with pytest.raises(RuntimeError, match="serves another running event loop"):
            await asyncio.to_thread(asyncio.run, end())
    stage.parts[0].answer(7)
    assert await future == 7
    future = await stage.compiled.execute_async(2)
    stage.parts[0].answer(8)
    assert await future == 8


async def test_leaving_a_block_on_the_loop_that_runs_a_node_does_not_wait_for_ever(make_stage):
    stage = make_stage(1)
    stage.engine.deployment.own_loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="use `async with`"), stage.compiled as compiled:
        future = await compiled.execute_async(1)
    with pytest.raises(GraphClosed):
        await future


async def test_leaving_a_block_on_that_loop_with_nothing_in_flight(make_stage):
    stage = make_stage(1)
    stage.engine.deployment.own_loop = asyncio.get_running_loop()
    with stage.compiled as compiled:
        future = await compiled.execute_async(1)
        stage.parts[0].answer(7)
        assert await future == 7
        for part in stage.parts:
            part.leave()
