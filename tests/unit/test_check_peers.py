"""While a loop runs, its peers are looked at, as it may wait for a stream that waits for one that has died."""

from __future__ import annotations

import os
import threading

import pytest

from async_adag.actor.communicators import Communicators
from async_adag.actor.moved import Movers


class Looks:
    """What is called to look at peers, and how often it was."""

    def __init__(self) -> None:
        self.count = 0
        self.changed = threading.Condition()

    def __call__(self) -> None:
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.count >= count)


@pytest.mark.parametrize("let_go", [True, False])
def test_peers_are_looked_at_again_and_again_until_the_loop_ends(let_go):
    looks = Looks()
    movers = Movers(checks=[looks])
    communicators = Communicators((), movers.check_peers)
    sentinel = os.eventfd(let_go, os.EFD_CLOEXEC)
    communicators.start([sentinel])
    thread = communicators._thread
    assert thread is not None
    looks.wait_for(3)
    communicators.close()
    thread.join()
    count = looks.count
    communicators.close()
    assert looks.count == count
    os.close(sentinel)


@pytest.mark.parametrize("by_driver", [True, False])
def test_peers_are_not_looked_at_before_the_graph_is_over(by_driver):
    """A stream that went on before could bring about a result, of what never arrived."""
    looks = Looks()
    asked = Looks()
    over = threading.Event()

    def is_over():
        asked()
        return over.is_set()

    communicators = Communicators((), looks, is_over)
    sentinel = os.eventfd(0, os.EFD_CLOEXEC)
    communicators.start([sentinel])
    asked.wait_for(3)
    assert not looks.count
    if by_driver:
        over.set()
    else:
        os.eventfd_write(sentinel, 1)  # the driver has ended
    looks.wait_for(2)
    communicators.close()
    os.close(sentinel)


def test_without_peers_there_is_no_thread():
    communicators = Communicators(())
    communicators.start([])
    assert communicators._thread is None
    communicators.close()
