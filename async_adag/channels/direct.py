"""The hand-over: a channel within one process, which passes the object itself.

Nothing is pickled or copied, so what the reader gets is what the writer gave, as in an ordinary call. It joins a
graph's driver to nodes on that same actor; nodes of one loop pass their values through its registers instead.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from async_adag.channels.codec import Encoded, Failure
from async_adag.channels.doorbell import Doorbell

_VALUE = -1
_NO_BUFFERS: list[memoryview] = []


class Direct:
    """A hand-over with ``slots`` places; make one `DirectWriter` and one `DirectReader` for each reader."""

    __slots__ = ("doorbells", "parked", "queues", "slots", "writer_doorbell", "writer_parked", "written")

    def __init__(self, slots: int, doorbells: list[Doorbell], writer_doorbell: Doorbell) -> None:
        """A hand-over whose readers have these doorbells, in their order."""
        self.slots = slots
        self.queues: list[deque[Any]] = [deque() for _ in doorbells]
        self.doorbells = doorbells
        self.parked = [False] * len(doorbells)
        self.writer_doorbell = writer_doorbell
        self.writer_parked = False
        self.written = 0


class DirectWriter:
    """The writing end."""

    def __init__(self, channel: Direct) -> None:
        self._channel = channel
        self._staged: list[Any] = []
        self.bytes = 0

    def encode(self, value: Any) -> Encoded:
        """See `interface.Writer`; any object will do."""
        return _VALUE, value, _NO_BUFFERS

    def may_write(self) -> bool:
        """See `interface.Writer`."""
        return all(len(queue) < self._channel.slots for queue in self._channel.queues)

    def stage(self, encoded: Encoded) -> None:
        """See `interface.Writer`."""
        self._staged = [encoded[1]]

    def unstage(self) -> None:
        """See `interface.Writer`."""
        self._staged = []

    def call_up(self) -> None:
        """See `interface.Writer`; in one process there is nothing to be gained."""

    def publish(self) -> None:
        """See `interface.Writer`."""
        channel = self._channel
        (value,) = self._staged
        self._staged = []
        channel.written += 1
        for number, queue in enumerate(channel.queues):
            queue.append(value)
            if channel.parked[number] or type(value) is Failure:  # in order under the GIL: no fence
                channel.parked[number] = False
                channel.doorbells[number].ring()

    def arm(self) -> bool:
        """See `interface.Writer`."""
        before, self._channel.writer_parked = self._channel.writer_parked, True
        if self.may_write():
            self._channel.writer_parked = before  # another thread of this end may sleep by it
            return True
        return False

    def close(self) -> None:
        """See `interface.Writer`."""
        self._staged = []

    def leave_to_parent(self) -> None:
        """See `interface.Writer`."""
        self.close()


class DirectReader:
    """Reading end number ``reader``."""

    def __init__(self, channel: Direct, reader: int) -> None:
        self._channel = channel
        self._reader = reader
        self._queue = channel.queues[reader]
        self._taken = 0
        self.bytes = 0

    def may_read(self) -> bool:
        """See `interface.Reader`."""
        return bool(self._queue)

    def read(self) -> Any:
        """See `interface.Reader`."""
        value = self._queue.popleft()
        self._taken += 1
        if self._channel.writer_parked:
            self._channel.writer_parked = False
            self._channel.writer_doorbell.ring()
        return value

    def taken(self) -> int:
        """See `interface.Reader`."""
        return self._taken

    def discard(self) -> None:
        """See `interface.Reader`."""
        self.read()

    def arm(self) -> bool:
        """See `interface.Reader`."""
        parked, number = self._channel.parked, self._reader
        before, parked[number] = parked[number], True
        if self._queue:
            parked[number] = before  # another thread of this end may sleep by it
            return True
        return False

    def close(self) -> None:
        """See `interface.Reader`."""
        self._queue.clear()

    def leave_to_parent(self) -> None:
        """See `interface.Reader`."""
        self.close()
