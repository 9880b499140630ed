"""The control page: what a loop does now, for the driver to see, and the word that ends it.

A page of memory that the driver shares with one actor. The actor writes its state, the driver reads it without
asking, so a loop whose method hangs, with or without the GIL, can still be described; the driver writes two words:
one tells the loop to end after its present method, or to record what it does, one that executions come one at a
time. Behind the page lies the room for such records, of which nothing takes memory until there are some.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import IntEnum

from async_adag.actor.records import RECORDS_SIZE
from async_adag.channels.memory import PAGE, Mapping, kept
from async_adag.graph.plan import ActorPlan

_ASKED, _STATE, _TASK, _SEQ, _SINCE, _PARKED, _SPUN, _BYTES, _ALONE, _HEEDED = range(10)
_TASKS = 10
_PER_TASK = 2  # calls, nanoseconds
_FINISH, TRACE = 1, 2  # what may be asked for


class LoopState(IntEnum):
    """What a loop is doing."""

    STARTING = 0
    WAITING = 1
    COMPUTING = 2
    ENDED = 3
    SENDING = 4  # tensors, by a communicator
    RECEIVING = 5
    UNKNOWN = 6  # the page holds no state: somebody has overwritten it


@dataclass(frozen=True, slots=True)
class LoopSnapshot:
    """What a loop was doing at one moment.

    Attributes:
        actor: the actor in words.
        state: waiting, computing…
        node: the node in words, where it is computing or sending what that has computed.
        execution: which execution, counted from 0.
        seconds: for how long it has been computing, sending or receiving.
        age: for how many seconds nothing newer has come from its host; 0 where that is the driver's.
    """

    actor: str
    state: LoopState
    node: str
    execution: int
    seconds: float
    age: float = 0.0

    def is_busy(self) -> bool:
        """Whether it does something that cannot be interrupted: computes, or has a communicator at work."""
        return self.state in (LoopState.COMPUTING, LoopState.SENDING, LoopState.RECEIVING)

    def __str__(self) -> str:
        if self.state is LoopState.COMPUTING:
            return f"{self.node}: computing execution {self.execution} since {self.seconds:.1f} s"
        if self.is_busy():
            return f"{self.actor}: {self.state.name.lower()} tensors by a communicator since {self.seconds:.1f} s"
        return f"{self.actor}: {self.state.name.lower()}"


def control_size(plan: ActorPlan) -> int:
    """Bytes of the memory file of an actor's control page, the room for records included."""
    return _page_size(plan) + RECORDS_SIZE


