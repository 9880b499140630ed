"""The frame: what one execution puts on one channel.

A frame is a header in a ring slot, followed by its payload: right behind the header when it fits there (inline),
else in a block of the same memory file. Most frames are small and have no buffers; their header is the first
part of the full one, which costs half as much to write and to check. A payload is laid out as

    [lengths of the buffers, 8 bytes each] [body] [padding] [buffer 0] [padding] [buffer 1] …

where ``body`` is what the codec made of the value and each buffer is raw memory that the value points into
(pickle protocol 5, out of band), aligned so that any dtype may lie there.

A header is checked before anything behind it is looked at: `unpack_header` refuses what is not a frame, is out
of its turn, or points outside its memory.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

MAGIC = 0x47444104  # "ADG" and the version of this layout in the low byte
ALIGNMENT = 64
MAX_BUFFERS = 1 << 20

_HEADER = struct.Struct("=IBBHQQQQQQQ")
_BARE = struct.Struct("=IBBHQQ")  # the same, as far as a bare frame needs it
HEADER_SIZE = 64
assert _HEADER.size <= HEADER_SIZE
# A bare frame as far as its body's first eight bytes, which are all of a number's: as bytes, and as an integer.
_BARE_BYTES, _BARE_INTEGER = (
    struct.Struct(f"{_BARE.format}{HEADER_SIZE - _BARE.size}x{body}") for body in ("8s", "q")
)

BARE = 0  # inline, without buffers: the payload is the body
INLINE = 1
BLOCK = 2


class Kind(IntEnum):
    """What the body of a frame is."""

    PICKLE = 0
    NONE = 1
    INT = 2
    FLOAT = 3
    BYTES = 4
    STR = 5
    ERROR = 6
    STOP = 7
    REFS = 8  # a pickle with ObjectRefs in it: never bare, as its header names a hold
    ARRAY = 9  # the type and shape of an array, which lies in the one buffer: never bare


_KINDS = len(Kind)
_INT, _FLOAT, _REFS, _ARRAY = int(Kind.INT), int(Kind.FLOAT), int(Kind.REFS), int(Kind.ARRAY)
_BARE_KINDS = _REFS  # the kinds below it


class ChannelError(Exception):
    """A channel cannot go on; says why."""


class FrameError(ChannelError):
    """A header that is no frame, out of its turn, or that points outside its memory; or words that break the rules
    of the ring.
    """


class Header(NamedTuple):
    """The header of one frame.

    Attributes:
        kind: what the body is (a `Kind`, as a plain integer).
        place: `BARE`, `INLINE`, or `BLOCK` when the payload lies in a block.
        buffers: how many out-of-band buffers the payload has.
        seq: the execution, counted from 0.
        body: bytes of the body.
        length: bytes of the whole payload: lengths, body, paddings, buffers.
        block: the block's number (0 when inline).
        offset: where in the memory file the block begins (0 when inline).
        generation: how often the block has been used, which a reader gives back with it (0 when inline).
        hold: of a frame with ObjectRefs, the number of the hold that keeps them.
        held: how often that hold has been used, which a reader gives back with it (0 when there is none).
    """

    kind: int
    place: int
    buffers: int
    seq: int
    body: int
    length: int
    block: int
    offset: int
    generation: int
    hold: int = 0
    held: int = 0


def pack_header(target: memoryview, at: int, header: Header) -> None:
    """Write ``header`` into ``target`` at byte ``at``; `HEADER_SIZE` bytes belong to it."""
    kind, place, buffers, seq, body, length, block, offset, generation, hold, held = header
    _HEADER.pack_into(
        target, at, MAGIC, kind, place, hold, seq, body, length, offset, buffers << 32 | block, generation, held
    )


def pack_bare(target: memoryview, at: int, kind: int, seq: int, body: int) -> None:
    """Write the header of a bare frame."""
    _BARE.pack_into(target, at, MAGIC, kind, BARE, 0, seq, body)


def pack_eight(target: memoryview, at: int, kind: int, seq: int, body: bytes) -> None:
    """Write a bare frame, its body of eight bytes included: one step, where most numbers pass."""
    _BARE_BYTES.pack_into(target, at, MAGIC, kind, BARE, 0, seq, 8, body)


def unpack_bare(source: memoryview, at: int, seq: int, inline_capacity: int) -> tuple[int, int, int] | None:
    """What a bare frame is; None when `unpack_header` has to look.

    Args:
        source: the memory that holds the slot.
        at: where the slot begins; eight bytes at least lie behind its header.
        seq: the execution whose turn it is.
        inline_capacity: bytes that a slot has behind its header.

    Returns:
        The kind and the length of its body; and the body's first eight bytes as an integer, which is the value
        where the kind is `Kind.INT`.
    """
    magic, kind, place, _, got, body, number = _BARE_INTEGER.unpack_from(source, at)
    known = magic == MAGIC and place == BARE and got == seq and kind < _BARE_KINDS and body <= inline_capacity
    if known and (body == 8 or (kind != _INT and kind != _FLOAT)):
        return kind, body, number
    return None


def unpack_header(source: memoryview, at: int, seq: int, inline_capacity: int, blocks: int, holds: int) -> Header:
    """Read and check the header at byte ``at`` of ``source``.

    Args:
        source: the memory that holds the slot.
        at: where the slot begins.
        seq: the execution whose turn it is.
        inline_capacity: bytes that a slot has behind its header.
        blocks: how many blocks the channel can have.
        holds: how many holds.

    Raises:
        FrameError: says what is wrong with it. (Whether a block lies within the memory file is for whoever maps
            it to check: the file grows.)
    """
    magic, kind, place, hold, got, body, length, offset, packed, generation, held = _HEADER.unpack_from(source, at)
    if magic != MAGIC:
        raise FrameError(f"no frame here: magic {magic:#010x}, expected {MAGIC:#010x}")
    if got != seq:
        raise FrameError(f"execution {got} where {seq} is next")
    if kind >= _KINDS:
        raise FrameError(f"unknown kind of frame {kind}")
    buffers = packed >> 32
    block = packed & 0xFFFFFFFF
    if place == BARE:
        raise FrameError(f"a bare body of {body} bytes is none of kind {kind}, or does not fit {inline_capacity}")
    if body != 8 and kind in (_INT, _FLOAT):
        raise FrameError(f"a number of {body} bytes")
    if kind == _ARRAY and buffers != 1:
        raise FrameError(f"an array in {buffers} buffers")
    if kind == _REFS and hold >= holds:
        raise FrameError(f"refs in hold {hold} of {holds}")
    if place == INLINE:
        if length > inline_capacity:
            raise FrameError(f"{length} bytes cannot lie inline in {inline_capacity}")
    elif place != BLOCK or block >= blocks or generation == 0:
        raise FrameError(f"payload of {length} bytes in block {block} (use {generation}) is nowhere")
    if buffers > MAX_BUFFERS or buffers * 8 + body > length:
        raise FrameError(f"{buffers} buffers and a body of {body} bytes do not fit {length} bytes")
    return Header(kind, place, buffers, got, body, length, block, offset, generation, hold, held)


_LENGTH = struct.Struct("=Q")


def align(position: int) -> int:
    """The first aligned byte at or after ``position``."""
    return (position + ALIGNMENT - 1) & ~(ALIGNMENT - 1)


def layout(body: int, buffers: list[int]) -> tuple[list[int], int]:
    """Where each buffer of a payload begins, and the payload's whole length, in bytes."""
    position = 8 * len(buffers) + body
    starts = []
    for size in buffers:
        position = align(position)
        starts.append(position)
        position += size
    return starts, position


def split(payload: memoryview, body: int, count: int) -> tuple[memoryview, list[memoryview]]:
    """The body and the buffers of a payload.

    Raises:
        FrameError: the lengths that the payload states do not fit the payload.
    """
    head = 8 * count
    if count == 0:
        return payload[:body], []
    if count == 1:  # an array, most often
        (size,) = _LENGTH.unpack_from(payload)
        start = align(8 + body)
        if start + size > len(payload):
            raise FrameError(f"buffers of {size} bytes do not fit a payload of {len(payload)}")
        return payload[8 : 8 + body], [payload[start : start + size]]
    lengths = list(struct.unpack_from(f"={count}Q", payload, 0))
    starts, length = layout(body, lengths)
    if length > len(payload):
        raise FrameError(f"buffers of {sum(lengths)} bytes do not fit a payload of {len(payload)}")
    views = [payload[start : start + size] for start, size in zip(starts, lengths, strict=True)]
    return payload[head : head + body], views
