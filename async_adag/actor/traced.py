"""Channel ends and calls that record what they do. They stand in for the plain ones while a graph is traced.

So an execution that is not traced meets nothing of this.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Any, Generic, TypeVar

from async_adag.actor.calls import Call
from async_adag.actor.control import Control
from async_adag.actor.records import Activity, Lanes, Recorder
from async_adag.channels.codec import Encoded
from async_adag.channels.interface import STOP, Failure, Reader, Writer

End = TypeVar("End", bound=Reader | Writer)


class _TracedEnd(Generic[End]):
    """What both kinds of ends share. The channel's own end, ``plain``, stays its owner's to close."""

    def __init__(self, plain: End, channel: int, recorder: Recorder, *, waits: bool = True) -> None:
        self.plain = plain
        self._channel = channel
        self._recorder = recorder
        self._waits = waits
        self._waiting = 0  # since when there was no frame, or no room

    @property
    def bytes(self) -> int:
        """Of payload, so far."""
        return self.plain.bytes

    def arm(self) -> bool:
        """Have the doorbell rung; True if what is waited for is there."""
        return self.plain.arm()

    def close(self) -> None:
        """Let go of the channel's own end."""
        self.plain.close()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self.plain.leave_to_parent()


class TracedReader(_TracedEnd[Reader]):
    """A reading end: see `interface.Reader`.

    Args:
        plain: the channel's.
        channel: its number.
        recorder: takes the records.
        waits: whether to record how long no frame was there, too.
    """

    def may_read(self) -> bool:
        """See `interface.Reader`."""
        if self.plain.may_read():
            return True
        if not self._waiting:
            self._waiting = monotonic_ns()
        return False

    def read(self) -> Any:
        """See `interface.Reader`."""
        began = monotonic_ns()
        seq = self.plain.taken()
        recorder, channel = self._recorder, self._channel
        recorder.execution = seq
        since, self._waiting = self._waiting, 0
        if since and self._waits:
            recorder.add(Activity.WAIT, channel, seq, since, began)
        try:
            value = self.plain.read()
        except BaseException:
            recorder.add(Activity.READ, channel, seq, began, monotonic_ns(), failed=True)
            raise
        if value is not STOP:
            recorder.add(Activity.READ, channel, seq, began, monotonic_ns(), failed=type(value) is Failure)
        return value

    def taken(self) -> int:
        """See `interface.Reader`."""
        return self.plain.taken()

    def discard(self) -> None:
        """See `interface.Reader`."""
        self.plain.discard()


class TracedWriter(_TracedEnd[Writer]):
    """A writing end: see `interface.Writer`.

    Args:
        plain: the channel's.
        channel: its number.
        execution: whose frame is written next.
        recorder: takes the records.
        waits: whether to record how long there was no room, too.
    """

    def __init__(
        self, plain: Writer, channel: int, execution: int, recorder: Recorder, *, waits: bool = True
    ) -> None:
        super().__init__(plain, channel, recorder, waits=waits)
        self._execution = execution
        self._began = 0  # to encode, when
        self._stops = False

    def encode(self, value: Any) -> Encoded:
        """See `interface.Writer`."""
        self._began = monotonic_ns()
        self._stops = value is STOP
        return self.plain.encode(value)

    def may_write(self) -> bool:
        """See `interface.Writer`."""
        if self.plain.may_write():
            return True
        if not self._waiting:
            self._waiting = monotonic_ns()
        return False

    def stage(self, encoded: Encoded) -> None:
        """See `interface.Writer`."""
        since, self._waiting = self._waiting, 0
        if since and self._waits:
            self._recorder.add(Activity.WAIT, self._channel, self._execution, since, monotonic_ns())
        self.plain.stage(encoded)

    def unstage(self) -> None:
        """See `interface.Writer`."""
        self._waiting = 0
        self.plain.unstage()

    def call_up(self) -> None:
        """See `interface.Writer`."""
        self.plain.call_up()

    def publish(self) -> None:
        """See `interface.Writer`."""
        if self._stops:
            self.plain.publish()
            return
        # The record is there before the frame: whoever has the last result of an execution finds all its records.
        recorder = self._recorder
        recorder.add(Activity.WRITE, self._channel, self._execution, self._began, monotonic_ns())
        self._execution += 1
        self.plain.publish()
        recorder.extend(monotonic_ns())


class TracedCall(Call):
    """A call of a synchronous actor's, with ends that record."""

    __slots__ = ("_control", "_lanes", "_recorder")

    def __init__(
        self, call: Call, control: Control, execution: int, recorder: Recorder, lanes: Lanes | None
    ) -> None:
        self.take_over(call)
        self.reads = [(n, TracedReader(reader, n, recorder), targets) for n, reader, targets in call.reads]
        self.writes = [
            (n, TracedWriter(writer, n, execution, recorder), sources, done)
            for n, writer, sources, done in call.writes
        ]
        self._control = control
        self._recorder = recorder
        self._lanes = lanes

    def arguments(self, registers: list[Any]) -> tuple[list[Any], dict[str, Any]] | Failure:
        """As `Call.arguments`; the call comes next."""
        arguments = super().arguments(registers)
        if self._lanes is not None and type(arguments) is not Failure:
            self._lanes.begin()
        return arguments

    def store(self, registers: list[Any], result: Any) -> None:
        """As `Call.store`; this is where the loop comes to when the method has run, or could not."""
        seq = self._recorder.execution
        began = self._control.began(self.number, seq)
        if began:
            failed = type(result) is Failure
            self._recorder.add(Activity.COMPUTE, self.number, seq, began, began + self.took, failed)
            if self._lanes is not None:
                self._lanes.end(self.number)
                self._lanes.collect()
        super().store(registers, result)


def traced_calls(
    calls: list[Call], control: Control, execution: int, recorder: Recorder, lanes: Lanes | None
) -> list[Call]:
    """The calls of a synchronous actor, recording from ``execution`` on; ``lanes`` what its device does."""
    return [TracedCall(call, control, execution, recorder, lanes) for call in calls]
