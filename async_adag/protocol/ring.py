"""The ring's rules: who may write, who may read, and when somebody has to be woken.

One writer, N readers, ``slots`` places. ``head`` counts the frames that were published, each reader's ``tail``
those that it took. All of it are words in shared memory; each has exactly one process that advances it:

- the writer may publish while ``head - min(tails) < slots``; it advances ``head``;
- a reader may take while ``tail < head``; it advances its own ``tail``.

Parking, the same for both sides. Whoever is about to sleep (1) sets its ``parked`` word, (2) issues a full
fence, (3) looks once more. Whoever made news (1) stores it, (2) issues a full fence, (3) looks at ``parked``,
and if it is set, clears it and rings the doorbell. Either the sleeper sees the news or the other sees the
sleeper. Clearing is done by whoever rings, so that a burst of frames rings once. A reader's ``parked`` word says
where it sleeps: the number of its CPU, plus 1.

A process may have several sleepers (an event loop, and a thread that waits for a result), all woken by the one
doorbell. So who arms and then finds news leaves the ``parked`` word as it stood: another may sleep by it.

Waking another CPU takes longer than making a small frame, so a writer may *call up* its readers ahead of one. One
that sleeps on the writer's own CPU is left alone: it could only take that CPU from the writer.

The words lie in memory that other processes may write, so they are not trusted further than the rules go: a
``head`` that is not the reader's own count is a frame to be read, whose header is then refused if it is not the
next one; a ``tail`` that the writer's ``head`` could not have is a `FrameError`.

The words are given as anything indexable, so that the rules run over a list as well as over mapped memory. A fence
is anything that can be passed through by ``with``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from async_adag.protocol.frame import FrameError

WORD = 8
LINE = 8  # words in a cache line: what different processes write stays apart


class Words(Protocol):
    """64-bit words shared by the processes; a load or a store of one is atomic."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class RingLayout:
    """Where the words of a ring with ``readers`` readers lie, and how many there are.

    ``head`` and the writer's ``parked`` word, then for each reader its ``tail`` and ``parked`` word, then for each
    reader one word per block: the last generation of the block that this reader gave back; the same for each hold
    of ObjectRefs (``released``).
    """

    __slots__ = (
        "blocks",
        "head",
        "holds",
        "parked",
        "readers",
        "released",
        "returned",
        "slots",
        "tails",
        "words",
        "writer_parked",
    )

    def __init__(self, slots: int, readers: int, blocks: int, holds: int = 0) -> None:
        self.slots = slots
        self.readers = readers
        self.blocks = blocks
        self.holds = holds
        self.head = 0
        self.writer_parked = LINE
        self.tails = [2 * LINE + 2 * LINE * reader for reader in range(readers)]
        self.parked = [tail + LINE for tail in self.tails]
        first = 2 * LINE + 2 * LINE * readers
        stride = -(-blocks // LINE) * LINE
        self.returned = [first + stride * reader for reader in range(readers)]
        first += stride * readers
        stride = -(-holds // LINE) * LINE
        self.released = [first + stride * reader for reader in range(readers)]
        self.words = first + stride * readers


class WriterCursor:
    """The writer's side of the rules. ``fence`` is a full memory fence, ``cpu`` tells where this runs."""

    __slots__ = ("_cpu", "_fence", "_layout", "_limit", "_parked", "_words", "head")

    def __init__(
        self, words: Words, layout: RingLayout, fence: AbstractContextManager[Any], cpu: Callable[[], int]
    ) -> None:
        self._words = words
        self._layout = layout
        self._fence = fence
        self._cpu = cpu
        self._parked = list(enumerate(layout.parked))
        self.head = words[layout.head]
        self._limit = self.head  # head may grow up to here before the tails are looked at again

    def may_write(self) -> bool:
        """Whether a slot is free.

        Raises:
            FrameError: a reader's ``tail`` is where it cannot be.
        """
        if self.head < self._limit:
            return True
        words = self._words
        tails = [words[tail] for tail in self._layout.tails]
        lowest = min(tails)
        if lowest + self._layout.slots < self.head or max(tails) > self.head:
            raise FrameError(f"readers that have taken {tails} frames where {self.head} were written")
        self._limit = lowest + self._layout.slots
        return self.head < self._limit

    def publish(self) -> list[int]:
        """Hand the slot of ``head`` to the readers; returns those whose doorbells are to be rung."""
        self.head += 1
        self._words[self._layout.head] = self.head
        with self._fence:  # pairs with the one in ReaderCursor.arm
            pass
        words = self._words
        sleepers = []
        for reader, parked in self._parked:
            if words[parked]:
                words[parked] = 0
                sleepers.append(reader)
        return sleepers

    def publish_quietly(self) -> None:
        """As `publish`, where the only reader is whoever calls this, who looks by itself."""
        self.head += 1
        self._words[self._layout.head] = self.head

    def call_up(self) -> list[int]:
        """The readers that sleep on another CPU, whose doorbells are to be rung ahead of a frame.

        One that wakes too early and finds nothing arms again, as before any sleep.
        """
        words = self._words
        sleepers = []
        for reader, parked in self._parked:
            sleeps = words[parked]
            if sleeps and sleeps != self._cpu() + 1:
                words[parked] = 0
                sleepers.append(reader)
        return sleepers

    def arm(self) -> bool:
        """Be about to sleep until a slot is free; True if one is free already."""
        words = self._words
        parked = self._layout.writer_parked
        before = words[parked]
        words[parked] = 1
        with self._fence:  # pairs with the one in ReaderCursor.take
            pass
        if self.may_write():
            words[parked] = before
            return True
        return False


class ReaderCursor:
    """One reader's side of the rules. ``fence`` is a full memory fence, ``cpu`` tells where this runs."""

    __slots__ = ("_cpu", "_fence", "_head", "_parked", "_tail", "_words", "_writer_parked", "tail")

    def __init__(
        self,
        words: Words,
        layout: RingLayout,
        reader: int,
        fence: AbstractContextManager[Any],
        cpu: Callable[[], int],
    ) -> None:
        self._words = words
        self._fence = fence
        self._cpu = cpu
        self._head = layout.head
        self._writer_parked = layout.writer_parked
        self._tail = layout.tails[reader]
        self._parked = layout.parked[reader]
        self.tail = words[self._tail]

    def may_read(self) -> bool:
        """Whether a frame has been published that this reader has not taken."""
        return self._words[self._head] != self.tail

    def take(self) -> bool:
        """Give the slot of ``tail`` back to the writer; True if its doorbell is to be rung."""
        words = self._words
        self.tail += 1
        words[self._tail] = self.tail
        with self._fence:  # pairs with the one in WriterCursor.arm
            pass
        if words[self._writer_parked]:
            words[self._writer_parked] = 0
            return True
        return False

    def arm(self) -> bool:
        """Be about to sleep until a frame is published; True if one is there already."""
        words = self._words
        before = words[self._parked]
        words[self._parked] = self._cpu() + 1
        with self._fence:  # pairs with the one in WriterCursor.publish
            pass
        if words[self._head] != self.tail:
            words[self._parked] = before
            return True
        return False


class QuietCursor(ReaderCursor):
    """The side of a ring's only reader whose writer does not sleep until it takes something."""

    __slots__ = ()

    def take(self) -> bool:
        """Give the slot of ``tail`` back to the writer, who looks by itself: False."""
        self.tail += 1
        self._words[self._tail] = self.tail
        return False
