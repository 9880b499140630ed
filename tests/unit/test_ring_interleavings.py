"""The ring's rules, one memory access at a time: every interleaving, on a processor that delays stores.

Each process of a scenario is ordinary code over words, cut into rounds. A round is run again from its beginning
for each of its steps, with the results of the earlier ones replayed, so that a state of the whole is a plain
value, and every state that can be reached is looked at once. What a round does next depends on its beginning and
on those results alone, so it is run once for each, however many states have them. Stores go into a buffer of their
process and reach memory later, in order, as on x86; a fence, or the system call that rings a doorbell, empties it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest

from async_adag.protocol.ring import ReaderCursor, RingLayout, WriterCursor

pytestmark = pytest.mark.interpreted(reason="it stops between steps of Python")


class Step(Exception):
    """What a process does next."""

    def __init__(self, name: str, *operands: int) -> None:
        self.name = name
        self.operands = operands


class View:
    """Memory and doorbells as one process sees them: replays what it saw, then stops at the next step."""

    def __init__(self, log: tuple[int, ...]) -> None:
        self._log = log
        self._at = 0

    def _step(self, name: str, *operands: int) -> int:
        if self._at == len(self._log):
            raise Step(name, *operands)
        self._at += 1
        return self._log[self._at - 1]

    def __getitem__(self, index: int) -> int:
        return self._step("load", index)

    def __setitem__(self, index: int, value: int) -> None:
        self._step("store", index, value)

    def __enter__(self) -> None:
        """As a fence."""
        self._step("fence")

    def __exit__(self, *_: object) -> None:
        pass

    def ring(self, process: int) -> None:
        self._step("ring", process)

    def sleep(self) -> None:
        self._step("sleep")


Mark = tuple[int, ...]
Round = Callable[[View, Mark], Mark]  # from where a process stands to where it stands next
Next = Callable[[tuple[int, ...], Mark], tuple[str, tuple[int, ...]]]  # `next_of` a round
FINISHED: Mark = (-1,)


class Moment(NamedTuple):
    """A state: memory, and for each process its delayed stores, whether its doorbell rang, and where it is."""

    memory: tuple[int, ...]
    buffers: tuple[tuple[tuple[int, int], ...], ...]
    rung: tuple[bool, ...]
    marks: tuple[Mark, ...]
    logs: tuple[tuple[int, ...], ...]


def explore(rounds: list[Round], marks: tuple[Mark, ...], words: int) -> int:
    """Look at every state; returns how many there are.

    Raises:
        AssertionError: a process found something wrong, or all that have not finished sleep for ever.
    """
    count = len(rounds)
    processes = [functools.cache(functools.partial(next_of, process)) for process in rounds]
    first = Moment((0,) * words, ((),) * count, (False,) * count, marks, ((),) * count)
    seen = {first}
    stack = [first]
    while stack:
        moment = stack.pop()
        following: list[Moment] = []
        for number, process in enumerate(processes):
            if moment.marks[number] == FINISHED:
                continue
            private, after = advance(moment, number, process)
            if private:
                # Nobody else can notice: whatever may happen before it may as well happen after it.
                following = [after]
                break
            following += [after] if after is not None else []
        else:
            following += [flushed(moment, number, 1) for number in range(count) if moment.buffers[number]]
        assert following or set(moment.marks) == {FINISHED}, "asleep for ever: a wake-up was lost"
        for after in following:
            if after not in seen:
                seen.add(after)
                stack.append(after)
    return len(seen)


def next_of(process: Round, log: tuple[int, ...], mark: Mark) -> tuple[str, tuple[int, ...]]:
    """The next step of a round, or "" and where it has come to."""
    try:
        return "", process(View(log), mark)
    except Step as step:
        return step.name, step.operands


def advance(moment: Moment, number: int, process: Next) -> tuple[bool, Moment | None]:
    """The state after the next step of a process (None while it has to sleep); whether the step is private."""
    name, operands = process(moment.logs[number], moment.marks[number])
    if name:
        private = name == "store" or (name == "fence" and not moment.buffers[number])
        return private, perform(moment, number, name, *operands)
    return True, moment._replace(marks=put(moment.marks, number, operands), logs=put(moment.logs, number, ()))


def perform(moment: Moment, number: int, name: str, *operands: int) -> Moment | None:
    result = 0
    if name == "load":
        (index,) = operands
        delayed = [value for at, value in moment.buffers[number] if at == index]
        result = delayed[-1] if delayed else moment.memory[index]
    elif name == "store":
        buffer = (*moment.buffers[number], (operands[0], operands[1]))
        moment = moment._replace(buffers=put(moment.buffers, number, buffer))
    elif name == "sleep":
        if not moment.rung[number]:
            return None
        moment = moment._replace(rung=put(moment.rung, number, False))
    else:
        moment = flushed(moment, number, len(moment.buffers[number]))
        if name == "ring":
            moment = moment._replace(rung=put(moment.rung, operands[0], True))
    return moment._replace(logs=put(moment.logs, number, (*moment.logs[number], result)))


def flushed(moment: Moment, number: int, count: int) -> Moment:
    """The state after the oldest delayed stores of a process have reached memory."""
    memory = list(moment.memory)
    buffer = moment.buffers[number]
    for index, value in buffer[:count]:
        memory[index] = value
    return moment._replace(memory=tuple(memory), buffers=put(moment.buffers, number, buffer[count:]))


def put(items: tuple[Any, ...], at: int, item: Any) -> tuple[Any, ...]:
    return (*items[:at], item, *items[at + 1 :])


class Words:
    """The ring's words for one process: by consecutive numbers, so that a state is small."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers
        self.view: View | None = None  # until there is one, nothing has happened

    def __getitem__(self, index: int) -> int:
        return 0 if self.view is None else self.view[self._numbers[index]]

    def __setitem__(self, index: int, value: int) -> None:
        assert self.view is not None
        self.view[self._numbers[index]] = value


