"""A queue of small messages in shared memory, for steps that measure: both ends look, and nobody sleeps.

It stands for the channel that carries the notes of an edge, at a cost of a few microseconds that are the same for
whatever is compared. One process puts, one takes.
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


class Mailbox:
    """One end; sent to another process as it is started, it is the other end."""

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("steps", os.MFD_CLOEXEC)
            os.ftruncate(fd, FIRST + ENTRIES * ROOM)
        self.fd = fd
        self._map = mmap.mmap(fd, FIRST + ENTRIES * ROOM)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (DupFd(self.fd),)

    @property
    def waiting(self) -> int:
        """How many messages have been put and not yet taken."""
        return self._words[HEAD] - self._words[TAIL]

    def put(self, value: Any) -> None:
        if self.waiting == ENTRIES:
            self._until(lambda: self.waiting < ENTRIES)
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


def _open(copy: Any) -> Mailbox:
    return Mailbox(copy.detach())
