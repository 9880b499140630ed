"""Parking: how a thread waits at its doorbell."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from async_adag.channels.doorbell import Doorbell
from async_adag.channels.parking import Parking, SentinelFired
from async_adag.channels.pollers import FixedPoller

PATIENCE = 100.0  # seconds; only a failing test waits


def soon():
    return time.monotonic() + PATIENCE


def never():
    return False


@pytest.fixture
def bell():
    bell = Doorbell.create()
    yield bell
    bell.close()


@pytest.fixture
def sentinel():
    """Both ends of a pipe: the sentinel, and what makes it fire."""
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


@pytest.fixture
def make_parking(bell):
    made = []

    def make(sentinels=(), poller=None, **options):
        made.append(Parking(bell, list(sentinels), poller, **options))
        return made[-1]

    yield make
    for parking in made:
        parking.close()


def test_a_ring_ends_the_wait(bell, make_parking):
    parking = make_parking()
    for _ in range(3):
        bell.ring()
        assert parking.wait(never, never, soon())
    assert parking.parked == 3


def test_a_ring_from_another_thread_ends_the_wait(bell, make_parking):
    parking = make_parking()
    armed = threading.Event()

    def ring():
        armed.wait(PATIENCE)
        bell.ring()

    thread = threading.Thread(target=ring)
    thread.start()

    def arm():
        armed.set()
        return False

    assert parking.wait(never, arm, soon())
    thread.join()


def test_a_ring_before_anybody_parked_is_not_lost(bell, make_parking):
    bell.ring()
    assert make_parking().wait(never, never, soon())


def test_rings_that_were_heard_do_not_ring_again(bell, make_parking):
    parking = make_parking()
    for _ in range(5):
        bell.ring()
    assert parking.wait(never, never, soon())
    assert not parking.wait(never, never, time.monotonic())


def test_what_is_there_when_it_arms_is_not_waited_for(make_parking):
    parking = make_parking()
    assert parking.wait(never, lambda: True)
    assert parking.parked == 0


def test_a_signal_that_does_not_end_the_system_call_is_handled_all_the_same(bell, make_parking):
    """Another thread gets it here; so it is with one that comes just before the call."""
    parking = make_parking(longest=0.01)

    def send():
        for _ in range(100):
            while not parking.parked:
                time.sleep(0)
            time.sleep(0)  # by and by the main thread sleeps
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(True))
    try:
        thread = threading.Thread(target=send)
        thread.start()
        while not came:
            assert parking.wait(never, never, soon())
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert parking.parked == 1


@pytest.mark.parametrize("left", [0.03, 0.025, 0.01, 0.001])
def test_a_deadline_is_kept_by_one_that_sleeps_for_less_at_a_time(make_parking, left):
    parking = make_parking(longest=0.01)
    deadline = time.monotonic() + left
    while parking.wait(never, never, deadline):
        assert time.monotonic() < deadline + 10
    assert time.monotonic() >= deadline


def test_a_deadline_that_has_passed_ends_the_wait(make_parking):
    assert not make_parking().wait(never, never, time.monotonic() - 1)


def test_a_sentinel_ends_the_wait_and_says_which_it_was(make_parking, sentinel):
    read, write = sentinel
    parking = make_parking([read])
    os.write(write, b"x")
    for _ in range(2):  # it goes on firing
        with pytest.raises(SentinelFired) as caught:
            parking.wait(never, never, soon())
        assert caught.value.fd == read


def test_a_sentinel_that_was_forgotten_ends_no_wait(make_parking, sentinel):
    read, write = sentinel
    parking = make_parking([read])
    os.write(write, b"x")
    parking.forget(read)
    parking.forget(read)
    assert not parking.wait(never, never, time.monotonic())


class Told:
    """A poller that polls for so many nanoseconds, and writes down what it is told."""

    def __init__(self, budget, rest=0):
        self._budget = budget
        self.rest = rest
        self.told = []

    def budget(self, now):
        return self._budget

    def waited(self, took, polled, hit):
        self.told.append((took, polled, hit))


def test_news_while_it_polls_are_taken_without_parking(make_parking):
    poller = Told(int(PATIENCE * 1e9))
    parking = make_parking(poller=poller)
    looks = iter([False] * 20 + [True])

    def arm():
        raise AssertionError("it parked")

    assert parking.wait(lambda: next(looks), arm, soon())
    assert (parking.parked, parking.spun) == (0, 1)
    ((took, polled, hit),) = poller.told
    assert hit
    assert 0 < polled == took


def test_it_parks_when_polling_brought_nothing(bell, make_parking):
    poller = Told(1)
    parking = make_parking(poller=poller)
    bell.ring()
    assert parking.wait(lambda: parking.parked, never, soon())
    assert (parking.parked, parking.spun) == (1, 0)
    ((took, polled, hit),) = poller.told
    assert not hit
    assert (polled, took > 1) == (1, True)


def test_who_is_called_up_ahead_of_the_news_has_not_waited_yet(bell, make_parking, monkeypatch):
    now = [1_000]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    poller = Told(0)
    parking = make_parking(poller=poller)
    for _ in range(2):
        bell.ring()
        assert parking.wait(never, never, soon())
        assert poller.told == []
        now[0] += 1_000
    bell.ring()
    assert parking.wait(lambda: parking.parked == 3, never, soon())
    assert poller.told == [(2_000, 0, False)]
    bell.ring()
    assert parking.wait(lambda: parking.parked == 4, never, soon())
    assert poller.told[1:] == [(0, 0, False)]


def test_what_it_has_polled_before_it_was_called_up_counts(bell, make_parking):
    poller = Told(1)
    parking = make_parking(poller=poller)
    for count in range(1, 4):
        bell.ring()
        assert parking.wait(lambda: parking.parked == 3, never, soon())
        assert len(poller.told) == (count == 3)
    ((_, polled, hit),) = poller.told
    assert (polled, hit) == (3, False)


def test_a_wait_that_nobody_ends_is_over_at_its_deadline(make_parking):
    poller = Told(1)
    assert not make_parking(poller=poller).wait(never, never, time.monotonic())
    assert len(poller.told) == 1


def test_a_poller_that_rests_is_not_asked(bell, make_parking):
    poller = Told(int(PATIENCE * 1e9), rest=2)
    parking = make_parking(poller=poller)
    for _ in range(2):
        bell.ring()
        assert parking.wait(never, never, soon())
    assert (poller.rest, poller.told, parking.parked) == (0, [], 2)
    assert parking.wait(lambda: True, never)
    assert len(poller.told) == 1


def test_what_is_there_when_it_arms_is_a_short_wait(make_parking):
    poller = Told(0)
    assert make_parking(poller=poller).wait(never, lambda: True)
    ((_, polled, hit),) = poller.told
    assert (polled, hit) == (0, False)


def test_a_long_poll_ends_when_a_sentinel_fires_or_the_bell_rings(bell, make_parking, sentinel):
    read, write = sentinel
    parking = make_parking([read], FixedPoller(int(PATIENCE * 1e9)))

    def arm():
        raise AssertionError("it parked")

    bell.ring()
    assert parking.wait(never, arm)
    os.write(write, b"x")
    with pytest.raises(SentinelFired):
        parking.wait(never, arm)


def test_a_long_poll_ends_with_the_deadline(make_parking):
    parking = make_parking(poller=FixedPoller(int(PATIENCE * 1e9)))
    assert not parking.wait(never, never, time.monotonic() - 1)


def test_closing_leaves_no_descriptor(bell):
    before = sorted(os.listdir("/proc/self/fd"))
    Parking(bell, []).close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_sentinel_that_cannot_be_watched_leaves_no_descriptor(bell):
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        Parking(bell, [10_000])
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_bell_that_was_silenced_is_quiet(bell, make_parking):
    bell.ring()
    bell.silence()
    bell.silence()
    assert not make_parking().wait(never, never, time.monotonic())


def test_a_bell_can_be_rung_however_often(bell):
    os.eventfd_write(bell.fd, 2**64 - 2)
    bell.ring()
    assert os.eventfd_read(bell.fd) == 2**64 - 2


def test_a_bell_is_closed_once(bell):
    fd = bell.fd
    bell.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    bell.close()
