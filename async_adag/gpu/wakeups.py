"""Lanes: eventfds that are rung when the device gets somewhere, however it can be had to ring them.

A lane looks at one stream at a time, by an event recorded there, so that the stream itself never waits. It rings
from a side stream of its own, which waits for the event and then calls a C function (`Device.notify`), or, where
that cannot be had, from a thread that blocks on the event. A lane rings strictly in order, so streams that are
awaited at once have lanes of their own: one of them may go on only because of what the other brings.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections import deque
from typing import Protocol

from async_adag.gpu.interface import CannotNotify, Device, DeviceError, Event, Stream


class _Ringer(Protocol):
    @property
    def rings_always(self) -> bool:
        """Whether it rings also when the device has failed, which may skip a function."""

    def ring(self, event: Event, fd: int) -> None:
        """Add 1 to ``fd`` when the device has passed ``event``, and after what was asked for before."""

    def close(self) -> None: ...


class _SideStream:
    """Rings by a C function on a stream of its own: no thread, no GIL."""

    rings_always = False

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = device.stream()

    def ring(self, event: Event, fd: int) -> None:
        self._stream.wait(event)
        self._device.notify(self._stream, fd)

    def close(self) -> None:
        self._stream.close()


class _Reaper:
    """Rings from a thread, also when the device has failed; the thread ends when all has been rung."""

    rings_always = True

    def __init__(self, device: Device) -> None:
        self._device = device
        self._asked: queue.SimpleQueue[tuple[Event, int] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="async-adag-reaper", daemon=True).start()

    def ring(self, event: Event, fd: int) -> None:
        self._asked.put((event, fd))

    def close(self) -> None:
        self._asked.put(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            event, fd = asked
            try:
                self._device.enter()
                event.synchronize()
            except DeviceError:
                pass  # whoever is woken asks the event, and is told the same
            os.eventfd_write(fd, 1)


class Lane:
    """An eventfd, and the places in streams that it is to be rung for, in order. For one thread at a time.

    Attributes:
        fd: the eventfd: readable when `arrived` has something to tell.
    """

    def __init__(self, device: Device) -> None:
        """Make one.

        Raises:
            DeviceError: the device has failed.
            OSError: no descriptor is left.
        """
        self._device = device
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._ringer: _Ringer = _SideStream(device)
        except BaseException:
            os.close(self.fd)
            raise
        self._pending: deque[Event] = deque()
        self._unrung: Event | None = None  # behind all that is pending, and nothing rings for it yet
        self._spare: list[Event] = []

    @property
    def rings_always(self) -> bool:
        """Whether what is pending is rung also when the device has failed."""
        return self._ringer.rings_always

    @property
    def pending(self) -> int:
        """How many rings are still to come."""
        return len(self._pending)

    def follow(self, stream: Stream, *, quietly: bool = False) -> bool:
        """Ring when all that was issued to ``stream`` so far is done.

        Args:
            stream: the one that this lane looks at.
            quietly: do not ring: `has_come` tells, until `ring` or another place is asked for.

        Returns:
            False if it is done already: nothing rings then.

        Raises:
            DeviceError: the device has failed; nothing rings.
        """
        self.ring()
        event = self._spare.pop() if self._spare else self._device.event()
        try:
            stream.record(event)
            done = event.query()
        except BaseException:
            event.close()
            raise
        if done:
            self._spare.append(event)
            return False
        self._unrung = event
        if not quietly:
            self.ring()
        return True

    def ring(self) -> None:
        """Have it ring for what was asked for quietly, if there is such a thing.

        Raises:
            DeviceError: the device has failed; nothing rings.
        """
        event, self._unrung = self._unrung, None
        if event is None:
            return
        try:
            try:
                self._ringer.ring(event, self.fd)
            except CannotNotify:
                self._ringer.close()
                self._ringer = _Reaper(self._device)
                self._ringer.ring(event, self.fd)
        except BaseException:
            event.close()
            raise
        self._pending.append(event)

    def has_come(self) -> bool:
        """Whether the device has got to what was asked for quietly, which is over then.

        Raises:
            DeviceError: the device has failed.
        """
        event = self._unrung
        if event is None or not event.query():
            return False
        self._unrung = None
        self._spare.append(event)
        return True

    def arrived(self) -> int:
        """Take in the rings since the last call; returns how many of the oldest places they were for.

        Raises:
            DeviceError: the device has failed.
        """
        try:
            rung = os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0
        failure = None
        for _ in range(rung):
            event = self._pending.popleft()
            try:
                event.query()
            except DeviceError as error:
                failure = error
            self._spare.append(event)
        if failure is not None:
            raise failure
        return rung

    def passed(self) -> int:
        """How many of the oldest places that are pending the device has passed, rung for or not.

        Raises:
            DeviceError: the device has failed: it may skip what would have rung.
        """
        for number, event in enumerate(self._pending):
            if not event.query():
                return number
        return len(self._pending)

    def close(self) -> None:
        """Let go of everything at once, which is for when nothing is pending; otherwise `retire` it."""
        self._ringer.close()
        os.close(self.fd)
        if self._unrung is not None:
            self._spare.append(self._unrung)
            self._unrung = None
        for event in (*self._pending, *self._spare):
            event.close()
        self._pending.clear()
        self._spare.clear()


GRACE_S = 0.1
"""How long a function may still be ringing that was begun just before its device failed."""

_lock = threading.Lock()
_retired: dict[Lane, float] = {}
"""Lanes that are to be closed; and when the device of each was found to have failed, or infinity."""


def retire(lane: Lane) -> None:
    """Close ``lane`` as soon as nothing can ring it any more; `sweep` does what is left to be done later.

    A descriptor that is closed before would be another's by the time of the ring.
    """
    if not lane.pending:
        lane.close()
        return
    with _lock:
        _retired[lane] = math.inf


def sweep() -> bool:
    """Close the retired lanes that can be closed; returns whether some are left, to come back for."""
    with _lock:
        for lane, failed_at in list(_retired.items()):
            skipped = time.monotonic() - failed_at > GRACE_S and not lane.rings_always
            try:
                lane.arrived()
                lane.passed()
            except DeviceError:
                _retired[lane] = min(failed_at, time.monotonic())
            if skipped or not lane.pending:
                del _retired[lane]
                lane.close()
        return bool(_retired)