def _page_size(plan: ActorPlan) -> int:
    """Bytes of the control page of an actor, in whole pages."""
    return -(-(_TASKS + _PER_TASK * len(plan.tasks)) * 8 // PAGE) * PAGE


class Control:
    """The control page of one actor, from either side."""

    def __init__(self, fd: int, plan: ActorPlan) -> None:
        """Map the page behind ``fd``, which stays the caller's."""
        count = _TASKS + _PER_TASK * len(plan.tasks)
        self.words = Mapping(fd, 0, _page_size(plan)).words(count)
        self._records: Mapping | None = Mapping(fd, _page_size(plan), RECORDS_SIZE)
        self._plan = plan
        self._heard = 0.0  # when another host told of the page, on `time.monotonic`

    def close(self) -> None:
        """Let go of the page and of the records; the page says for ever what it says now."""
        self.words = kept(self.words)
        self._records = None

    @property
    def records(self) -> Mapping:
        """Where the loop records what it does; not once this is closed."""
        assert self._records is not None
        return self._records

    # the actor's side

    def should_end(self) -> bool:
        """Whether the driver wants the loop to end."""
        return bool(self.words[_ASKED] & _FINISH)

    def asked(self) -> int:
        """What the driver asks of the loop; one look for all of it. 0 for nothing."""
        return self.words[_ASKED]

    def ask(self, word: int) -> None:
        """Take over what the driver asks of the loop, from another host; ring the loop's doorbell too."""
        self.words[_ASKED] = word

    def heed(self, asked: int) -> None:
        """Say that the loop does what it was asked."""
        self.words[_HEEDED] = asked

    def is_alone(self) -> bool:
        """Whether the present execution is the only one under way."""
        return bool(self.words[_ALONE])

    def enter(self, task: int, seq: int) -> int:
        """Say that the loop begins to compute; returns the time, in nanoseconds."""
        words = self.words
        now = time.monotonic_ns()
        words[_TASK] = task
        words[_SEQ] = seq
        words[_SINCE] = now
        words[_STATE] = 2  # COMPUTING
        return now

    def show(self, task: int, seq: int, since: int) -> None:
        """Say that the loop computes, since that time, in nanoseconds."""
        self.enter(task, seq)
        self.words[_SINCE] = since

    def began(self, task: int, seq: int) -> int:
        """When the loop began to compute, in nanoseconds; 0 where it has computed something else since."""
        words = self.words
        return words[_SINCE] if words[_TASK] == task and words[_SEQ] == seq else 0

    def leave(self, task: int, began: int) -> int:
        """Say that it has computed, since ``began``; returns for how many nanoseconds."""
        words = self.words
        took = time.monotonic_ns() - began
        words[_STATE] = 1  # WAITING
        at = _TASKS + _PER_TASK * task
        words[at] += 1
        words[at + 1] += took
        return took

    def set_state(self, state: LoopState) -> None:
        """Say what the loop does from now on."""
        self.words[_STATE] = int(state)

    def begin(self, state: LoopState) -> None:
        """Say that the loop begins to send or to receive."""
        self.words[_SINCE] = time.monotonic_ns()
        self.words[_STATE] = int(state)

    def record_waits(self, parked: int, spun: int) -> None:
        """Say how often the loop has parked, and how often it got its news while spinning."""
        self.words[_PARKED] = parked
        self.words[_SPUN] = spun

    def record_bytes(self, count: int) -> None:
        """Say how many bytes of payload the loop has written."""
        self.words[_BYTES] = count

    def told(self) -> bytes:
        """All of the page, for a driver on another host."""
        return bytes(self.words)

    # the driver's side

    def hear(self, told: bytes, ahead: int = 0) -> None:
        """Take over what the page holds at an actor on another host: all but the driver's own words.

        Args:
            told: the page.
            ahead: nanoseconds that the clock of this host is ahead of that of the actor's.
        """
        heard = memoryview(told).cast("Q")
        if len(heard) != len(self.words):
            raise ValueError("a control page of another size")
        words = self.words
        for at, word in enumerate(heard):
            if at not in (_ASKED, _ALONE):
                words[at] = max(0, word + ahead) if at == _SINCE and word else word
        self._heard = time.monotonic()

    def end(self) -> None:
        """Ask the loop to end after its present method; ring its doorbell too."""
        self.words[_ASKED] = _FINISH

    def set_traced(self, traced: bool) -> None:
        """Ask the loop to record what it does, or no longer to; ring its doorbell too. Under the graph's lock."""
        if not self.should_end():
            self.words[_ASKED] = TRACE if traced else 0

    def is_heeded(self) -> bool:
        """Whether the loop does what it was asked last; or has ended, or is no longer heard."""
        words = self.words
        return self._records is None or words[_HEEDED] == words[_ASKED] or words[_STATE] == LoopState.ENDED

    def set_alone(self, alone: bool) -> None:
        """Say whether executions come one at a time, so that what counts is how long each takes."""
        self.words[_ALONE] = alone

    def snapshot(self) -> LoopSnapshot:
        """What the loop is doing now."""
        words = self.words
        task = self._plan.tasks[words[_TASK] % len(self._plan.tasks)]
        seconds = max(0, time.monotonic_ns() - words[_SINCE]) / 1e9
        state = LoopState(min(words[_STATE], LoopState.UNKNOWN))
        age = time.monotonic() - self._heard if self._heard else 0.0
        return LoopSnapshot(self._plan.name, state, task.label, words[_SEQ], seconds, age)

    def waits(self) -> tuple[int, int]:
        """How often the loop parked, and how often it got its news while spinning."""
        return self.words[_PARKED], self.words[_SPUN]

    def bytes(self) -> int:
        """Bytes of payload that the loop has written."""
        return self.words[_BYTES]

    def computed(self) -> list[tuple[int, int, int]]:
        """For each task: its node's number, how often it ran, and for how many nanoseconds in all."""
        words = self.words
        return [
            (task.node, words[_TASKS + _PER_TASK * number], words[_TASKS + _PER_TASK * number + 1])
            for number, task in enumerate(self._plan.tasks)
        ]
