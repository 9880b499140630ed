"""The backlog: bytes that a connection has still to send, copied, as their owner may change them meanwhile.

They lie in chunks of memory that is used again and again: fresh memory costs several times what the copy does.
"""

from __future__ import annotations

from collections import deque
from typing import Any

CHUNK = 512 * 1024
KEEP = 64  # chunks that are kept for the next time
IDLE = 1.0  # seconds between looks for chunks that nobody has needed
SEND = 16  # pieces that are offered to the kernel at once


class Chunks:
    """Memory for the backlogs of a process; the chunks given back last are used first."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._least = 0  # that were free since the last `trim`

    def take(self) -> memoryview:
        """A chunk of `CHUNK` bytes."""
        try:
            chunk = self._free.pop()
        except IndexError:
            return memoryview(bytearray(CHUNK))
        self._least = min(self._least, len(self._free))
        return chunk

    def give_back(self, chunk: memoryview) -> None:
        """A chunk is free again."""
        if len(self._free) < KEEP:
            self._free.append(chunk)

    def trim(self) -> None:
        """Let go of the chunks that nobody has needed since the last time."""
        least = min(self._least, len(self._free))
        del self._free[:least]
        self._least = len(self._free)


class Backlog:
    """What one connection has still to send.

    Attributes:
        size: bytes of it.
    """

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self.size = 0
        self._full: deque[memoryview] = deque()  # each with what is to be sent of it
        self._begin = self._end = 0  # of what is to be sent in the last, which is still being filled
        self._whole: deque[memoryview] = deque()
        self._last: memoryview | None = None

    def __bool__(self) -> bool:
        return self.size > 0

    def put(self, data: Any, start: int) -> int:
        """Copy ``data`` from byte ``start`` on, as much as one chunk takes; where that ends."""
        if self._last is None:
            self._last = self._chunks.take()
            self._begin = self._end = 0
        count = min(len(data) - start, CHUNK - self._end)
        self._last[self._end : self._end + count] = data[start : start + count]
        self._end += count
        self.size += count
        if self._end == CHUNK:
            self._full.append(self._last[self._begin :])
            self._whole.append(self._last)
            self._last = None
            self._begin = self._end = 0
        return start + count

    def pieces(self) -> list[memoryview]:
        """What is to be sent next, in order."""
        pieces = [self._full[at] for at in range(min(SEND, len(self._full)))]
        if self._last is not None and self._begin < self._end and len(pieces) < SEND:
            pieces.append(self._last[self._begin : self._end])
        return pieces

    def sent(self, count: int) -> None:
        """The first ``count`` bytes were sent."""
        self.size -= count
        while self._full:
            first = self._full[0]
            if count < len(first):
                self._full[0] = first[count:]
                return
            count -= len(first)
            self._full.popleft()
            self._chunks.give_back(self._whole.popleft())
        self._begin += count
        if self._last is not None and self._begin == self._end:
            self._chunks.give_back(self._last)
            self._last = None
            self._begin = self._end = 0

    def clear(self) -> None:
        """Let go of all of it."""
        self.size = 0
        while self._whole:
            self._chunks.give_back(self._whole.popleft())
        if self._last is not None:
            self._chunks.give_back(self._last)
        self._full.clear()
        self._last = None
        self._begin = self._end = 0
