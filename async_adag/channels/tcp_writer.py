"""The writing end of a channel whose readers are on another host."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from async_adag.channels import forks
from async_adag.channels.codec import Encoded, Encoder
from async_adag.channels.connection import CLOSED, Connection, Hub
from async_adag.channels.holds import Holds
from async_adag.channels.ring import HOLDS
from async_adag.channels.stream import Bytes, Stream
from async_adag.protocol.frame import ALIGNMENT, FrameError, Kind, layout
from async_adag.protocol.ring import RingLayout
from async_adag.protocol.wire import CREDIT, HEADER_SIZE, PING, RELEASE, check_credit, pack_frame, unpack

JOINED = 16 * 1024  # bytes of a body up to which it is copied behind its header rather than sent from where it is
_REFS, _STOP = int(Kind.REFS), int(Kind.STOP)
_PADDING = bytes(ALIGNMENT)
_BUFFER = 4096


class TcpWriter(Connection):
    """The writing end. Made by `Network.add_writer`.

    Room is told by credits: how many frames all readers have taken. ``arm`` promises that the network's descriptor
    becomes readable when one comes.

    Attributes:
        written: frames that were published.
        credited: how many of them all readers have taken, as far as this side was told.
    """

    encode: Callable[[Any], Encoded]

    def __init__(self, hub: Hub, channel: int, stream: Stream, slots: int) -> None:
        super().__init__(hub, channel, stream)
        self._slots = slots
        self.written = 0
        self.credited = 0
        self._limit = slots  # what head may grow to
        self._encoder = Encoder()
        self.encode = self._encoder.encode
        ring = RingLayout(slots, 1, 0, HOLDS)
        self._words = [0] * ring.words  # in which the other side's RELEASEs are noted, as readers of a ring would
        self._released = ring.released[0]
        self._holds = Holds(self._words, ring)
        self._staged: list[Bytes] | None = None
        self._staged_hold: int | None = None
        self._staged_kind = 0
        self._staged_bytes = 0
        self._stopped = False
        self._buffer = memoryview(bytearray(_BUFFER))
        self._filled = 0
        self.bytes = 0
        self._begin_to_look(of_loop=True)

    # -- see interface.Writer

    def may_write(self) -> bool:
        """See `interface.Writer`. False for good when the connection is lost."""
        return self.written < self._limit

    def arm(self) -> bool:
        """See `interface.Writer`; what rings is the network's descriptor."""
        return self.written < self._limit

    def stage(self, encoded: Encoded) -> None:
        """See `interface.Writer`. The buffers are the value's own until `publish`."""
        kind, body, buffers = encoded
        hold = held = 0
        if kind == _REFS:
            body, refs = body
            hold, held = self._holds.take(refs)
            self.encode = self._encode_and_sweep
            self._staged_hold = hold if held else None
        size = len(body)
        if buffers:
            sizes = [buffer.nbytes for buffer in buffers]
            starts, length = layout(size, sizes)
            header = pack_frame(kind, hold, self.written, size, length, held, len(sizes))
            parts: list[Bytes] = [b"".join((header, struct.pack(f"={len(sizes)}Q", *sizes), body))]
            at = 8 * len(sizes) + size
            for start, buffer in zip(starts, buffers, strict=True):
                if start > at:
                    parts.append(_PADDING[: start - at])
                parts.append(buffer)
                at = start + buffer.nbytes
        else:
            length = size
            header = pack_frame(kind, hold, self.written, size, length, held, 0)
            parts = [header + body] if size <= JOINED else [header, memoryview(body)]
        self._staged = parts
        self._staged_kind = kind
        self._staged_bytes = length
        self.bytes += length

    def _encode_and_sweep(self, value: Any) -> Encoded:
        """`encode`, for as long as refs are held."""
        self._holds.sweep()
        if not self._holds.refs:
            self.encode = self._encoder.encode
        return self._encoder.encode(value)

    def unstage(self) -> None:
        """See `interface.Writer`."""
        self.bytes -= self._staged_bytes
        self._staged_bytes = 0
        self._staged = None
        hold, self._staged_hold = self._staged_hold, None
        if hold is not None:
            self._holds.untake(hold)

    def call_up(self) -> None:
        """See `interface.Writer`; nobody is woken through a network ahead of a frame."""

    def publish(self) -> None:
        """See `interface.Writer`. What is sent may be changed from now on, however much of it has gone out."""
        parts, self._staged = self._staged, None
        assert parts is not None
        length, self._staged_bytes = self._staged_bytes, 0
        self._staged_hold = None
        self._stopped = self._staged_kind == _STOP
        self.written += 1
        with self.lock:
            size = HEADER_SIZE + length
            self._send(parts, size)
        if self.lost:
            self._tell()

    def backed_bytes(self) -> int:
        """Bytes of payload memory that this channel keeps: none of its own."""
        return 0

    def close(self) -> None:
        """See `interface.Writer`. What was sent arrives, if that takes no longer than `connection.LINGER`."""
        if not self._closing:
            with self.lock:
                self._turn(ring_own=True)  # what readers that have left gave back is there by now
            self._holds.close()
            self._let_go()
            self.linger()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        forks.keep(self._holds)  # to drop an ObjectRef would take Ray's locks
        self._let_go()
        super().leave_to_parent()

    def _let_go(self) -> None:
        self._staged = None
        self._staged_hold = None
        self.encode = self._encoder.encode

    # -- what comes: credits

    def can_wait(self) -> bool:
        """See `Connection`: as long as there is plenty of room."""
        return self._limit - self.written > self._slots // 2

    def _receive(self, ring_own: bool) -> None:
        buffer = self._buffer
        while True:
            asked = len(buffer) - self._filled
            got = self.stream.recv_into(buffer[self._filled :])
            if not got:
                self._on_end()
                return
            self._heard = self._hub.clock()
            self._filled += got
            self._parse()
            if got < asked and not self.stream.eager:
                return

    def _parse(self) -> None:
        buffer, begin, end = self._buffer, 0, self._filled
        while end - begin >= HEADER_SIZE:
            message = unpack(buffer, begin)
            begin += HEADER_SIZE
            if message.what == CREDIT:
                check_credit(message.seq, self.credited, self.written)
                self.credited = message.seq
                self._limit = message.seq + self._slots
            elif message.what == RELEASE:
                if message.hold >= HOLDS:
                    raise FrameError(f"hold {message.hold} of {HOLDS} given back")
                self._words[self._released + message.hold] = message.held
            elif message.what != PING:
                raise FrameError("a frame where only credits come")
        if begin:
            buffer[: end - begin] = bytes(buffer[begin:end])
            self._filled = end - begin

    def _on_end(self) -> None:
        if self._stopped and not self._is_stuck() and not self._filled:
            self._limit = -1
            self._end()
        else:
            self._lose(CLOSED)

    def _cannot_send(self, error: OSError) -> None:
        super()._cannot_send(error)
        if not self._closing:
            self._lose(self._in_words(error))

    def _lose(self, words: str) -> None:
        self._limit = -1
        super()._lose(words)
