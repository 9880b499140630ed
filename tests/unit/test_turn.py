"""Who has run for a while gives way to who wants the lock, and to nobody else."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from async_adag.actor import turn as module
from async_adag.actor.turn import QUANTUM_NS, Turn, always, never


@pytest.fixture
def turn():
    return Turn()


@pytest.fixture
def clock(monkeypatch):
    """The time, as the module reads it."""
    clock = SimpleNamespace(now=0)
    monkeypatch.setattr(module, "monotonic_ns", lambda: clock.now)
    return clock


@pytest.fixture
def gave_way(turn, monkeypatch):
    """Who gave way, each time."""
    times = []
    monkeypatch.setattr(turn, "give_way", times.append)
    return times


def test_a_loop_gives_way_until_the_turn_of_another_is_over(turn, monkeypatch):
    monkeypatch.setattr(module, "GLANCE", 60)  # it does not go on for having waited long enough
    order, asked = [], threading.Event()
    one, other = turn.join(never), turn.join(lambda: asked.set() or True)

    def run():
        one.has_run(QUANTUM_NS)
        order.append("back")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    asked.wait()
    turn.has_begun(other)
    order.append("other")
    while thread.is_alive():  # whether it has begun to wait cannot be seen from here
        turn.pauses(other)
        thread.join(0)
    assert order == ["other", "back"]


def test_the_beginning_of_another_turn_is_not_its_end(turn, monkeypatch):
    monkeypatch.setattr(module, "GLANCE", 0)
    one, other = turn.join(always), turn.join(always)
    asked = []
    other.wants = lambda: asked.append(turn.has_begun(other)) or True
    one.has_run(QUANTUM_NS)
    assert len(asked) == 1 + module.PATIENCE


def test_a_turn_ends_when_its_loop_leaves(turn, monkeypatch):
    monkeypatch.setattr(module, "GLANCE", 60)
    one, other = turn.join(always), turn.join(always)
    thread = threading.Thread(target=one.has_run, args=(QUANTUM_NS,), daemon=True)
    thread.start()
    while turn._polite is None:
        time.sleep(0)
    turn.leave(other)
    thread.join()


@pytest.mark.interpreted(reason="it replaces a method")
def test_once_in_a_quantum(turn, gave_way, clock):
    one, _ = turn.join(never), turn.join(always)
    asked = []
    for clock.now in range(0, 4 * QUANTUM_NS, QUANTUM_NS // 10):
        one.has_run(clock.now)
        asked.append(len(gave_way))
    assert [asked.index(count) for count in (1, 2, 3)] == [10, 20, 30]


@pytest.mark.interpreted(reason="it replaces a method")
def test_a_loop_that_has_just_begun_does_not(turn, gave_way):
    one, _ = turn.join(never), turn.join(always)
    one.begins(10 * QUANTUM_NS)
    one.has_run(10 * QUANTUM_NS + 1)
    assert not gave_way


@pytest.mark.interpreted(reason="it replaces a method")
def test_a_turn_begins_when_a_loop_takes_it(turn, gave_way, clock):
    one, other = turn.join(always), turn.join(always)
    for place in (one, other, one):
        clock.now += 10 * QUANTUM_NS
        turn.has_begun(place)
        place.has_run(clock.now + QUANTUM_NS - 1)
        assert not gave_way, "it has waited for long, and run for less than a quantum"
    turn.has_begun(one)
    one.has_run(clock.now + QUANTUM_NS)
    assert gave_way == [one]


def test_it_does_not_wait_for_a_loop_that_has_no_work_any_more(turn, monkeypatch):
    monkeypatch.setattr(module, "GLANCE", 0)
    monkeypatch.setattr(module, "PATIENCE", 10**9)
    answers = iter([True, True, True, False])
    one, _ = turn.join(always), turn.join(lambda: next(answers))
    one.has_run(QUANTUM_NS)
    assert next(answers, "asked until it had none") == "asked until it had none"


def test_who_gives_way_takes_in_what_has_come_so_that_the_other_sees_it(turn, monkeypatch):
    """What came over a network lies in the kernel until its loop looks, which it does not while it waits."""
    monkeypatch.setattr(module, "GLANCE", 0)
    monkeypatch.setattr(module, "PATIENCE", 2)
    taken_in, seen = [], []
    one = turn.join(lambda: bool(taken_in), lambda: taken_in.append("an execution"))
    other = turn.join(always)
    other.wants = lambda: seen.append(turn.is_wanted_beside(other)) or True
    one.has_run(QUANTUM_NS)
    assert seen == [False, True, True]  # asked whether it gives way, then at each glance


def test_the_other_may_have_given_way_meanwhile_and_gone_on(turn):
    """Compiled, too, where the type of what a function assigned last is taken for granted."""
    one, other = turn.join(always), turn.join(always)

    def gives_way_and_goes_on():
        turn._polite = None
        return next(answers)

    answers = iter([True, False])
    other.wants = gives_way_and_goes_on
    one.has_run(QUANTUM_NS)
    assert turn._polite is None


def test_of_two_only_one_waits_for_the_other(turn, monkeypatch):
    monkeypatch.setattr(module, "GLANCE", 60)
    places = [turn.join(always), turn.join(always)]
    back = []

    def run(place):
        for k in range(1, 200):
            place.has_run(k * QUANTUM_NS + 10**18)
            turn.has_begun(place)
        place.wants = never
        turn.pauses(place)
        back.append(place)

    monkeypatch.setattr(module, "monotonic_ns", lambda: 0)
    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(back) == 2


@pytest.mark.interpreted(reason="it replaces a method")
def test_not_to_a_loop_that_has_no_work(turn, gave_way):
    one, _ = turn.join(always), turn.join(never)
    one.has_run(5 * QUANTUM_NS)
    assert not gave_way


@pytest.mark.interpreted(reason="it replaces a method")
def test_not_when_it_is_alone(turn, gave_way):
    one, other = turn.join(always), turn.join(always)
    assert turn.is_crowded()
    turn.leave(other)
    assert not turn.is_crowded()
    one.has_run(5 * QUANTUM_NS)
    assert not gave_way
