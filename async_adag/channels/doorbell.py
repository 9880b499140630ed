"""The doorbell: an eventfd by which a process learns that one of its channels has news.

There is one per process and graph, however many channels end there: who is about to sleep marks, in shared
memory, which channel it waits for, and only those who find the mark ring. So one wake-up serves any number of
channels, and a graph costs each process a single descriptor in its event loop.
"""

from __future__ import annotations

import os


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
        except (OSError, ValueError):
            pass  # its owner has closed it; or 2**64 - 2 rings nobody looked at, so that it is ringing

    def silence(self) -> None:
        """Take the rings so far, so that the descriptor is no longer readable; harmless once it is closed."""
        try:
            os.eventfd_read(self.fd)
        except (BlockingIOError, ValueError):
            pass

    def close(self) -> None:
        """Close the descriptor; again is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
