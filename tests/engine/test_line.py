"""Callers in line whose task cannot run, for now or any more, and whose arguments cannot be sent."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import uvloop

from async_adag import CapacityExceeded, GraphClosed
from tests.turns import turns, until

LOOPS = pytest.mark.parametrize(
    "factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@LOOPS
@pytest.mark.parametrize("granted", [False, True])
def test_a_caller_in_line_whose_loop_is_closed_takes_no_place(make_stage, factory, granted):
    """Closed without its tasks having been cancelled; they live on, and can never run."""
    stage = make_stage(1, max_inflight=1)
    loop = factory()

    async def stand_in_line():
        future = await stage.compiled.execute_async(1)
        task = asyncio.ensure_future(stage.compiled(2))
        await until(lambda: len(stage.engine.line) == 1)
        return future, task

    kept = loop.run_until_complete(stand_in_line())
    stage.parts[0].answer(1)
    if granted:
        stage.engine.take_in()
        assert stage.engine.ledger.reserved == 1
    loop.close()

    async def go_on():
        task = asyncio.ensure_future(stage.compiled(3))
        await until(lambda: stage.engine.ledger.admitted == 2)
        stage.parts[0].answer(3)
        assert await task == 3
        assert await asyncio.to_thread(blocking) == 4

    def blocking():
        ref = stage.compiled.execute(4)
        stage.parts[0].answer(4)
        return ref.get()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(go_on())
    assert stage.engine.ledger.reserved == 0
    kept[1]._log_destroy_pending = False
    kept[1].get_coro().close()


class TimesOut:
    def __reduce__(self):
        raise TimeoutError("the user's own")


@pytest.mark.parametrize("deadline", [None, 30])
async def test_an_error_of_pickling_that_is_a_timeout_is_the_callers(make_stage, deadline):
    stage = make_stage(1, max_inflight=1)
    future = await stage.compiled.execute_async(1)
    waits = asyncio.ensure_future(stage.compiled.options(timeout=deadline).execute_async(TimesOut()))
    await turns(3)
    stage.parts[0].answer(7)
    assert await future == 7
    with pytest.raises(TimeoutError, match="the user's own"):
        await waits


@pytest.fixture
def line(make_stage):
    """A full graph with a place for each execution in ``sent``, and callers in line for each in ``waiting``."""

    async def stand(sent, waiting, **options):
        stage = make_stage(1, max_inflight=len(sent), **options)
        futures = [await stage.compiled.execute_async(value) for value in sent]
        tasks = [asyncio.ensure_future(stage.compiled(value)) for value in waiting]
        await until(lambda: len(stage.engine.line) == len(tasks))
        return stage, stage.parts[0], futures, tasks

    return stand


async def serve(part, tasks):
    """Answer everything with itself, until nobody waits."""
    while not all(task.done() for task in tasks):
        while part.take():
            part.answer(part.inbox[0])
        await turns(1)


BLOCKING = pytest.mark.filterwarnings(
    "ignore:a blocking call on the thread of a running event loop:RuntimeWarning"
)


@BLOCKING
@LOOPS
@pytest.mark.parametrize("granted", [True, False])
def test_a_thread_that_blocks_its_loop_does_not_wait_for_tasks_of_that_loop(line, factory, granted):
    async def main():
        stage, part, futures, tasks = await line(["first"], ["second", "third"], submit_timeout=30)
        if granted:  # to a task that has not run since
            part.answer("first")
            stage.engine.take_in()
            assert stage.engine.ledger.reserved == 1
            ref = stage.compiled.execute("blocking")
        else:
            thread = threading.Thread(target=part.answer, args=["first"])
            thread.start()
            ref = stage.compiled.execute("blocking")
            thread.join()
        assert part.take() == ["blocking"]
        part.answer("blocking")
        assert ref.get() == "blocking"
        await serve(part, tasks)
        assert [task.result() for task in tasks] == ["second", "third"]
        assert part.history == ["first", "blocking", "second", "third"]
        assert await futures[0] == "first"
        assert stage.engine.ledger.reserved == 0

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@BLOCKING
async def test_one_task_gives_its_place_to_a_thread_that_blocks_its_loop_and_the_order_of_tasks_stays(line):
    stage, part, _, tasks = await line(["a", "b", "c"], ["d", "e", "f", "g"])
    for value in ("a", "b", "c"):
        part.answer(value)
    stage.engine.take_in()
    assert stage.engine.ledger.reserved == 3
    refs = [stage.compiled.execute(value) for value in ("x", "y")]
    assert stage.engine.ledger.reserved == 1
    await serve(part, tasks)
    assert [ref.get() for ref in refs] == ["x", "y"]
    assert part.history == ["a", "b", "c", "x", "y", "d", "e", "f", "g"]


@BLOCKING
async def test_a_thread_on_the_loop_that_does_not_wait_leaves_everybody_in_their_places(line):
    stage, part, _, tasks = await line(["a"], ["b", "c"], submit_timeout=0)
    for _ in range(2):
        with pytest.raises(CapacityExceeded):
            stage.compiled.execute("x")
    await serve(part, tasks)
    assert part.history == ["a", "b", "c"]


@BLOCKING
@pytest.mark.parametrize("end", ["cancelled", "torn down"])
async def test_a_task_that_gave_its_place_back_and_waits_again_can_be_ended(line, end):
    stage, part, _, tasks = await line(["a"], ["b", "c"])
    part.answer("a")
    stage.engine.take_in()
    ref = stage.compiled.execute("x")
    await turns()
    assert len(stage.engine.line) == 2
    if end == "torn down":
        stage.compiled.teardown()
        for task in tasks:
            with pytest.raises(GraphClosed):
                await task
        return
    tasks[0].cancel()
    await serve(part, tasks)
    assert ref.get() == "x"
    assert tasks[0].cancelled()
    assert part.history == ["a", "x", "c"]
    assert stage.engine.ledger.reserved == 0


@BLOCKING
async def test_threads_in_line_before_a_thread_that_blocks_a_loop_stay_before_it(line):
    stage, part, _, tasks = await line(["a"], [])
    thread = threading.Thread(target=lambda: stage.compiled.execute("thread"))
    thread.start()
    await until(lambda: len(stage.engine.line) == 1)
    tasks = [asyncio.ensure_future(stage.compiled("task"))]
    await turns()
    answers = threading.Thread(target=answer_in_turn, args=[part, ["a", "thread"]])
    answers.start()
    ref = stage.compiled.execute("x")
    for other in (thread, answers):
        other.join()
    await serve(part, tasks)
    assert ref.get() == "x"
    assert part.history == ["a", "thread", "x", "task"]


def answer_in_turn(part, values):
    for value in values:
        while not part.take():
            time.sleep(0)
        part.answer(value)
