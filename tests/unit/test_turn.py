"""Who has run for a while gives way to who wants a turn, and to nobody else."""

from __future__ import annotations

import threading

import pytest

from async_adag.actor import turn as module
from async_adag.actor.turn import QUANTUM_NS, Turn


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Nobody goes on for having waited long enough."""
    monkeypatch.setattr(module, "PATIENCE", 60)


def ready():
    return True


def not_ready():
    return False


def test_a_loop_gives_way_until_another_has_taken_its_turn():
    turn, order = Turn(), []
    one, other = turn.join(), turn.join()

    def compute():
        one.has_run(QUANTUM_NS)
        order.append("back")

    thread = threading.Thread(target=compute, daemon=True)
    asked = threading.Event()
    other.waiting_for = lambda: asked.set() or True  # it waits for something that is there
    thread.start()
    asked.wait()
    with turn.lock:
        order.append("other")
        while thread.is_alive():  # whether it has begun to wait cannot be seen from here
            turn.has_begun()
            thread.join(0)
    assert order == ["other", "back"]


def test_once_in_a_quantum(monkeypatch):
    turn, gave_way = Turn(), []
    one, other = turn.join(), turn.join()
    other.waiting_for = ready
    monkeypatch.setattr(Turn, "give_way", lambda turn: gave_way.append(now))
    for now in range(0, 4 * QUANTUM_NS, QUANTUM_NS // 10):
        one.has_run(now)
    assert gave_way == [QUANTUM_NS, 2 * QUANTUM_NS, 3 * QUANTUM_NS]


def test_of_two_only_one_gives_way():
    turn = Turn()
    one, other = turn.join(), turn.join()
    asked = []

    def give_way():
        asked.append("one")
        other.has_run(QUANTUM_NS)  # would wait for one, which waits for it

    turn.give_way = give_way
    one.has_run(QUANTUM_NS)
    assert asked == ["one"]


def test_not_to_a_loop_that_waits():
    turn = Turn()
    one, other = turn.join(), turn.join()
    other.waiting_for = not_ready
    one.has_run(5 * QUANTUM_NS)


def test_not_when_it_is_alone():
    turn = Turn()
    one, other = turn.join(), turn.join()
    assert turn.crowded
    turn.leave(other)
    assert not turn.crowded
    one.has_run(5 * QUANTUM_NS)
