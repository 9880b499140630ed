"""What goes out: the arguments of executions, each value in the channel that carries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from async_adag.actor.records import Recorder
from async_adag.actor.traced import TracedWriter
from async_adag.channels.interface import STOP, Writer
from async_adag.driver.arguments import Arguments
from async_adag.driver.reasons import Reason, channel_failure
from async_adag.graph.plan import Plan
from async_adag.protocol.frame import FrameError


class Inputs:
    """The driver's writing ends. All but the making and `check` is done under the graph's lock.

    Args:
        plan: of the graph.
        writers: the writing ends, by channel.
        fail: breaks the graph, of which a channel cannot go on.

    Attributes:
        check: of the arguments of one execution; see `Arguments.check`.
        writers: the writing ends; none any more once they are let go.
        is_sending: whether an execution is being sent that is not in the books yet.
    """

    def __init__(self, plan: Plan, writers: dict[int, Writer], fail: Callable[[Reason], None]) -> None:
        arguments = Arguments(plan)
        self.check = arguments.check
        self.writers: list[Writer] = [writers[channel.number] for channel in plan.inputs()]
        self._values = arguments.values
        self._plan = plan
        self._fail = fail
        self.is_sending = False
        self._bytes = 0  # of the writers that were let go

    def may_write(self) -> bool:
        """Whether every channel has room; breaks the graph where one cannot go on."""
        try:
            for writer in self.writers:
                if not writer.may_write():
                    return False
        except FrameError as error:
            self._spoiled(writer, error)
            return False
        return True

    def stage(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Put one execution where `publish` sends it from: all of it or, where something is raised, nothing.

        From here on `is_sending`, until whoever has entered it in the books says otherwise.

        Raises:
            FrameError: a channel cannot go on, which has broken the graph.
            Exception: whatever pickling raised.
        """
        writers = self.writers
        try:
            if len(writers) == 1:
                (writer,) = writers
                frame = writer.encode(self._values(args, kwargs)[0])
                self.is_sending = True
                writer.stage(frame)
            else:
                # All are pickled before any is staged, and all staged before any is sent.
                values = self._values(args, kwargs)
                frames = [each.encode(value) for each, value in zip(writers, values, strict=True)]
                self.is_sending = True
                for writer, frame in zip(writers, frames, strict=True):
                    writer.stage(frame)
        except BaseException as error:
            self.is_sending = False
            for each in writers:
                each.unstage()
            if isinstance(error, FrameError):
                self._spoiled(writer, error)
            raise

    def publish(self) -> None:
        """Send what is staged."""
        for writer in self.writers:
            writer.publish()

    def send_stop(self) -> None:
        """Write STOP behind the last execution; only where `may_write`."""
        for writer in self.writers:
            writer.stage(writer.encode(STOP))
            writer.publish()

    def arm(self) -> bool:
        """Have the doorbell rung when every channel has room; True if there is room now."""
        try:
            full = [writer for writer in self.writers if not writer.may_write()]
            return not full or any(writer.arm() for writer in full)
        except FrameError:
            return not self.may_write()  # which breaks the graph

    def record(self, recorder: Recorder | None, execution: int) -> None:
        """Record what is sent from ``execution`` on, the next one, or no longer."""
        writers: list[Writer] = []
        for writer, channel in zip(self.writers, self._plan.inputs(), strict=False):  # none of a closed graph
            end = writer.plain if isinstance(writer, TracedWriter) else writer
            if recorder is not None:
                end = TracedWriter(end, channel.number, execution, recorder, waits=False)
            writers.append(end)
        self.writers = writers

    def bytes_written(self) -> int:
        """Bytes of payload so far."""
        return self._bytes + sum(writer.bytes for writer in self.writers)

    def let_go(self) -> None:
        """Forget the writing ends, which are closed by whoever owns them."""
        self._bytes = self.bytes_written()
        self.writers.clear()

    def _spoiled(self, writer: Writer, error: FrameError) -> None:
        channel = self._plan.inputs()[self.writers.index(writer)]
        self._fail(channel_failure(self._plan, channel, str(error)))
