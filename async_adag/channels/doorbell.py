"""The doorbell: an eventfd by which a process learns that one of its channels has news.

There is one per process and graph, however many channels end there: who is about to sleep marks, in shared
memory, which channel it waits for, and only those who find the mark ring. So one wake-up serves any number of
channels, and a graph costs each process a single descriptor in its event loop.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from threading import Lock


class Doorbell:
    """An eventfd. Rung by others, waited for by its owner."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def create(cls) -> Doorbell:
        """A new one.

        Raises:
            OSError: no file descriptor is left.
        """
        return cls(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def is_one(self) -> bool:
        """Whether the descriptor is an eventfd."""
        return os.readlink(f"/proc/self/fd/{self.fd}") == "anon_inode:[eventfd]"

    def ring(self) -> None:
        """Wake the owner."""
        try:
            os.eventfd_write(self.fd, 1)
        except OSError:
            pass  # its owner has closed it; or 2**64 - 2 rings nobody looked at, so that it is ringing

    def silence(self) -> None:
        """Take the rings so far, so that the descriptor is no longer readable."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the descriptor; again is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def make_fence() -> Callable[[], object]:
    """A function that is a full memory fence: no load after it is satisfied before the stores ahead of it.

    CPython offers no fence, but an uncontended lock is taken by an atomic read-modify-write. On x86-64 that is a
    locked instruction, hence a full fence; stores and loads are otherwise in order there, but for a store
    followed by a load. Elsewhere a lock only acquires and releases, so it is cycled twice: what came before the
    first release cannot pass the second acquire. Each user has a lock of its own, so that it never contends.
    """
    lock = Lock()

    def fence() -> None:
        with lock:
            pass

    if platform.machine() in ("x86_64", "AMD64"):
        return fence

    def fence_twice() -> None:
        fence()
        fence()

    return fence_twice
