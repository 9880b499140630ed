"""What an actor's GPU does, in records: tensors that it receives, tasks that it computes, tensors that it sends.

They are taken from events around each of these, and written as soon as the device is found to be done, at the
latest when recording stops. Loaded only by an actor whose share has an edge from or to a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from async_adag.actor.records import Activity, Recorder
from async_adag.gpu.arrays import current_streams
from async_adag.gpu.buffers import wait_until
from async_adag.gpu.interface import DeviceError, Stream, TimedEvent
from async_adag.gpu.stopwatch import Stopwatch
from async_adag.gpu.transfer import Marks

SETTLE = 0.5
"""How long stopping waits for the device, in seconds."""


class Marked(Protocol):
    """An end of an edge that tells of its transfers."""

    marks: Marks | None


class _Channel:
    """Has the transfers of one channel recorded: `transfer.Marks`."""

    def __init__(self, activity: Activity, number: int, stopwatch: Stopwatch, recorder: Recorder) -> None:
        self._what = activity, number
        self._stopwatch = stopwatch
        self._recorder = recorder
        self._began: TimedEvent | None = None

    def begin(self, stream: Stream) -> None:
        """See `transfer.Marks`."""
        self._began = self._stopwatch.begin(stream)

    def end(self, stream: Stream) -> None:
        """See `transfer.Marks`."""
        if self._began is not None:
            self._stopwatch.end(stream, self._began, (*self._what, self._recorder.execution))


class GpuLanes:
    """Records while it is started; costs nothing else. One thread at a time, which has not to enter the device."""

    def __init__(
        self,
        gate: Any,
        ends: Sequence[tuple[Activity, int, Marked]],
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Begin stopped.

        Args:
            gate: the device, as threads enter it.
            ends: whether it receives or sends, its channel, and the end itself.
            now: the clock of the records.
        """
        self._gate = gate
        self._ends = ends
        self._now = now
        self._recorder: Recorder | None = None
        self._stopwatch: Stopwatch | None = None
        self._began: list[tuple[Stream, TimedEvent]] = []

    def start(self, recorder: Recorder) -> None:
        """Record from now on. On a device that has failed, nothing is."""
        self.stop()
        with suppress(DeviceError):
            self._gate.streams(set())
            self._stopwatch = stopwatch = Stopwatch(self._gate.device, self._now)
            self._recorder = recorder
            for activity, number, end in self._ends:
                end.marks = _Channel(activity, number, stopwatch, recorder)

    def begin(self) -> None:
        """A method is about to be called: what it issues to the streams that are current now is its task's."""
        self._began = []
        if self._stopwatch is not None:
            with suppress(DeviceError):
                streams = [self._gate.device.adopt(one) for one in current_streams(self._gate.device.ordinal)]
                self._began = [(stream, self._stopwatch.begin(stream)) for stream in streams]

    def end(self, task: int) -> None:
        """It has returned."""
        began, self._began = self._began, []
        if self._stopwatch is not None and self._recorder is not None:
            with suppress(DeviceError):
                for stream, event in began:
                    self._stopwatch.end(stream, event, (Activity.DEVICE, task, self._recorder.execution))

    def collect(self) -> bool:
        """Record what the device has done since; whether that is all."""
        stopwatch, recorder = self._stopwatch, self._recorder
        if stopwatch is None or recorder is None:
            return True
        try:
            for (activity, number, execution), began, ended in stopwatch.collect():
                recorder.add(activity, number, execution, began, max(began, ended))
        except DeviceError:
            return True  # there will be no more, and whoever waits for what it was to do finds that out
        return stopwatch.is_idle

    def stop(self, patience: float = SETTLE) -> None:
        """Record no longer, but for what the device is still to do, as far as it does so within so many seconds.

        Again is harmless.
        """
        if self._stopwatch is None:
            return
        for _, _, end in self._ends:
            end.marks = None
        wait_until(self.collect, patience)
        self._stopwatch.close()
        self._stopwatch = self._recorder = None
