"""Shared memory of two processes, and a queue of small messages in it, for steps that measure.

Both ends of the queue look, and nobody sleeps. It stands for the channel that carries the notes of an edge, at a
cost of a few microseconds that are the same for whatever is compared. One process puts, one takes.
"""

from __future__ import annotations

import mmap
import os
import pickle
import time
from multiprocessing.reduction import DupFd
from typing import Any

ENTRIES = 64
ROOM = 4096  # bytes of an entry, its length included
HEAD, TAIL = 0, 8  # in words: a cache line for each
FIRST = 4096
LIMIT = 30  # seconds that an end waits for the other


class Page:
    """Shared memory, zeros at first; sent to another process as it is started, it is the same memory.

    Attributes:
        memory: it, to be read and written.
    """

    def __init__(self, nbytes: int, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("steps", os.MFD_CLOEXEC)
            os.ftruncate(fd, nbytes)
        self.nbytes = nbytes
        self._fd = fd
        self.memory = mmap.mmap(fd, nbytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_page, (self.nbytes, DupFd(self._fd))


class Mailbox:
    """One end; sent to another process as it is started, it is the other end."""

    def __init__(self, page: Page | None = None) -> None:
        self._page = page or Page(FIRST + ENTRIES * ROOM)
        self._bytes = memoryview(self._page.memory)
        self._words = self._bytes.cast("Q")

    def __reduce__(self) -> tuple[Any, ...]:
        return Mailbox, (self._page,)

    @property
    def waiting(self) -> int:
        """How many messages have been put and not yet taken."""
        return self._words[HEAD] - self._words[TAIL]

    def put(self, value: Any, room: int = ENTRIES) -> None:
        """Add a message, once fewer than ``room`` are waiting."""
        if self.waiting >= room:
            self._until(lambda: self.waiting < room)
        data = pickle.dumps(value)
        assert len(data) <= ROOM - 8, len(data)
        head = self._words[HEAD]
        at = FIRST + head % ENTRIES * ROOM
        self._words[at // 8] = len(data)
        self._bytes[at + 8 : at + 8 + len(data)] = data
        self._words[HEAD] = head + 1

    def get(self) -> Any:
        words = self._words
        tail = words[TAIL]
        if words[HEAD] == tail:
            self._until(lambda: words[HEAD] != tail)
        at = FIRST + tail % ENTRIES * ROOM
        value = pickle.loads(self._bytes[at + 8 : at + 8 + words[at // 8]])
        words[TAIL] = tail + 1
        return value

    def until_taken(self) -> None:
        """Wait until the other end has taken all that was put."""
        self._until(lambda: not self.waiting)

    @staticmethod
    def _until(done: Any) -> None:
        limit = time.monotonic() + LIMIT
        while not done():
            if time.monotonic() > limit:
                raise TimeoutError(f"the other end of a mailbox has not moved for {LIMIT} s")


def _open_page(nbytes: int, copy: Any) -> Page:
    return Page(nbytes, copy.detach())
