"""The ring in a memory file: the channel between processes of one host.

One memory file per channel holds the shared words, the slots, and behind them the blocks of larger payloads. A
slot is a header and room for a small payload; a fan-out of N readers writes each payload once.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from async_adag.channels import forks
from async_adag.channels.blocks import IDLE_USES, SMALLEST, Block, BlockPool
from async_adag.channels.codec import DECODERS, Encoded, Encoder
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.holds import Holds, RefLeases
from async_adag.channels.leases import LEASES, Leases
from async_adag.channels.memory import PAGE, Mapping, create_file
from async_adag.channels.processor import current_cpu, make_fence
from async_adag.channels.ray_objects import load
from async_adag.protocol.frame import (
    BLOCK,
    HEADER_SIZE,
    INLINE,
    FrameError,
    Header,
    Kind,
    layout,
    pack_bare,
    pack_eight,
    pack_header,
    split,
    unpack_bare,
    unpack_header,
)
from async_adag.protocol.ring import ReaderCursor, RingLayout, WriterCursor

SLOT = 1024
INLINE_CAPACITY = SLOT - HEADER_SIZE
_LEASES_SLACK = 8  # a lease is uncounted an instant before its block is free
LEASE_FROM = 32 * 1024  # bytes; copying less is cheaper than a lease
HOLDS = 256  # frames whose ObjectRefs readers may use at once; those of further frames are pinned

_INT, _ERROR, _REFS = int(Kind.INT), int(Kind.ERROR), int(Kind.REFS)
_NO_BUFFERS: list[memoryview] = []


class RingSpec(NamedTuple):
    """What all ends of a ring agree on.

    Attributes:
        slots: frames that may lie in the ring at once.
        readers: how many reading ends there are.
        keep: bytes that an idle block keeps warm.
    """

    slots: int
    readers: int
    keep: int

    def layout(self) -> RingLayout:
        """Where the shared words lie."""
        return RingLayout(self.slots, self.readers, self.slots + (LEASES + _LEASES_SLACK) * self.readers, HOLDS)

    def slots_begin(self) -> int:
        """Where the slots begin, in bytes."""
        return -(-self.layout().words * 8 // PAGE) * PAGE

    def size(self) -> int:
        """Bytes of words and slots, in whole pages; blocks lie behind them."""
        return self.slots_begin() + -(-self.slots * SLOT // PAGE) * PAGE


def create_ring(spec: RingSpec) -> int:
    """A new memory file for a ring; returns its descriptor.

    Raises:
        OSError: as `create_file`.
    """
    return create_file("async-adag", spec.size())


class RingWriter:
    """The writing end. ``doorbells`` are the readers', in their order. Owns ``fd``."""

    __deletable__ = ("_memory", "_words", "_cursor", "may_write", "arm", "_pool", "_holds")  # for mypyc

    encode: Callable[[Any], Encoded]
    may_write: Callable[[], bool]
    arm: Callable[[], bool]

    def __init__(self, spec: RingSpec, fd: int, doorbells: list[Doorbell]) -> None:
        self._fd = fd
        layout = spec.layout()
        mapping = Mapping(fd, 0, spec.size())
        words = mapping.words(layout.words)
        self._memory = mapping.view
        self._words = words
        self._layout = layout
        self._cursor = WriterCursor(words, layout, make_fence(), current_cpu)
        self.may_write = self._cursor.may_write
        self.arm = self._cursor.arm
        self._pool = BlockPool(fd, spec.size(), words, layout, spec.keep)
        self.slots = spec.slots
        self._slots_begin = spec.slots_begin()
        self._doorbells = doorbells
        self._encoder = Encoder()
        self.encode = self._encoder.encode
        self._holds = Holds(words, layout)
        self._staged: tuple[Block | None, int | None] | None = None  # the block and the hold
        self._staged_bytes = 0
        self._urgent = False  # whether the next frame rings for readers as well that sleep by another channel
        self.bytes = 0

    def stage(self, encoded: Encoded) -> None:
        """See `interface.Writer`."""
        kind, body, buffers = encoded
        size = len(body)
        if not buffers and size <= INLINE_CAPACITY and kind != _REFS:
            seq = self._cursor.head
            at = self._slots_begin + seq % self.slots * SLOT
            self._urgent = kind == _ERROR
            self._staged_bytes = 0
            if seq % IDLE_USES == 0:
                self._pool.trim(seq)
            if size == 8 and type(body) is bytes:  # `pack_eight` takes nothing else
                pack_eight(self._memory, at, kind, seq, body)
            else:
                begin = at + HEADER_SIZE
                self._memory[begin : begin + size] = body
                pack_bare(self._memory, at, kind, seq, size)
            self.bytes += size
            self._staged_bytes = size
            return
        refs = None
        if kind == _REFS:
            body, refs = body
            size = len(body)
        sizes = [buffer.nbytes for buffer in buffers]
        starts, length = layout(size, sizes)
        room = self.room(length)
        struct.pack_into(f"={len(sizes)}Q", room, 0, *sizes)
        body_at = 8 * len(sizes)
        room[body_at : body_at + size] = body
        for start, buffer in zip(starts, buffers, strict=True):
            room[start : start + buffer.nbytes] = buffer
        hold = held = 0
        if refs is not None:
            hold, held = self._holds.take(refs)
            self.encode = self._encode_and_sweep
        self.describe(kind, len(sizes), size, length, hold, held)
        if held:
            assert self._staged is not None
            self._staged = self._staged[0], hold

    def room(self, length: int) -> memoryview:
        """Where the payload of the next frame goes: ``length`` bytes, in its slot or in a block.

        Raises:
            OSError: as `stage`.
        """
        seq = self._cursor.head
        self._staged_bytes = 0
        if seq % IDLE_USES == 0:
            self._pool.trim(seq)
        if length > INLINE_CAPACITY:
            block = self._pool.take(length, seq)
            self._staged = block, None
            return block.mapping.view[:length]
        self._staged = None, None
        begin = self._slots_begin + seq % self.slots * SLOT + HEADER_SIZE
        return self._memory[begin : begin + length]

    def describe(self, kind: int, buffers: int, body: int, length: int, hold: int, held: int) -> None:
        """Write the header of the next frame, whose payload lies in its `room`; see `protocol.frame.Header`."""
        assert self._staged is not None
        block, _ = self._staged
        if block is None:
            place, number, offset, generation = INLINE, 0, 0, 0
        else:
            place, number, offset, generation = BLOCK, block.number, block.offset, block.generation
        seq = self._cursor.head
        header = Header(kind, place, buffers, seq, body, length, number, offset, generation, hold, held)
        pack_header(self._memory, self._slots_begin + seq % self.slots * SLOT, header)
        self._urgent = kind == _ERROR
        self.bytes += length
        self._staged_bytes = length

    def _encode_and_sweep(self, value: Any) -> Encoded:
        """`encode`, for as long as refs are held."""
        self._holds.sweep()
        if not self._holds.refs:
            self.encode = self._encoder.encode
        return self._encoder.encode(value)

    def unstage(self) -> None:
        """See `interface.Writer`."""
        staged, self._staged = self._staged, None
        self.bytes -= self._staged_bytes
        self._staged_bytes = 0
        if staged is None:
            return
        block, hold = staged
        if block is not None:
            self._pool.untake(block)
        if hold is not None:
            self._holds.untake(hold)

    def call_up(self) -> None:
        """See `interface.Writer`."""
        for reader in self._cursor.call_up():
            self._doorbells[reader].ring()

    def publish(self) -> None:
        """See `interface.Writer`."""
        self._staged = None
        self._staged_bytes = 0
        sleepers = self._cursor.publish()
        for reader in range(self._layout.readers) if self._urgent else sleepers:
            self._doorbells[reader].ring()

    def publish_past(self, own: int) -> None:
        """As `publish`, but reader ``own`` is not rung: it looks by itself."""
        self._staged = None
        self._staged_bytes = 0
        for reader in self._cursor.publish():
            if reader != own:
                self._doorbells[reader].ring()

    def hand_over(self, kind: int, body: memoryview, size: int) -> None:
        """Write and publish a frame that is nothing but a small body, to the only reader: whoever calls this, who
        looks by itself. A slot is free.
        """
        cursor = self._cursor
        seq = cursor.head
        if seq % IDLE_USES == 0:
            self._pool.trim(seq)
        at = self._slots_begin + seq % self.slots * SLOT
        begin = at + HEADER_SIZE
        self._memory[begin : begin + size] = body
        pack_bare(self._memory, at, kind, seq, size)
        self.bytes += size
        cursor.publish_quietly()

    def taken(self) -> int:
        """How many frames every reader has taken."""
        words = self._words
        return min([words[tail] for tail in self._layout.tails])

    def has_given_back(self, hold: int, generation: int) -> bool:
        """Whether every reader has given back a hold of ObjectRefs that came with a frame."""
        words = self._words
        return all(words[first + hold] == generation for first in self._layout.released)

    def backed_bytes(self) -> int:
        """Bytes of payload memory that this channel keeps."""
        return self._pool.backed_bytes()

    def close(self) -> None:
        """See `interface.Writer`."""
        if self._fd >= 0:
            self._holds.close()
        self._let_go()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        if self._fd >= 0:
            forks.keep(self._holds)  # to drop an ObjectRef would take Ray's locks
        self._let_go()

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self.encode = self._encoder.encode
            self._staged = None
            del self._memory, self._words, self._cursor, self.may_write, self.arm, self._pool, self._holds


