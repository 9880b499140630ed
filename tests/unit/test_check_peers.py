"""While a loop does not end after the driver has let go of its graph, its peers are looked at."""

from __future__ import annotations

import os
import threading

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


def test_peers_are_looked_at_again_and_again_once_the_driver_has_let_go_and_until_the_loop_ends():
    looks = Looks()
    movers = Movers(checks=[looks])
    communicators = Communicators((), movers.check_peers)
    sentinel = os.eventfd(0, os.EFD_CLOEXEC)
    communicators.start([sentinel])
    thread = communicators._thread
    assert thread is not None
    assert looks.count == 0
    os.eventfd_write(sentinel, 1)
    looks.wait_for(2)
    communicators.close()
    thread.join()
    os.close(sentinel)


def test_a_loop_that_ends_first_has_no_peer_looked_at():
    looks = Looks()
    communicators = Communicators((), looks)
    sentinel = os.eventfd(0, os.EFD_CLOEXEC)
    communicators.start([sentinel])
    thread = communicators._thread
    assert thread is not None
    communicators.close()
    thread.join()
    assert looks.count == 0
    os.close(sentinel)


def test_without_peers_there_is_no_thread():
    communicators = Communicators(())
    communicators.start([])
    assert communicators._thread is None
    communicators.close()
