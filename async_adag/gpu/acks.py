"""The page of shared host memory by which the readers of an IPC edge tell its writer what they are done with.

Each reader has a part of its own: a word that says how far it is with closing, and for each slot of the edge the
generation it is done with and the handle of the event to wait for then. It also says which process that is. One
word of it is written by the writer: whether it has closed its end.

A reader records the event, then stores the generation; the writer sees the generation, then has its stream wait
for the event. Storing or loading a word is a single aligned access. On x86 stores are seen in their order. On
other processors they may not be, but the event is recorded by a call of the driver, which publishes it by means
of its own; and a handle carries a checksum, so that one that is only half there is read again later.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

from async_adag.gpu.interface import DeviceError

OPEN = 0
CLOSED = 1
"""The reader has nothing of the writer's open any more."""
HELD = 2
"""The reader has closed its end, and somebody there still refers to what has arrived."""

_WORD = 8
_LINE = 64
_HANDLE = 112  # bytes at most; CUDA's are 64
_FIRST = 4  # the words of the reader's and the writer's state, and of who the reader is, come first
_HANDLE_WORDS = 2 + _HANDLE // _WORD


def acks_size(slots: int, readers: int) -> int:
    """How many bytes the page has for an edge of so many slots and readers; it begins as zeros."""
    return readers * _part(slots) * _WORD


def _part(slots: int) -> int:
    """The words of one reader's part: whole cache lines, so that no two readers write to one."""
    words = _FIRST + slots + slots * _HANDLE_WORDS
    line = _LINE // _WORD
    return -(-words // line) * line


class Acks:
    """One reader's part of the page, as it or the writer sees it."""

    def __init__(self, page: Any, reader: int, slots: int) -> None:
        """Look at a page.

        Args:
            page: a writable buffer of at least `acks_size` bytes, at an address that is a multiple of 8.
            reader: which of the readers, from 0.
            slots: how many the edge has.
        """
        part = _part(slots)
        with memoryview(page) as view, view.cast("B") as octets:
            if len(octets) < (reader + 1) * part * _WORD:
                raise ValueError(f"{len(octets)} bytes are too few for {reader + 1} readers of {slots} slots")
            self._bytes = octets[reader * part * _WORD : (reader + 1) * part * _WORD]
        self._words = self._bytes.cast("Q")
        self._slots = slots

    @property
    def state(self) -> int:
        """The reader's: OPEN, CLOSED or HELD."""
        return self._words[0]

    @state.setter
    def state(self, state: int) -> None:
        self._words[0] = state

    def sign_in(self) -> None:
        """Tell which process the reader is: this one."""
        self._words[3] = _started(os.getpid())
        self._words[2] = os.getpid()

    @property
    def reader_is_gone(self) -> bool:
        """Whether the reader's process has ended, or none has signed in."""
        pid = self._words[2]
        return pid == 0 or _started(pid) != self._words[3]

    @property
    def writer_has_closed(self) -> bool:
        """Whether the writer looks at no event of the reader's any more."""
        return self._words[1] != 0

    def close_writer(self) -> None:
        """The writer has closed its end."""
        self._words[1] = 1

    def done_with(self, slot: int) -> int:
        """The last generation of a slot that the reader is done with; 0: none yet."""
        return self._words[_FIRST + slot]

    def set_done_with(self, slot: int, generation: int) -> None:
        """Tell the writer, which then waits for the event of the slot as it is recorded now."""
        self._words[_FIRST + slot] = generation

    def set_event(self, slot: int, handle: bytes) -> None:
        """Leave the handle of the event of a slot, before its first generation is told.

        Raises:
            DeviceError: it is too long.
        """
        if len(handle) > _HANDLE:
            raise DeviceError(f"the handle of an event has {len(handle)} bytes, more than {_HANDLE}")
        at = self._at(slot)
        start = (at + 2) * _WORD
        self._bytes[start : start + len(handle)] = handle
        self._words[at + 1] = zlib.crc32(handle)
        self._words[at] = len(handle)

    def event(self, slot: int) -> bytes | None:
        """The handle of the event of a slot; None: it is not there as yet."""
        at = self._at(slot)
        length = self._words[at]
        if not 0 < length <= _HANDLE:
            return None
        start = (at + 2) * _WORD
        handle = bytes(self._bytes[start : start + length])
        return handle if zlib.crc32(handle) == self._words[at + 1] else None

    def close(self) -> None:
        """Let go of the page; again is harmless."""
        self._words.release()
        self._bytes.release()

    def _at(self, slot: int) -> int:
        return _FIRST + self._slots + slot * _HANDLE_WORDS


def _started(pid: int) -> int:
    """When a process was started, in ticks; 0: there is none, or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Behind the name, which may contain anything, the state is the first field.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
