"""The page of shared host memory by which the two sides of an IPC edge tell one another how far they are.

Each reader has a part of its own, in which the writer's device tells that reader what is ready, and the reader
tells what it is done with. For each slot it has three words, each a generation of the slot:

- *ready*, stored by the writer's stream behind what fills the slot; the reader's streams wait for it;
- *issued*, stored by the reader's host once the store of the next word was issued;
- *acked*, stored by the reader's stream behind its last use of the slot. The writer's host looks at it, and its
  stream waits for it where it is early; never before the reader has issued it, which might take for ever.

A part also says how far the reader is with closing, and which processes the reader and the writer are. Where one
of the two has ended, or its device has failed, its stores will not come, and whoever waits for them is let go
from a host (`let_reader_go`, `let_writer_go`).

Storing or loading a word is a single aligned access. On x86 stores are seen in their order. On other processors
they may not be, but a store is issued to a device by a call of the driver, which publishes it by means of its own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from async_adag.gpu.interface import Device, Stream, Words

OPEN = 0
CLOSED = 1
"""The reader has nothing of the writer's open any more."""
HELD = 2
"""The reader has closed its end, and somebody there still refers to what has arrived."""

LET_GO = 1 << 62
"""More than any generation."""

_WORD = 8
_LINE = 64
_FIRST = 5  # the words of the reader's state, and of who the reader and the writer are, come first
_READER, _WRITER = 1, 3


def acks_size(slots: int, readers: int) -> int:
    """How many bytes the page has for an edge of so many slots and readers; it begins as zeros."""
    return readers * _part(slots) * _WORD


def _part(slots: int) -> int:
    """The words of one reader's part: whole cache lines, so that no two readers write to one."""
    line = _LINE // _WORD
    return -(-(_FIRST + 3 * slots) // line) * line


class Shared:
    """The words of a page, as the streams of one process reach them.

    Args:
        device: where the streams are.
        page: a writable buffer of `acks_size` bytes, at an address that is a multiple of the page size.

    Raises:
        DeviceError: the device cannot reach it.
    """

    def __init__(self, device: Device, page: Any) -> None:
        self.memory = memoryview(page).cast("B")
        self.words: Words = device.words(self.memory)

    def close(self) -> None:
        """Let go of them: nothing that was issued uses them any more. Again is harmless."""
        self.words.close()
        self.memory.release()


class Acks:
    """One reader's part of the page, as it or the writer sees it."""

    def __init__(self, shared: Shared, reader: int, slots: int) -> None:
        """Look at a page.

        Args:
            shared: the page.
            reader: which of the readers, from 0.
            slots: how many the edge has.
        """
        part = _part(slots)
        self._first = reader * part
        if shared.memory.nbytes < (self._first + part) * _WORD:
            raise ValueError(f"{shared.memory.nbytes} bytes are too few for {reader + 1} readers of {slots} slots")
        self._device_words = shared.words
        self._words = shared.memory[self._first * _WORD : (self._first + part) * _WORD].cast("Q")
        self._slots = slots
        self._process = os.getpid()

    @property
    def state(self) -> int:
        """The reader's: OPEN, CLOSED or HELD."""
        return self._words[0]

    @state.setter
    def state(self, state: int) -> None:
        self._words[0] = state

    def sign_in_reader(self) -> None:
        """Tell which process the reader is: this one.

        Raises:
            OSError: that cannot be told, as this process is out of descriptors.
        """
        self._sign_in(_READER)

    def sign_in_writer(self) -> None:
        """Tell which process the writer is: this one. Raises as `sign_in_reader`."""
        self._sign_in(_WRITER)

    @property
    def reader_is_gone(self) -> bool:
        """Whether the reader's process has ended, or none has signed in."""
        return self._words[_READER] == 0 or self.reader_has_ended

    @property
    def reader_has_ended(self) -> bool:
        """Whether a process has signed in as the reader, and has ended."""
        return self._has_ended(_READER)

    @property
    def writer_has_ended(self) -> bool:
        """Whether a process has signed in as the writer, and has ended."""
        return self._has_ended(_WRITER)

    def ready(self, slot: int) -> int:
        """The last generation of a slot that the writer's device has filled; 0: none yet; or `LET_GO`."""
        return self._words[self._ready(slot)]

    def issued(self, slot: int) -> int:
        """The last generation of a slot whose ack the reader has issued; 0: none yet."""
        return self._words[self._issued(slot)]

    def acked(self, slot: int) -> int:
        """The last generation of a slot that the reader's device is done with; 0: none yet."""
        return self._words[self._acked(slot)]

    def store_ready(self, stream: Stream, slot: int, generation: int) -> None:
        """Have the writer's stream tell that it has filled a slot."""
        self._device_words.store(stream, self._first + self._ready(slot), generation)

    def wait_until_ready(self, stream: Stream, slot: int, generation: int) -> None:
        """Have the reader's stream wait for that."""
        self._device_words.wait(stream, self._first + self._ready(slot), generation)

    def store_ack(self, stream: Stream, slot: int, generation: int) -> None:
        """Have the reader's stream tell that it is done with a slot, and tell the writer that it will."""
        self._device_words.store(stream, self._first + self._acked(slot), generation)
        self._words[self._issued(slot)] = generation

    def wait_until_acked(self, stream: Stream, slot: int, generation: int) -> None:
        """Have the writer's stream wait for that; it has been `issued`."""
        self._device_words.wait(stream, self._first + self._acked(slot), generation)

    def let_reader_go(self) -> None:
        """Have the reader's streams go on, whatever they wait for. From any thread; harmless after `close`."""
        self._let_go(self._ready)

    def let_writer_go(self) -> None:
        """Have the writer's stream go on, whatever it waits for here. As `let_reader_go`."""
        self._let_go(self._acked)

    def close(self) -> None:
        """Let go of this part; again is harmless."""
        self._words.release()

    def _let_go(self, place: Any) -> None:
        if os.getpid() != self._process:
            return  # a forked child: the streams are its parent's
        with suppress(ValueError):  # this end has been closed meanwhile, as nothing waits any more
            for slot in range(self._slots):
                self._words[place(slot)] = LET_GO

    def _sign_in(self, at: int) -> None:
        self._words[at + 1] = _started(os.getpid())
        self._words[at] = os.getpid()

    def _has_ended(self, at: int) -> bool:
        pid = self._words[at]
        if pid == 0:
            return False
        try:
            return _started(pid) != self._words[at + 1]
        except (FileNotFoundError, ProcessLookupError):
            return True
        except OSError:
            return False  # not known, as this process is out of descriptors: memory of one that lives is in use

    def _ready(self, slot: int) -> int:
        return _FIRST + slot

    def _issued(self, slot: int) -> int:
        return _FIRST + self._slots + slot

    def _acked(self, slot: int) -> int:
        return _FIRST + 2 * self._slots + slot


def _started(pid: int) -> int:
    """When a process was started, in ticks; 0: it has ended.

    Raises:
        FileNotFoundError, ProcessLookupError: there is none.
        OSError: it cannot be known.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        # Behind the name, which may contain anything, the state is the first field.
        fields = file.read().rpartition(b")")[2].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
