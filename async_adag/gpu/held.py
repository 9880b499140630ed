"""Owners of memory that the device still reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from async_adag.gpu.buffers import Events, wait_until
from async_adag.gpu.interface import DeviceError, Event


class Held:
    """Refers to owners until the events behind the last work on their memory have fired."""

    def __init__(self, events: Events) -> None:
        """Begin with none.

        Args:
            events: where the events go when they have fired.
        """
        self._events = events
        self._held: deque[tuple[list[Event], Any]] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, events: list[Event], owners: Sequence[Any]) -> None:
        """Hold ``owners`` until all ``events`` have fired; they were recorded behind those of earlier calls."""
        self._held.append((events, owners))

    def release(self) -> bool:
        """Let go of what the device is done with; whether that is all. Does not wait.

        Raises:
            DeviceError: the device has failed.
        """
        while self._held:
            events, _ = self._held[0]
            if not all(event.query() for event in events):
                return False
            self._held.popleft()
            for event in events:
                self._events.give_back(event)
        return True

    def close(self, patience: float) -> bool:
        """Let go of all, once the device is done with it; whether it was, within so many seconds.

        What it is not done with is let go of too, if the device has failed: nothing reads it any more.
        """
        try:
            return wait_until(self.release, patience)
        except DeviceError:
            self._held.clear()
            return True
