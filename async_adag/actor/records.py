"""Records of what a process does and when, for timelines: a ring in memory that one thread writes.

A record is four 64-bit words: what and of which channel or task, the execution, the beginning, the end. Times are
of `time.monotonic_ns`, whose clock is one for all processes of a host. The first row counts the records. When the
ring is full the oldest are overwritten; a reader in another process looks at the count before and after it reads,
and so knows which those are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from async_adag.channels.memory import PAGE, Mapping

CAPACITY = 1 << 16
_ROW = 4  # words
RECORDS_SIZE = -(-(CAPACITY + 1) * _ROW * 8 // PAGE) * PAGE
_FAILED = 1 << 63
_KIND_SHIFT = 32
_NUMBER = (1 << _KIND_SHIFT) - 1
_PLAUSIBLE = 1 << 48  # records that no process writes in its life


class Activity(IntEnum):
    """What a process does. The last three are a GPU's, on whose clock they are taken and put on ours."""

    WAIT = 1  # for a frame, or for room to write one; of a channel
    READ = 2  # takes a frame and unpickles it; of a channel
    COMPUTE = 3  # calls the method, or does the operation; of a task
    WRITE = 4  # pickles a value and sends the frame; of a channel
    RECEIVE = 5  # tensors of a channel
    DEVICE = 6  # computes a task
    SEND = 7  # tensors of a channel


ACTIVITIES = frozenset(Activity)


@dataclass(frozen=True, slots=True)
class Record:
    """One span of time.

    Attributes:
        activity: what was done.
        number: the channel's, or the task's among those of its actor.
        execution: counted from 0.
        began: in nanoseconds.
        ended: in nanoseconds.
        failed: whether it ended in a failure, or brought one.
    """

    activity: Activity
    number: int
    execution: int
    began: int
    ended: int
    failed: bool = False


class Recorder:
    """Writes records. One thread at a time.

    Attributes:
        execution: the one under way, where they come one after another.
    """

    __slots__ = ("_count", "_words", "execution")

    def __init__(self, words: memoryview) -> None:
        """Go on behind the records in ``words``, of 64 bits."""
        self._words = words
        self._count = words[0] % _PLAUSIBLE
        self.execution = 0

    def add(
        self, activity: Activity, number: int, execution: int, began: int, ended: int, failed: bool = False
    ) -> None:
        """Write a record; see `Record`."""
        words, count = self._words, self._count
        at = _ROW + count % CAPACITY * _ROW
        words[at] = activity << _KIND_SHIFT | number | (_FAILED if failed else 0)
        words[at + 1] = execution
        words[at + 2] = began
        words[at + 3] = ended
        self._count = words[0] = count + 1

    def extend(self, ended: int) -> None:
        """Say that what the latest record is of ended later."""
        self._words[_ROW + (self._count - 1) % CAPACITY * _ROW + 3] = ended


class Lanes(Protocol):
    """Records what a device does, which may be long after it was issued."""

    def start(self, recorder: Recorder) -> None:
        """Record from now on."""

    def begin(self) -> None:
        """A task is about to issue its work."""

    def end(self, task: int) -> None:
        """It has issued it."""

    def collect(self) -> bool:
        """Record what has been done since; whether that is all."""

    def stop(self, patience: float = ...) -> None:
        """Record no longer; waits for what the device is still to do, for so many seconds. Again is harmless."""


def records_here() -> memoryview:
    """Room for the records of this process itself, as `Recorder` and `read_records` take it."""
    return memoryview(bytearray(RECORDS_SIZE)).cast("Q")


def records_in(mapping: Mapping) -> memoryview:
    """Those in a piece of shared memory."""
    return mapping.words(RECORDS_SIZE // 8)


def make_room(mapping: Mapping) -> None:
    """Have all pages there, so that recording waits for none.

    Raises:
        OSError: there is no memory for them.
    """
    mapping.populate(0)


def give_back(mapping: Mapping) -> None:
    """Let go of the records; but for the first page, which has the count."""
    mapping.give_back(PAGE)


def count_of(words: memoryview) -> int:
    """How many records were written so far."""
    return words[0]


def copy_records(words: memoryview) -> tuple[memoryview, int]:
    """A copy of all records, while their process may write further ones; and how many it had written then."""
    copy = memoryview(bytearray(words)).cast("Q")
    return copy, words[0]


def read_records(words: memoryview, first: int, written: int | None = None) -> tuple[list[Record], int]:
    """Read the records from number ``first`` on, while their process may write further ones.

    Args:
        words: the memory, or a copy of it.
        first: the number of a record.
        written: of a copy, how many had been written when it was made.

    Returns:
        The records, in the order in which they were written; and how many were overwritten before.
    """
    count = words[0]
    if not first <= count < first + _PLAUSIBLE:
        return [], 0  # somebody has overwritten the count
    begin = max(first, count - CAPACITY)
    rows = []
    for number in range(begin, count):
        at = _ROW + number % CAPACITY * _ROW
        rows.append(words[at : at + _ROW].tolist())
    # The next one may be half written by now.
    spoiled = max(begin, (words[0] if written is None else written) + 1 - CAPACITY) - begin
    lost = min(count, begin + spoiled) - first
    found = (_record(row) for row in rows[spoiled:])
    return [record for record in found if record is not None], lost


def tell_records(words: memoryview, first: int) -> bytes:
    """The records from number ``first`` on, for `hear_records` on another host, while their process may write
    further ones: as words, behind how many were overwritten before.
    """
    count = words[0]
    if not first <= count < first + _PLAUSIBLE:
        return bytes(8)  # somebody has overwritten the count
    begin = max(first, count - CAPACITY)
    at, end = (_ROW + number % CAPACITY * _ROW for number in (begin, count))
    whole = _ROW + CAPACITY * _ROW
    if count - begin == 0:
        rows = b""
    elif at < end:
        rows = bytes(words[at:end])
    else:
        rows = bytes(words[at:whole]) + bytes(words[_ROW:end])
    # The next one may be half written by now.
    spoiled = min(count, max(begin, words[0] + 1 - CAPACITY)) - begin
    return (begin + spoiled - first).to_bytes(8, "little") + rows[spoiled * _ROW * 8 :]


def hear_records(told: bytes, to_ours: Callable[[int], int]) -> tuple[list[Record], int]:
    """What `tell_records` told: the records, and how many were lost.

    Args:
        told: by the other host.
        to_ours: puts times of its clock on ours, in nanoseconds.
    """
    words = memoryview(told[: len(told) // 8 * 8]).cast("Q")
    if not words:
        return [], 0
    found = []
    for at in range(1, len(words) - _ROW + 1, _ROW):
        record = _record(words[at : at + _ROW].tolist())
        if record is not None:
            began, ended = to_ours(record.began), to_ours(record.ended)
            found.append(replace(record, began=began, ended=max(began, ended)))
    return found, words[0]


def _record(row: list[int]) -> Record | None:
    what, execution, began, ended = row
    kind = (what & ~_FAILED) >> _KIND_SHIFT
    if kind not in ACTIVITIES or began > ended:
        return None  # none of ours: somebody has overwritten it
    return Record(Activity(kind), what & _NUMBER, execution, began, ended, bool(what & _FAILED))
