"""The line for places: first come, first served."""

from __future__ import annotations

import asyncio
import threading

import pytest

from async_adag.driver.capacity import Line, Waiter
from async_adag.protocol.ledger import Ledger


@pytest.fixture
def ledger():
    """A full one, with two places, both taken."""
    ledger = Ledger(1, 2)
    for _ in range(2):
        ledger.reserve()
        ledger.admit(None)
    return ledger


@pytest.fixture
def line(ledger):
    return Line(ledger)


def test_places_are_granted_in_the_order_of_arrival(ledger, line):
    waiters = [Waiter() for _ in range(3)]
    for waiter in waiters:
        line.join(waiter)
    ledger.arrive(0)
    line.grant_next()
    assert [waiter.granted for waiter in waiters] == [True, False, False]
    ledger.arrive(0)
    line.grant_next()
    assert [waiter.granted for waiter in waiters] == [True, True, False]
    assert len(line) == 1


def test_a_granted_place_is_kept_from_those_who_come_later(ledger, line):
    line.join(Waiter())
    ledger.arrive(0)
    assert ledger.has_place()
    line.grant_next()
    assert not ledger.has_place()


def test_leaving_the_line_lets_the_next_one_move_up(ledger, line):
    first, second = Waiter(), Waiter()
    line.join(first)
    line.join(second)
    line.leave(first)
    ledger.arrive(0)
    line.grant_next()
    assert second.granted
    assert not first.granted


def test_leaving_with_a_granted_place_gives_it_back_once(ledger, line):
    waiter = Waiter()
    line.join(waiter)
    ledger.arrive(0)
    line.grant_next()
    line.leave(waiter)
    assert ledger.has_place()
    line.leave(waiter)
    assert ledger.reserved == 0


def test_a_waiter_that_was_dismissed_may_still_leave(line):
    waiter = Waiter()
    line.join(waiter)
    line.dismiss(RuntimeError)
    line.leave(waiter)
    assert len(line) == 0


def test_dismissal_gives_everybody_an_error_of_their_own_and_empties_the_line(ledger, line):
    waiters = [Waiter() for _ in range(3)]
    for waiter in waiters:
        line.join(waiter)
    line.dismiss(lambda: RuntimeError("closed"))
    assert [str(waiter.error) for waiter in waiters] == ["closed"] * 3
    assert len({id(waiter.error) for waiter in waiters}) == 3
    assert not any(waiter.granted for waiter in waiters)
    assert len(line) == 0
    assert ledger.reserved == 0


def test_it_counts_who_had_to_wait(line):
    for _ in range(3):
        waiter = Waiter()
        line.join(waiter)
        line.leave(waiter)
    assert line.waited == 3


async def test_a_waiting_task_is_woken(ledger, line):
    waiter = Waiter(asyncio.get_running_loop().create_future())
    line.join(waiter)
    ledger.arrive(0)
    line.grant_next()
    await waiter.future
    assert waiter.granted


async def test_a_waiting_task_is_woken_from_another_thread(ledger, line):
    waiter = Waiter(asyncio.get_running_loop().create_future())
    line.join(waiter)
    thread = threading.Thread(target=line.dismiss, args=(lambda: RuntimeError("over"),))
    thread.start()
    await waiter.future
    assert str(waiter.error) == "over"
    thread.join()


async def test_waking_twice_or_after_cancellation_is_harmless(line):
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _, context: seen.append(context))
    woken, cancelled = Waiter(loop.create_future()), Waiter(loop.create_future())
    for waiter in (woken, cancelled):
        waiter.wake()
        waiter.wake()
    cancelled.future.cancel()
    await woken.future
    cancelled.wake()
    woken.wake()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)  # behind all the wake-ups
    await turn
    assert cancelled.future.cancelled()
    assert not seen


def test_a_waiter_whose_loop_is_closed_is_passed_over(ledger, line):
    loop = asyncio.new_event_loop()
    gone, next_one = Waiter(loop.create_future()), Waiter()
    loop.close()
    line.join(gone)
    line.join(next_one)
    ledger.arrive(0)
    line.grant_next()
    assert not gone.granted
    assert ledger.reserved == 0
    line.grant_next()
    assert next_one.granted


def test_a_place_that_was_granted_before_the_loop_was_closed_is_taken_back_once(ledger, line):
    loop = asyncio.new_event_loop()
    gone, thread = Waiter(loop.create_future()), Waiter()
    line.join(gone)
    line.join(thread)
    ledger.arrive(0)
    line.grant_next()
    line.reclaim()
    assert gone.granted
    loop.close()
    line.reclaim()
    line.reclaim()
    assert not gone.granted
    assert ledger.reserved == 0
    line.leave(gone)  # its task is thrown away
    assert ledger.reserved == 0
    line.grant_next()
    assert thread.granted
