"""Callers in line whose task cannot run any more, and whose arguments cannot be sent."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from tests.turns import turns, until


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
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
