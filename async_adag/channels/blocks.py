"""Blocks: where payloads lie that do not fit a ring slot.

The writer owns them. A block is busy while a reader may still look at it, which can be long after the frame was
read: an array that was handed out zero-copy *leases* its block until it is garbage collected. So blocks are not
tied to slots. The writer takes the block that was freed last (its pages are warm), a new one when none is free,
and holding results never stops the graph.

Each use of a block has a generation; a reader gives the block back by storing that number in a word of its own,
which needs no lock and may happen inside garbage collection. A block is free when every reader has stored its
current generation.

A block is a range of the memory file and grows, to a power of two, by moving to a new range at the file's end.
Its pages are given back to the system when it has been idle for a while and is larger than ``keep`` bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from async_adag.channels.limits import explain
from async_adag.channels.memory import Mapping, grow, punch
from async_adag.protocol.frame import FrameError
from async_adag.protocol.ring import RingLayout, Words

SMALLEST = 64 * 1024
IDLE_USES = 256  # a large block that this many uses of other blocks have passed over gives its pages back
ROOMY = 8  # a payload does not take a free block more than this many times too large while it may have a new one


@dataclass(slots=True, eq=False)
class Block:
    """A range of the memory file that holds one payload at a time."""

    number: int
    offset: int
    capacity: int
    mapping: Mapping
    generation: int = 0
    backed: int = 0  # bytes from its beginning that certainly have pages
    used_at: int = 0


class BlockPool:
    """The writer's blocks in one memory file."""

    def __init__(self, fd: int, begin: int, words: Words, layout: RingLayout, keep: int) -> None:
        """Blocks behind the first ``begin`` bytes (a multiple of the page size) of the memory file ``fd``."""
        self._fd = fd
        self._words = words
        self._layout = layout
        self._keep = keep
        self._blocks: list[Block] = []
        self._end = begin  # of the blocks
        self._size = begin  # of the file

    def take(self, size: int, seq: int) -> Block:
        """A free block with ``size`` bytes of memory behind it, in its next generation, for frame ``seq``.

        Raises:
            OSError: the memory file cannot grow: memory, ``RLIMIT_FSIZE`` or ``RLIMIT_AS``.
            FrameError: no block is free, which cannot be: there are more than readers can hold.
        """
        block = self._choose(size)
        if block.backed < size:
            # Pages are asked for here, where a refusal is an OSError: touching them later would be a SIGBUS.
            try:
                os.posix_fallocate(self._fd, block.offset, size)
            except OSError as error:
                raise OSError(error.errno, f"{size} bytes of shared memory: {explain(error)}") from None
            block.backed = size
        block.used_at = seq
        block.generation += 1
        return block

    def untake(self, block: Block) -> None:
        """Give back a block that no reader was told of."""
        block.generation -= 1

    def is_free(self, block: Block) -> bool:
        """Whether every reader has given the block back."""
        return all(self._words[first + block.number] == block.generation for first in self._layout.returned)

    def backed_bytes(self) -> int:
        """Bytes that the blocks keep pages for."""
        return sum(block.backed for block in self._blocks)

    def _free(self) -> list[Block]:
        returned = self._layout.returned
        if len(returned) == 1:  # of one reader: asked for every large payload
            (first,), words = returned, self._words
            return [block for block in self._blocks if words[first + block.number] == block.generation]
        return [block for block in self._blocks if self.is_free(block)]

    def _choose(self, size: int) -> Block:
        free = self._free()
        fitting = [block for block in free if block.capacity >= size]
        snug = [block for block in fitting if block.capacity <= max(ROOMY * size, SMALLEST)]
        if snug:
            return max(snug, key=_warmth)
        if len(self._blocks) < self._layout.blocks:
            try:
                self._blocks.append(self._extend(len(self._blocks), size))
                return self._blocks[-1]
            except OSError:
                if not fitting:
                    raise
        if fitting:
            return min(fitting, key=_capacity)
        if not free:
            raise FrameError(f"no word of readers that gives back any of {len(self._blocks)} blocks")
        return self._grow(max(free, key=_capacity), size)

    def _extend(self, number: int, size: int) -> Block:
        capacity = max(SMALLEST, 1 << (size - 1).bit_length())
        offset = self._end
        # Where a block could not be mapped, the file is longer already, and it may not shrink.
        if offset + capacity > self._size:
            grow(self._fd, offset + capacity)
            self._size = offset + capacity
        mapping = Mapping(self._fd, offset, capacity)
        self._end = offset + capacity
        return Block(number, offset, capacity, mapping)

    def _grow(self, block: Block, size: int) -> Block:
        grown = self._extend(block.number, size)
        self._give_back(block)
        grown.generation = block.generation
        self._blocks[block.number] = grown
        return grown

    def trim(self, seq: int) -> None:
        """Give back the pages of large blocks that no frame has used for a while."""
        for block in self._blocks:
            if seq - block.used_at >= IDLE_USES and block.backed > self._keep and self.is_free(block):
                self._give_back(block)

    def _give_back(self, block: Block) -> None:
        if block.backed:
            punch(self._fd, block.offset, block.backed)
            block.backed = 0


def _warmth(block: Block) -> int:
    return block.used_at


def _capacity(block: Block) -> int:
    return block.capacity
