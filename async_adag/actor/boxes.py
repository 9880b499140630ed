"""Boxes: a channel of an async actor, whose executions interleave while frames keep their order."""

from __future__ import annotations

import asyncio
from typing import Any

from async_adag.actor.calls import Call, ChannelFailed
from async_adag.actor.records import Recorder
from async_adag.actor.traced import TracedReader
from async_adag.channels.codec import Encoded
from async_adag.channels.interface import STOP, Reader, Writer
from async_adag.protocol.frame import ChannelError, FrameError


class Unreadable:
    """In place of a frame's value: why it could not be unpickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Inbox:
    """Frames of one channel, handed to the executions they belong to.

    Attributes:
        reader: its reading end.
        edge: it in words.
        kept: what was read and not yet taken, by execution.
        wanted: who waits for what, by execution.
    """

    def __init__(self, reader: Reader, edge: str) -> None:
        self.reader = reader
        self.edge = edge
        self.kept: dict[int, Any] = {}
        self.wanted: dict[int, asyncio.Future[None]] = {}
        self._next = 0

    def record(self, channel: int, recorder: Recorder | None) -> None:
        """Record what is read from now on, or no longer."""
        plain = self.reader.plain if isinstance(self.reader, TracedReader) else self.reader
        self.reader = plain if recorder is None else TracedReader(plain, channel, recorder)

    def take_next(self) -> Any:
        """The next frame's value, or why it could not be unpickled.

        Raises:
            ChannelError: the channel cannot go on.
        """
        self._next += 1
        try:
            return self.reader.read()
        except FrameError as error:
            raise ChannelFailed(self.edge, self._next - 1, error) from error
        except ChannelError:
            raise  # what carries the tensors cannot go on
        except BaseException as error:  # of the user's, whatever it is
            return Unreadable(error)

    def keep(self, seq: int, value: Any) -> None:
        """Keep a value for its execution, and wake that."""
        self.kept[seq] = value
        future = self.wanted.get(seq)
        if future is not None and not future.done():
            future.set_result(None)

    def deliver(self) -> None:
        """Keep what has arrived, as far as somebody waits for it."""
        while self.is_starved() and self.reader.may_read():
            seq = self._next
            self.keep(seq, self.take_next())

    def is_starved(self) -> bool:
        """Whether somebody waits for a frame that was not read yet."""
        return bool(self.wanted) and self._next <= max(self.wanted)


class Outbox:
    """Frames of one channel, written in the order of their executions.

    Attributes:
        writer: its writing end.
        waiting: what cannot be written yet, by execution; without a call it is STOP.
    """

    def __init__(self, writer: Writer, edge: str) -> None:
        self.writer = writer
        self._edge = edge
        self.waiting: dict[int, tuple[Call | None, Encoded]] = {}
        self._next = 0

    def put(self, seq: int, call: Call, encoded: Encoded) -> None:
        """Write the frame of an execution, now or when it is its turn."""
        if seq == self._next and self._may_write():
            self._write(call, encoded)
            self.flush()
        else:
            # It has to wait: the method's memory is the method's again, so the buffers are copied.
            kind, body, buffers = encoded
            self.waiting[seq] = call, (kind, body, [memoryview(bytes(buffer)) for buffer in buffers])

    def end(self, seq: int) -> None:
        """Write STOP behind the last execution."""
        self.waiting[seq] = None, self.writer.encode(STOP)
        self.flush()

    def is_blocked(self) -> bool:
        """Whether the frame whose turn it is waits for room."""
        return self._next in self.waiting

    def flush(self) -> None:
        """Write what may be written."""
        while self._next in self.waiting and self._may_write():
            self._write(*self.waiting.pop(self._next))

    def arm(self) -> bool:
        """As `Writer.arm`."""
        try:
            return self.writer.arm()
        except FrameError as error:
            raise ChannelFailed(self._edge, self._next, error) from error

    def _may_write(self) -> bool:
        try:
            return self.writer.may_write()
        except FrameError as error:
            raise ChannelFailed(self._edge, self._next, error) from error

    def _write(self, call: Call | None, encoded: Encoded) -> None:
        try:
            if call is None:
                self.writer.stage(encoded)
            else:
                call.stage(self.writer, encoded)
        except FrameError as error:
            raise ChannelFailed(self._edge, self._next, error) from error
        self.writer.publish()
        self._next += 1
