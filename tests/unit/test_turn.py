"""Who has run for a while gives way to who wants the lock, and to nobody else."""

from __future__ import annotations

import threading
import time

import pytest

from async_adag.actor import turn as module
from async_adag.actor.turn import QUANTUM_NS, Turn, always, never


@pytest.fixture
def turn():
    return Turn()


@pytest.fixture
def gave_way(turn, monkeypatch):
    """Who gave way, each time."""
    times = []
    monkeypatch.setattr(turn, "give_way", times.append)
    return times


def test_a_loop_gives_way_until_another_has_taken_its_turn(turn, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 60)  # it does not go on for having waited long enough
    order, asked = [], threading.Event()
    one, other = turn.join(never), turn.join(lambda: asked.set() or True)

    def run():
        one.has_run(QUANTUM_NS)
        order.append("back")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    asked.wait()
    with turn.lock:
        order.append("other")
        while thread.is_alive():  # whether it has begun to wait cannot be seen from here
            turn.has_begun()
            thread.join(0)
    assert order == ["other", "back"]
    assert other.wants()


def test_once_in_a_quantum(turn, gave_way):
    one, _ = turn.join(never), turn.join(always)
    asked = []
    for now in range(0, 4 * QUANTUM_NS, QUANTUM_NS // 10):
        one.has_run(now)
        asked.append(len(gave_way))
    assert [asked.index(count) for count in (1, 2, 3)] == [10, 20, 30]


def test_a_loop_that_has_just_begun_does_not(turn, gave_way):
    one, _ = turn.join(never), turn.join(always)
    one.begins(10 * QUANTUM_NS)
    one.has_run(10 * QUANTUM_NS + 1)
    assert not gave_way


def test_of_two_only_one_gives_way_and_wants_its_turn_once_the_other_has_begun(turn, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 60)
    one, other = turn.join(always), turn.join(always)
    thread = threading.Thread(target=one.has_run, args=(QUANTUM_NS,), daemon=True)
    thread.start()
    while one.wants():
        time.sleep(0)
    other.has_run(QUANTUM_NS)  # does not wait for one, which waits for it
    while not one.wants():
        turn.has_begun()
    while thread.is_alive():
        turn.has_begun()
        thread.join(0)


def test_not_to_a_loop_that_has_no_work(turn, gave_way):
    one, _ = turn.join(always), turn.join(never)
    one.has_run(5 * QUANTUM_NS)
    assert not gave_way


def test_not_when_it_is_alone(turn, gave_way):
    one, other = turn.join(always), turn.join(always)
    assert turn.is_crowded()
    turn.leave(other)
    assert not turn.is_crowded()
    one.has_run(5 * QUANTUM_NS)
    assert not gave_way
