"""The reading end of a ring into which the frames of another host come, in the process that they come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_adag.channels.doorbell import Doorbell
from async_adag.channels.processor import current_cpu, make_fence
from async_adag.channels.ring import RingReader, RingSpec
from async_adag.protocol.ring import QuietCursor

if TYPE_CHECKING:
    from async_adag.channels.landing import Landing


class LandedReader(RingReader):
    """A reading end that has the credits of its landing sent. See `ring.RingReader`."""

    def __init__(self, spec: RingSpec, fd: int, reader: int, doorbell: Doorbell, landing: Landing) -> None:
        super().__init__(spec, fd, reader, doorbell)
        self._landing = landing
        self._alone = spec.readers == 1
        if self._alone:
            self._cursor = QuietCursor(self._words, self._layout, reader, make_fence(), current_cpu)
            self.may_read = self._cursor.may_read
            self.arm = self._cursor.arm

    def read(self) -> Any:
        """See `interface.Reader`."""
        try:
            return super().read()
        finally:
            taken = self._cursor.tail if self._alone else self._taken_by_all()
            if taken >= self._landing.due:
                self._landing.pay()

    def discard(self) -> None:
        """See `interface.Reader`."""
        super().discard()
        if self._taken_by_all() >= self._landing.due:
            self._landing.pay()

    def _taken_by_all(self) -> int:
        words = self._words
        return min([words[tail] for tail in self._layout.tails])
