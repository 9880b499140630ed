"""A task that wants all outputs of its execution sleeps by one of them; who wants one alone gets it at once."""

from __future__ import annotations

import asyncio
import os

import pytest

from async_adag import RemoteError
from tests.turns import turns

LONG = 30.0  # seconds; a poll that a test waits for never ends by itself


def has_rung(stage):
    """Whether the driver's doorbell rings, and nobody has looked; leaves it so."""
    bell = stage.engine.deployment.ends.doorbell
    try:
        os.eventfd_read(bell.fd)
    except BlockingIOError:
        return False
    bell.ring()
    return True


@pytest.fixture
def stage(make_stage):
    return make_stage(busy_poll=0)


async def call(stage, value):
    """A task that waits for both outputs of an execution, which is under way."""
    task = asyncio.ensure_future(stage.compiled(value))
    await turns()
    return task


async def test_it_is_woken_once_where_the_last_output_comes_last(stage):
    first, last = stage.parts
    for number in range(3):
        task = await call(stage, number)
        first.answer("a")
        assert not has_rung(stage)
        last.answer("b")
        assert has_rung(stage)
        assert await task == ["a", "b"]


async def test_it_is_woken_for_what_is_missing_where_the_last_output_comes_first(stage):
    first, last = stage.parts
    for number in range(3):
        task = await call(stage, number)
        last.answer("b")
        await turns()
        assert not task.done()
        first.answer("a")
        assert has_rung(stage)
        assert await task == ["a", "b"]


async def test_an_error_wakes_it_at_once(stage):
    first, last = stage.parts
    task = await call(stage, 1)
    first.fail(ValueError("early"))
    assert has_rung(stage)
    with pytest.raises(ValueError, match="early"):
        await task
    last.answer("b")
    task = await call(stage, 2)
    first.answer("a")
    last.answer("b")
    assert await task == ["a", "b"]


async def test_futures_of_single_outputs_do_not_wait_for_one_another(stage):
    first, last = stage.parts
    one, other = await stage.compiled.execute_async(1)
    first.answer("a")
    assert has_rung(stage)
    assert await one == "a"
    last.answer("b")
    assert await other == "b"


async def test_an_execution_that_joins_is_listened_for_in_full(stage):
    """The first is woken for its last output only; the second wants to have its own as they come."""
    first, last = stage.parts
    task = await call(stage, 1)
    one, other = await stage.compiled.execute_async(2)
    first.answer("a")
    assert has_rung(stage)
    first.answer("c")
    assert await one == "c"
    assert not task.done()
    last.answer("b")
    last.answer("d")
    assert await task == ["a", "b"]
    assert await other == "d"


async def test_a_poll_goes_on_until_all_are_there(make_stage):
    stage = make_stage(busy_poll=LONG)
    task = await call(stage, 1)
    for part, answer in zip(stage.parts, "ab", strict=True):
        assert not task.done()
        part.answer(answer)
        await turns()
        assert not has_rung(stage)
    assert await task == ["a", "b"]
    assert stage.engine.attention.spun == 1


class Raised(BaseException):
    """What nobody catches."""


hooks = []


def call_hook():
    return hooks[-1]()


class Hooked:
    """Has the last of the hooks called where it is unpickled, and comes out as what that returns."""

    def __reduce__(self):
        return call_hook, ()


async def test_what_is_raised_while_a_poll_takes_in_leaves_somebody_listening(make_stage, monkeypatch):
    stage = make_stage(busy_poll=LONG)
    first, last = stage.parts
    raised = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))

    def hook():
        raise Raised

    monkeypatch.setitem(globals(), "hooks", [hook])
    task = await call(stage, 1)
    first.answer(Hooked())
    with pytest.raises(RemoteError, match="Raised"):
        await task
    assert [type(each) for each in raised] == [Raised]
    last.answer("b")
    task = await call(stage, 2)
    first.answer("c")
    last.answer("d")
    assert await task == ["c", "d"]


async def test_an_execution_that_is_sent_while_a_poll_takes_in(make_stage, monkeypatch):
    stage = make_stage(busy_poll=LONG)
    first, last = stage.parts
    sent = []

    def hook():
        try:
            stage.compiled.execute_async(2).send(None)
        except StopIteration as done:
            sent.append(done.value)
        return "sent one"

    monkeypatch.setitem(globals(), "hooks", [hook])
    task = await call(stage, 1)
    first.answer(Hooked())
    await turns()
    (futures,) = sent
    last.answer("b")
    assert await task == ["sent one", "b"]
    first.answer("c")
    last.answer("d")
    assert await futures == ["c", "d"]


def test_refs_are_settled_as_they_come(stage):
    first, last = stage.parts
    one, other = stage.compiled.execute(1)
    first.answer("a")
    assert one.get() == "a"
    last.answer("b")
    assert other.get() == "b"