no_fence = nullcontext()  # orders nothing
WRITER_CPU, READER_CPU = 0, 1


def mark_of(cursor: Any) -> Mark:
    """The numbers that a cursor keeps to itself."""
    return tuple(getattr(cursor, name) for name in counts(cursor))


def counts(cursor: Any) -> list[str]:
    return [name for name in cursor.__slots__ if type(getattr(cursor, name)) is int]


def scenario(slots: int, readers: int, frames: int, *, unfenced: str = "", ahead: bool = False) -> int:
    """One writer and some readers pass ``frames`` frames, parking whenever they have to wait.

    With ``ahead`` the writer calls its readers up ahead of each frame.
    """
    layout = RingLayout(slots, readers, 0)
    used = [layout.head, layout.writer_parked, *layout.tails, *layout.parked]
    numbers = {word: number for number, word in enumerate(used)}

    def cursor_at(mark: Mark, view: View, make: Callable[..., Any], *which: int) -> Any:
        words = Words(numbers)
        drops_fence = unfenced == ("reader" if which else "writer")
        cpu = READER_CPU if which else WRITER_CPU
        cursor = make(words, layout, *which, no_fence if drops_fence else view, lambda: cpu)
        for name, value in zip(counts(cursor), mark, strict=True):
            setattr(cursor, name, value)
        words.view = view
        return cursor

    def slot(position: int) -> int:
        return len(used) + position % slots

    def write(view: View, mark: Mark) -> Mark:
        cursor = cursor_at(mark, view, WriterCursor)
        if cursor.may_write():
            for reader in cursor.call_up() if ahead else ():
                view.ring(reader)
            view[slot(cursor.head)] = 100 + cursor.head
            for reader in cursor.publish():
                view.ring(reader)
        elif not cursor.arm():
            view.sleep()
        return FINISHED if cursor.head == frames else mark_of(cursor)

    def read_as(reader: int) -> Round:
        def read(view: View, mark: Mark) -> Mark:
            cursor = cursor_at(mark, view, ReaderCursor, reader)
            if cursor.may_read():
                got = view[slot(cursor.tail)]
                assert got == 100 + cursor.tail, "a slot was read too early, or overwritten too early"
                if cursor.take():
                    view.ring(readers)
            elif not cursor.arm():
                view.sleep()
            return FINISHED if cursor.tail == frames else mark_of(cursor)

        return read

    rounds: list[Round] = [*map(read_as, range(readers)), write]
    blank = Words(numbers)
    first = [mark_of(ReaderCursor(blank, layout, reader, no_fence, int)) for reader in range(readers)]
    first.append(mark_of(WriterCursor(blank, layout, no_fence, int)))
    return explore(rounds, tuple(first), len(used) + slots)


@pytest.mark.parametrize(
    ("slots", "readers", "frames"), [(1, 1, 1), (1, 1, 3), (2, 1, 3), (2, 1, 5), (1, 2, 1), (1, 2, 2)]
)
def test_no_frame_and_no_wake_up_is_ever_lost(slots, readers, frames):
    assert scenario(slots, readers, frames) > 50


@pytest.mark.parametrize(("slots", "readers", "frames"), [(1, 1, 3), (2, 1, 3), (1, 2, 1)])
def test_calling_up_ahead_of_a_frame_loses_no_wake_up(slots, readers, frames):
    assert scenario(slots, readers, frames, ahead=True) > scenario(slots, readers, frames)


@pytest.mark.parametrize("unfenced", ["writer", "reader"])
def test_without_either_fence_a_wake_up_would_be_lost(unfenced):
    with pytest.raises(AssertionError, match="a wake-up was lost"):
        scenario(1, 1, 2, unfenced=unfenced)