class RingReader:
    """Reading end number ``reader``. ``doorbell`` is the writer's. Owns ``fd``."""

    __deletable__ = ("_memory", "_words", "_cursor", "may_read", "arm", "_mapped", "_leases", "_ref_leases")

    may_read: Callable[[], bool]
    arm: Callable[[], bool]

    def __init__(self, spec: RingSpec, fd: int, reader: int, doorbell: Doorbell) -> None:
        self._fd = fd
        layout = spec.layout()
        mapping = Mapping(fd, 0, spec.size())
        self._memory = mapping.view
        self._words = mapping.words(layout.words)
        self._cursor = ReaderCursor(self._words, layout, reader, make_fence(), current_cpu)
        self.may_read = self._cursor.may_read
        self.arm = self._cursor.arm
        self._slots = spec.slots
        self._slots_begin = spec.slots_begin()
        self._layout = layout
        self._blocks_begin = spec.size()
        self._returned = layout.returned[reader]
        self._mapped: dict[int, tuple[int, Mapping]] = {}  # block: (offset, mapping)
        self._leases = Leases(self._words)
        self._ref_leases = RefLeases(self._words, layout.released[reader])
        self._doorbell = doorbell
        self.bytes = 0

    def read(self) -> Any:
        """See `interface.Reader`."""
        seq = self._cursor.tail
        at = self._slots_begin + seq % self._slots * SLOT
        bare = unpack_bare(self._memory, at, seq, INLINE_CAPACITY)
        header = None if bare is not None else self._header(at, seq)
        try:
            begin = at + HEADER_SIZE
            if bare is not None:
                kind, size, number = bare
                self.bytes += size
                if kind == _INT:
                    return number
                return DECODERS[kind](self._memory[begin : begin + size], _NO_BUFFERS)
            assert header is not None
            if header.place == INLINE:
                return self._decode(header, self._memory[begin : begin + header.length], copied=False)
            return self._read_block(header)
        finally:
            if self._cursor.take():
                self._doorbell.ring()

    def taken(self) -> int:
        """See `interface.Reader`."""
        return self._cursor.tail

    def discard(self) -> None:
        """See `interface.Reader`."""
        seq = self._cursor.tail
        at = self._slots_begin + seq % self._slots * SLOT
        if unpack_bare(self._memory, at, seq, INLINE_CAPACITY) is None:
            header = self._header(at, seq)
            if header.place == BLOCK:
                self._words[self._returned + header.block] = header.generation
            self._give_back_refs(header)
        if self._cursor.take():
            self._doorbell.ring()

    def leased(self) -> int:
        """How many blocks are held by values that were read here."""
        return len(self._leases)

    def close(self) -> None:
        """See `interface.Reader`."""
        if self._fd >= 0:
            self._leave_refs()
        self.leave_to_parent()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`. Values that were read stay, and their leases are the parent's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            del self._memory, self._words, self._cursor, self.may_read, self.arm
            del self._mapped, self._leases, self._ref_leases

    def _header(self, at: int, seq: int) -> Header:
        layout = self._layout
        return unpack_header(self._memory, at, seq, INLINE_CAPACITY, layout.blocks, layout.holds)

    def _read_block(self, header: Header) -> Any:
        word = self._returned + header.block
        try:
            mapping = self._map(header)
        except OSError:
            self._words[word] = header.generation  # the frame is consumed: its block is the writer's again
            self._give_back_refs(header)
            raise
        if header.buffers and header.length >= LEASE_FROM and len(self._leases) < LEASES:
            # The writer gets the block back when the last array made from it is gone.
            payload = self._leases.lease(mapping, header.length, word, header.generation)
            return self._decode(header, payload, copied=True)
        try:
            return self._decode(header, mapping.view[: header.length], copied=False)
        finally:
            self._words[word] = header.generation

    def _map(self, header: Header) -> Mapping:
        known = self._mapped.get(header.block)
        if known is not None and known[0] == header.offset and known[1].length >= header.length:
            return known[1]
        length = max(SMALLEST, 1 << (header.length - 1).bit_length())  # never more than the block's capacity
        inside = self._blocks_begin <= header.offset and header.offset + length <= os.fstat(self._fd).st_size
        if header.offset % PAGE or not inside:
            raise FrameError(f"block {header.block} at {header.offset} lies outside the memory file")
        mapping = Mapping(self._fd, header.offset, length)
        self._mapped[header.block] = header.offset, mapping
        return mapping

    def _decode(self, header: Header, payload: memoryview, *, copied: bool) -> Any:
        self.bytes += header.length
        body, buffers = split(payload, header.body, header.buffers)
        if buffers and not copied:
            # The slot or block is given back on return: values must not point into it.
            buffers = [memoryview(bytes(buffer)) for buffer in buffers]
        if header.kind == _REFS:
            return self._decode_refs(header, body, buffers)
        return DECODERS[header.kind](body, buffers)

    def _decode_refs(self, header: Header, body: memoryview, buffers: list[memoryview]) -> Any:
        leases = self._ref_leases
        leases.look()
        new: list[bytes] = []
        try:
            return load(body, buffers, new)
        finally:
            leases.keep(header.hold, header.held, new)
            if leases:
                self.arm = self._arm_with_leases

    def _arm_with_leases(self) -> bool:
        """`arm`, for as long as there are refs to be given back."""
        self._ref_leases.look_before_sleep()
        if not self._ref_leases:
            self.arm = self._cursor.arm
        return self._cursor.arm()

    def _give_back_refs(self, header: Header) -> None:
        if header.kind == _REFS:
            self._ref_leases.give_back(header.hold, header.held)

    def _leave_refs(self) -> None:
        """Give back what is not used here, frames that nobody will read among it: the writer pins what is left."""
        tail = self._cursor.tail
        try:
            for seq in range(tail, min(self._words[self._layout.head], tail + self._slots)):
                at = self._slots_begin + seq % self._slots * SLOT
                if unpack_bare(self._memory, at, seq, INLINE_CAPACITY) is None:
                    self._give_back_refs(self._header(at, seq))
        except FrameError:
            pass  # whoever spoiled the memory has spoiled the refs
        self._ref_leases.look(len(self._ref_leases))
