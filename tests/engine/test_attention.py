"""How the event loop listens: armed, or polling; with actors that the test plays."""

from __future__ import annotations

import asyncio
import os

import pytest

from async_adag import GraphBroken, GraphClosed
from async_adag.driver import attention, event_loop
from tests.turns import turns, until

LONG = 30.0  # seconds; a poll that a test waits for never ends by itself


def has_rung(stage):
    """Whether the driver's doorbell has rung, and nobody has looked."""
    try:
        return os.eventfd_read(stage.engine.deployment.ends.doorbell.fd) > 0
    except BlockingIOError:
        return False


async def test_a_poll_takes_in_what_arrives_and_nobody_rings(make_stage):
    stage = make_stage(parts=1, busy_poll=LONG)
    for number in range(3):
        future = await stage.compiled.execute_async(number)
        await turns()
        stage.parts[0].answer(number)
        assert not has_rung(stage)
        assert await future == number
    assert stage.engine.attention.spun == 3
    assert stage.compiled.stats().busy_poll_hits == 3
    assert not stage.engine.attention.is_armed


async def test_a_loop_that_does_not_poll_listens_from_the_execution_on(make_stage):
    stage = make_stage(parts=1, busy_poll=0)
    for number in range(3):
        future = await stage.compiled.execute_async(number)
        assert stage.engine.attention.is_armed
        stage.parts[0].answer(number)
        assert await future == number
        assert not stage.engine.attention.is_armed
    assert stage.engine.attention.spun == 0


async def test_a_poll_that_brought_nothing_ends_and_the_loop_listens(make_stage):
    stage = make_stage(parts=1, busy_poll=1e-9)
    future = await stage.compiled.execute_async(1)
    assert not stage.engine.attention.is_armed
    await until(lambda: stage.engine.attention.is_armed)
    stage.parts[0].answer("late")
    assert await future == "late"
    assert stage.engine.attention.spun == 0


class Told:
    """A poller that never polls, and counts what it is told."""

    def __init__(self):
        self.rest = 0
        self.waits = 0

    def budget(self, now):
        return 0

    def waited(self, took, polled, hit):
        assert not hit
        self.waits += 1


async def test_a_wait_ends_with_its_news_and_not_when_the_loop_is_called_up_ahead_of_them(make_stage):
    stage = make_stage(parts=1, busy_poll=LONG)
    poller = stage.engine.attention._poller = Told()
    for number in range(3):
        future = await stage.compiled.execute_async(number)
        for _ in range(2):
            stage.engine.deployment.ends.doorbell.ring()
            await turns()
            assert stage.engine.attention.is_armed
            assert poller.waits == number
        stage.parts[0].answer(number)
        assert await future == number
        assert poller.waits == number + 1


async def test_what_arrives_before_it_listens_is_not_missed(make_stage, monkeypatch):
    """Between the last look of a poll and the arming, and between the sending and the arming."""
    for poll in (1e-9, 0):
        stage = make_stage(parts=1, busy_poll=poll)
        arm = stage.engine.arm

        def answer_and_arm(stage=stage, arm=arm):
            stage.parts[0].answer("just so")
            monkeypatch.setattr(stage.engine, "arm", arm)
            return arm()

        monkeypatch.setattr(stage.engine, "arm", answer_and_arm)
        assert await (await stage.compiled.execute_async(1)) == "just so"


async def test_other_tasks_run_while_it_polls(make_stage):
    stage = make_stage(parts=1, busy_poll=LONG)
    future = await stage.compiled.execute_async(1)
    read, write = os.pipe()
    heard, answered = asyncio.Event(), asyncio.Event()

    async def answer():
        await heard.wait()
        answered.set()

    other = asyncio.ensure_future(answer())
    loop = asyncio.get_running_loop()
    loop.add_reader(read, heard.set)
    os.write(write, b"x")
    await answered.wait()
    await other
    loop.remove_reader(read)
    os.close(read)
    os.close(write)
    assert not future.done()
    stage.parts[0].answer(1)
    assert await future == 1
    assert stage.engine.attention.spun == 1


async def test_a_second_execution_ends_the_poll(make_stage):
    stage = make_stage(parts=1, busy_poll=LONG)
    first = await stage.compiled.execute_async(1)
    second = await stage.compiled.execute_async(2)
    await until(lambda: stage.engine.attention.is_armed)
    for value in ("a", "b"):
        stage.parts[0].answer(value)
    assert [await first, await second] == ["a", "b"]
    assert stage.engine.attention.spun == 0


async def test_a_loop_where_ctrl_c_raises_anywhere_does_not_poll(make_stage, monkeypatch):
    """It could raise before the poll's callback has begun, and nobody would listen any more."""
    monkeypatch.setattr(event_loop, "raises_anywhere", lambda: True)
    stage = make_stage(parts=1, busy_poll=LONG)
    future = await stage.compiled.execute_async(1)
    assert stage.engine.attention.is_armed
    stage.parts[0].answer(1)
    assert await future == 1
    assert stage.engine.attention.spun == 0


async def test_a_death_is_seen_while_it_polls(make_stage):
    stage = make_stage(parts=1, busy_poll=LONG)
    future = await stage.compiled.execute_async(1)
    stage.parts[0].die()
    with pytest.raises(GraphBroken):
        await future


async def test_a_teardown_ends_the_poll(make_stage, monkeypatch):
    stage = make_stage(parts=1, busy_poll=LONG)
    looks = []
    look = attention.Attention._look
    monkeypatch.setattr(attention.Attention, "_look", lambda *args: (looks.append(None), look(*args)))
    future = await stage.compiled.execute_async(1)
    await until(lambda: looks)
    stage.compiled.teardown()
    with pytest.raises(GraphClosed):
        await future
    await turns()
    before = len(looks)
    await turns()
    assert len(looks) == before


def test_a_poll_whose_loop_stands_still_is_forgotten_when_another_takes_over(make_stage, monkeypatch):
    monkeypatch.setattr(event_loop, "raises_anywhere", lambda: False)
    stage = make_stage(parts=1, busy_poll=LONG)

    async def begin():
        return await stage.compiled.execute_async(1)

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    future = first.run_until_complete(begin())
    stage.parts[0].answer("for the first")

    async def go_on():
        other = await stage.compiled.execute_async(2)
        stage.parts[0].answer("for the second")
        return await other

    assert second.run_until_complete(go_on()) == "for the second"
    assert first.run_until_complete(future) == "for the first"
    first.close()
    second.close()
