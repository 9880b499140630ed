"""The wire: what goes over the TCP connection of an edge, sans-io.

Every message is a header of fixed size; behind that of a FRAME follow ``length`` bytes of payload, laid out as in
a ring (see `protocol/frame.py`). From the writer's side come FRAME and PING, to it go CREDIT, RELEASE and PING.

A header carries a checksum and is checked before anything behind it is read: that its kind is known, that its
sizes agree, and, by whoever keeps count, that it is the next one. Payloads carry no checksum but that of TCP.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

from async_adag.protocol.frame import MAX_BUFFERS, FrameError, Kind

MAGIC = 0x57474401  # "DGW" and the version of this layout in the low byte
_HEADER = struct.Struct("<IBBHQQQQI")
_CRC = struct.Struct("<I")
_SEALED = struct.Struct("<IBBHQQQQII")  # the header, and its checksum
_CHECKED = _HEADER.size
HEADER_SIZE = _SEALED.size

_KINDS = len(Kind)
_INT, _FLOAT = int(Kind.INT), int(Kind.FLOAT)
_SMALL_KINDS = int(Kind.STOP)  # those below it have nothing but a body


class What(IntEnum):
    """What a message is."""

    FRAME = 1
    CREDIT = 2
    RELEASE = 3
    PING = 4


FRAME, CREDIT, RELEASE, PING = (int(what) for what in What)


class Message(NamedTuple):
    """A message, or the header of a frame.

    Attributes:
        what: a `What`, as a plain integer.
        kind: of a frame, what its body is (a `Kind`).
        hold: of a frame with ObjectRefs, and of a RELEASE, the number of the hold that keeps them.
        seq: of a frame, the execution, counted from 0; of a CREDIT, how many frames all readers have taken.
        body: of a frame, bytes of the body.
        length: of a frame, bytes of the whole payload.
        held: how often the hold has been used (0 when there is none).
        buffers: of a frame, how many out-of-band buffers the payload has.
    """

    what: int
    kind: int = 0
    hold: int = 0
    seq: int = 0
    body: int = 0
    length: int = 0
    held: int = 0
    buffers: int = 0


def pack(message: Message) -> bytes:
    """The `HEADER_SIZE` bytes of a message."""
    head = _HEADER.pack(MAGIC, *message)
    return head + _CRC.pack(crc32(head))


def pack_frame(kind: int, hold: int, seq: int, body: int, length: int, held: int, buffers: int) -> bytes:
    """The header of a frame; the arguments are those of `Message`."""
    head = _HEADER.pack(MAGIC, FRAME, kind, hold, seq, body, length, held, buffers)
    return head + _CRC.pack(crc32(head))


def pack_credit(taken: int) -> bytes:
    """Says that all readers have taken this many frames."""
    return pack(Message(CREDIT, seq=taken))


def pack_release(hold: int, held: int) -> bytes:
    """Says that all readers have given back a hold."""
    return pack(Message(RELEASE, hold=hold, held=held))


PING_BYTES = pack(Message(PING))


def unpack(source: memoryview, at: int) -> Message:
    """Read and check the message at byte ``at``; `HEADER_SIZE` bytes have to be there.

    Raises:
        FrameError: says what is wrong with it.
    """
    magic, what, kind, hold, seq, body, length, held, buffers, crc = _SEALED.unpack_from(source, at)
    if magic != MAGIC:
        raise FrameError(f"no message here: magic {magic:#010x}, expected {MAGIC:#010x}")
    if crc != crc32(source[at : at + _CHECKED]):
        raise FrameError("a message whose checksum is wrong")
    if what == FRAME:
        if kind >= _KINDS:
            raise FrameError(f"unknown kind of frame {kind}")
        if body != 8 and kind in (_INT, _FLOAT):
            raise FrameError(f"a number of {body} bytes")
        if buffers > MAX_BUFFERS or buffers * 8 + body > length:
            raise FrameError(f"{buffers} buffers and a body of {body} bytes do not fit {length} bytes")
        if buffers == 0 and body != length:
            raise FrameError(f"a payload of {length} bytes that is a body of {body} bytes")
    elif not CREDIT <= what <= PING:
        raise FrameError(f"unknown message {what}")
    return Message(what, kind, hold, seq, body, length, held, buffers)


def unpack_small(source: memoryview, size: int, seq: int, most: int) -> tuple[int, int] | None:
    """The kind of a small frame that is all there is: ``size`` bytes at the beginning of ``source``.

    Args:
        source: what has come.
        size: how many bytes that is.
        seq: the execution whose turn it is.
        most: bytes of the largest body.

    Returns:
        The kind and the length of the body, or None when `unpack` has to look: it is something else.
    """
    if size < HEADER_SIZE:
        return None
    magic, what, kind, _, got, body, length, _, buffers, crc = _SEALED.unpack_from(source)
    whole = size == HEADER_SIZE + length and body == length <= most and not buffers
    plain = what == FRAME and kind < _SMALL_KINDS and (length == 8 or (kind != _INT and kind != _FLOAT))
    if whole and plain and got == seq and magic == MAGIC and crc == crc32(source[:_CHECKED]):
        return kind, length
    return None


def check_frame(frame: Message, seq: int, taken: int, slots: int, holds: int) -> None:
    """Check that a frame may come now.

    Args:
        frame: its header.
        seq: the execution whose turn it is.
        taken: how many frames the other side was told that readers have taken.
        slots: how many frames may be under way.
        holds: how many holds of ObjectRefs there are.

    Raises:
        FrameError: it is out of its turn, or was sent without a credit.
    """
    if frame.seq != seq:
        raise FrameError(f"execution {frame.seq} where {seq} is next")
    if seq - taken >= slots:
        raise FrameError(f"execution {seq} where {taken} frames were taken and {slots} may be under way")
    if frame.kind == Kind.REFS and frame.hold >= holds:
        raise FrameError(f"refs in hold {frame.hold} of {holds}")


def check_credit(taken: int, before: int, sent: int) -> None:
    """Check a CREDIT: readers have taken more than ``before``, and no more than was ``sent``.

    Raises:
        FrameError: they cannot have.
    """
    if not before <= taken <= sent:
        raise FrameError(f"a credit for {taken} frames, where {before} were credited and {sent} sent")
