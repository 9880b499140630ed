"""When, by the host's clock, the device did what was issued to its streams: by a pair of events around it.

Events tell how much later one was passed than another, not when. So an event is recorded now and then on a stream
with nothing to do, between two looks at the host's clock: the others are counted from there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from async_adag.gpu.interface import Device, DeviceError, Stream, TimedEvent

ROUNDS = 8
"""How often the clocks are compared at a time; what took least counts."""

ANEW = 1_000_000_000
"""Nanoseconds after which they are compared again: the further away an event is, the less exact CUDA tells it."""

PATIENCE = 10_000_000
"""Nanoseconds that a comparison may take: on a device with much to do it is given up, and made again later."""


class Lap(NamedTuple):
    """What the device has done.

    Attributes:
        what: as it was told to `Stopwatch.end`.
        began: when it came to it, in nanoseconds of the host's clock.
        ended: when it was done with it.
    """

    what: Any
    began: int
    ended: int


class _Running(NamedTuple):
    what: Any
    began: TimedEvent
    ended: TimedEvent


class Stopwatch:
    """For one thread, which has entered the device."""

    def __init__(self, device: Device, now: Callable[[], int] = time.monotonic_ns) -> None:
        """Begin with nothing.

        Args:
            device: whose streams are watched.
            now: the host's clock, in nanoseconds.
        """
        self._device = device
        self._now = now
        self._idle = device.stream()
        self._free: list[TimedEvent] = []
        self._running: deque[_Running] = deque()
        self._base: tuple[TimedEvent, int] | None = None  # an event, and when it was passed
        self._compared = 0

    def begin(self, stream: Stream) -> TimedEvent:
        """What is to be timed is issued to ``stream`` from here on; give what this returns to `end`."""
        event = self._free.pop() if self._free else self._device.timed_event()
        stream.record(event)
        return event

    def end(self, stream: Stream, began: TimedEvent, what: Any) -> None:
        """It has been issued: ``what`` comes back as a `Lap` once the device has done it."""
        self._running.append(_Running(what, began, self.begin(stream)))

    @property
    def is_idle(self) -> bool:
        """Whether the device has done all of it, and all has been collected."""
        return not self._running

    def collect(self) -> list[Lap]:
        """Those that the device has done since; none while the clocks cannot be compared.

        Raises:
            DeviceError: the device has failed.
        """
        if not self._running or not self._running[0].ended.query():
            return []
        if self._base is None or self._now() - self._compared > ANEW:
            self._compare()
        if self._base is None:
            return []
        laps, going = [], deque[_Running]()
        base, at = self._base
        for running in self._running:  # of several streams, so a later one may be over first
            what, began, ended = running
            if not ended.query():
                going.append(running)
                continue
            laps.append(Lap(what, at + began.since(base), at + ended.since(base)))
            self._free += (began, ended)
        self._running = going
        return laps

    def _compare(self) -> None:
        """Record an event that the device passes at once, and note when; the old one stays if it does not."""
        best: tuple[int, TimedEvent, int] | None = None
        deadline = self._now() + PATIENCE
        for _ in range(ROUNDS):
            event = self._device.timed_event()
            before = self._now()
            self._idle.record(event)
            while not event.query():
                if self._now() > deadline:
                    break
            after = self._now()
            if after > deadline or (best is not None and after - before >= best[0]):
                event.close()
                continue
            if best is not None:
                best[1].close()
            best = after - before, event, (before + after) // 2
        if best is not None:
            if self._base is not None:
                self._base[0].close()
            self._base = best[1:]
            self._compared = self._now()

    def close(self) -> None:
        """Let go of everything; what is not over is not told any more. Again is harmless."""
        with suppress(DeviceError):
            for event in [*self._free, *(event for _, *pair in self._running for event in pair)]:
                event.close()
            if self._base is not None:
                self._base[0].close()
            self._idle.close()
        self._free.clear()
        self._running.clear()
        self._base = None
