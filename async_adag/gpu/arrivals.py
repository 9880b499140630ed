"""What has arrived at a reader and is still referred to by somebody."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from async_adag.gpu.interface import Span

Kept = TypeVar("Kept")


class Arrival:
    """Memory that has arrived; the memory stays as long as this object does."""

    __slots__ = ("__weakref__", "span")

    def __init__(self, span: Span) -> None:
        self.span = span


class _Share(Generic[Kept]):
    """What several arrivals keep together, and how many of them are left."""

    __slots__ = ("count", "kept")

    def __init__(self, kept: Kept, count: int) -> None:
        self.kept = kept
        self.count = count


_shares: dict[weakref.ref[Arrival], _Share[Any]] = {}
"""Of all arrivals; their edges live through this for as long as somebody refers to what came by them.

`weakref.finalize`, which does the same, takes three times as long.
"""


class Arrivals(Generic[Kept]):
    """Learns what nobody refers to any more, on whatever thread and under whatever lock that happens.

    The last reference may go in a garbage collection, in the middle of anything. So all that is done there is to
    append to a deque, and the edge's own thread does the rest the next time it comes by. When the edge is closed
    nobody comes by any more, and whoever drops something does it.
    """

    def __init__(self, gone: Callable[[Kept], None], finish: Callable[[], None]) -> None:
        """Begin with none.

        Args:
            gone: called with what was kept, once nobody refers to any part of it.
            finish: called once, when this is closed and nobody refers to anything.
        """
        self._gone = gone
        self._finish = finish
        self._dropped: deque[_Share[Kept]] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._finished = False
        self._outstanding = 0

    def hand_out(self, kept: Kept, spans: Sequence[Span]) -> list[Arrival]:
        """An object for each span; ``kept`` is kept until all of them are gone. There is at least one span."""
        share = _Share(kept, len(spans))
        self._outstanding += 1
        arrivals = []
        for span in spans:
            arrival = Arrival(span)
            _shares[weakref.ref(arrival, self._drop)] = share
            arrivals.append(arrival)
        return arrivals

    @property
    def outstanding(self) -> int:
        """How many calls of `hand_out` have parts that somebody refers to, as of the last `collect`."""
        return self._outstanding

    def collect(self) -> None:
        """Take in what is gone: the edge's thread does, and anyone once it is closed."""
        # Whoever finds the lock taken leaves what it has appended to the one who has it, and who looks once more
        # after letting go. Waiting instead could be for this very thread, interrupted by a garbage collection.
        while self._has_work() and self._lock.acquire(blocking=False):
            try:
                while self._dropped:
                    share = self._dropped.popleft()
                    share.count -= 1
                    if share.count == 0:
                        self._outstanding -= 1
                        self._gone(share.kept)
                if self._closed and not self._outstanding and not self._finished:
                    self._finished = True
                    self._finish()
            finally:
                self._lock.release()

    def close(self) -> None:
        """From now on, whoever drops something takes it in at once, and the last one finishes."""
        self._closed = True
        self.collect()

    def _has_work(self) -> bool:
        return bool(self._dropped) or (self._closed and not self._outstanding and not self._finished)

    def _drop(self, watch: weakref.ref[Arrival]) -> None:
        self._dropped.append(_shares.pop(watch))
        if self._closed and not sys.is_finalizing():
            self.collect()
