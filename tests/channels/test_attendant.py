"""The attendant: a thread that waits for descriptors and for the time."""

from __future__ import annotations

import os
import select
import threading

import pytest

from async_adag.channels.attendant import Attendant
from async_adag.channels.doorbell import Doorbell

SOON = 100.0  # seconds; only a failing test waits


class Called:
    """A callback that a test waits for."""

    def __init__(self, then=lambda *_: None):
        self.then = then
        self.given = []
        self.event = threading.Event()

    def __call__(self, *arguments):
        self.given.append(arguments)
        try:
            self.then(*arguments)
        finally:
            self.event.set()

    def wait(self):
        assert self.event.wait(SOON)
        self.event.clear()


@pytest.fixture
def make_attendant():
    made = []

    def make(**options):
        made.append(Attendant(**options))
        made[-1].start()
        return made[-1]

    yield make
    for attendant in made:
        attendant.close()


@pytest.fixture
def bell():
    bell = Doorbell.create()
    yield bell
    bell.close()


def test_it_calls_back_when_a_descriptor_is_ready(make_attendant, bell):
    called = Called(lambda _: bell.silence())
    attendant = make_attendant()
    attendant.watch(bell.fd, select.EPOLLIN, called)
    for _ in range(3):
        bell.ring()
        called.wait()
    assert called.given == [(select.EPOLLIN,)] * 3


def test_what_is_watched_may_be_changed_and_ended(make_attendant, bell):
    attendant = make_attendant()
    first, second, last = Called(), Called(), Called()
    attendant.watch(bell.fd, select.EPOLLIN, first)
    attendant.watch(bell.fd, select.EPOLLOUT | select.EPOLLET, second)
    second.wait()
    attendant.unwatch(bell.fd)
    attendant.unwatch(bell.fd)
    bell.ring()
    attendant.every(0.001, last)
    last.wait()
    assert first.given == []


def test_it_calls_again_and_again(make_attendant):
    called = Called()
    make_attendant().every(0.001, called)
    for _ in range(3):
        called.wait()


def test_what_a_callback_raises_is_told_and_stops_nothing(make_attendant, bell):
    told = Called()
    error = RuntimeError("x")

    def fail(_):
        bell.silence()
        raise error

    attendant = make_attendant(on_error=told)
    attendant.watch(bell.fd, select.EPOLLIN, fail)
    for _ in range(2):
        bell.ring()
        told.wait()
    assert told.given == [(error,)] * 2


def test_it_may_be_closed_by_its_own_thread_and_again_by_others(make_attendant):
    attendant = make_attendant()
    called = Called(attendant.close)
    attendant.every(0.001, called)
    called.wait()
    attendant.close()
    attendant.close()
    assert not attendant._thread.is_alive()


def test_closing_leaves_nothing_behind(make_attendant, bell):
    before = len(os.listdir("/proc/self/fd"))
    attendant = make_attendant()
    attendant.watch(bell.fd, select.EPOLLIN, Called())
    attendant.close()
    assert not attendant._thread.is_alive()
    assert len(os.listdir("/proc/self/fd")) == before
    attendant.watch(bell.fd, select.EPOLLIN, Called())  # nothing is watched any more: harmless
    attendant.unwatch(bell.fd)
    attendant.every(0.001, Called())


def test_one_that_was_never_started_can_be_closed():
    before = len(os.listdir("/proc/self/fd"))
    Attendant().close()
    assert len(os.listdir("/proc/self/fd")) == before
