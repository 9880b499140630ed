"""What may come of a call, given what was done to its graph; and the counters of a run."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ray.exceptions import ActorDiedError

from async_adag import CapacityExceeded, ExecutionTimeout, GraphBroken, GraphClosed, GraphError
from tests.soak.parcels import Parcel, Spoiled
from tests.soak.shapes import Failing, Shape


class Outcome(StrEnum):
    """What has come of a call. All but `WRONG` had a reason."""

    RIGHT = "right"
    FAILED = "failed as ordered"
    REFUSED = "refused, cannot be pickled"
    CANCELLED = "cancelled"
    TIMED_OUT = "missed its deadline"
    FULL = "no place in time"
    CLOSED = "its graph was closed"
    BROKEN = "its actor was killed"
    SPOILED = "its memory was spoiled"
    WRONG = "wrong"


class Subject:
    """A graph under test, and what was done to it.

    Attributes:
        shape: its DAG.
        actors: what it runs on.
        compiled: the graph, while it is held here.
        deaths: when it was begun to kill each of its actors (`time.monotonic`), so far.
        killed_at: when the first of them was killed, if by a signal.
        spoiled: whether a frame of it was spoiled.
        refused: whether such a frame was found, and broke it.
        draining: whether it is being closed so that what is in flight finishes.
        abandoned: whether it is being torn down with what is in flight.
        impatient: whether blocking admissions give up after ``submit_timeout``.
    """

    def __init__(self, shape: Shape, actors: list[Any]) -> None:
        self.shape = shape
        self.actors = actors
        self.compiled: Any = None
        self.deaths: list[float] = []
        self.killed_at: float | None = None
        self.spoiled = False
        self.refused = False
        self.draining = False
        self.abandoned = False
        self.impatient = False

    def is_at_work(self) -> bool:
        """Whether callers should go on."""
        return self.compiled is not None and not (self.is_hurt() or self.draining or self.abandoned)

    def is_hurt(self) -> bool:
        """Whether something was done to it that may have broken it."""
        return bool(self.deaths) or self.spoiled


@dataclass
class Call:
    """An execution that was asked for.

    Attributes:
        subject: the graph.
        parcel: the input.
        cancelled: whether the caller has cancelled it.
        deadline: whether it has one.
        sendable: whether the parcel can be pickled.
        admitted: whether it was in flight before anybody began to close the graph.
        blocking: whether it was asked for by a thread.
        began: when (`time.monotonic`).
    """

    subject: Subject
    parcel: Parcel
    cancelled: bool = False
    deadline: bool = False
    sendable: bool = True
    admitted: bool = False
    blocking: bool = False
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.expected = self.subject.shape.expect(self.parcel)


def judge(call: Call, result: Any, output: int | None = None) -> tuple[Outcome, str]:
    """What has come of a call, and why it is wrong if it is.

    Args:
        call: the call.
        result: its value, or the exception that it raised.
        output: the number of the output that ``result`` is of; None where it is that of the whole execution.
    """
    expected = call.expected if output is None else [call.expected[output]]
    if isinstance(result, BaseException):
        outcome = _judge_error(call, result, expected)
        return (outcome, "") if outcome is not None else (Outcome.WRONG, _unexpected(call, result))
    values = result if output is None and call.subject.shape.multi else [result]
    why = _differences(call, values, expected)
    return (Outcome.WRONG, why) if why else (Outcome.RIGHT, "")


def _judge_error(call: Call, error: BaseException, expected: list[Parcel | Failing]) -> Outcome | None:
    subject = call.subject
    if isinstance(error, asyncio.CancelledError):
        return Outcome.CANCELLED if call.cancelled else None
    if isinstance(error, GraphBroken):
        if isinstance(error, ActorDiedError):
            return Outcome.BROKEN if subject.deaths else None
        return Outcome.SPOILED if subject.spoiled else None
    if isinstance(error, GraphClosed):
        closed = subject.abandoned or (subject.draining and not call.admitted)
        return Outcome.CLOSED if closed else None
    if isinstance(error, CapacityExceeded):
        return Outcome.FULL if call.blocking and subject.impatient else None
    if isinstance(error, ExecutionTimeout):
        return Outcome.TIMED_OUT if call.deadline else None
    if not call.sendable:
        return Outcome.REFUSED if isinstance(error, TypeError) else None
    as_ordered = any(isinstance(value, Failing) and value.fits(error) for value in expected)
    return Outcome.FAILED if as_ordered else None


def _unexpected(call: Call, error: BaseException) -> str:
    subject = call.subject
    return (
        f"parcel {call.parcel.number} ({call.parcel.size} bytes, {call.parcel.orders}) in {subject.shape.name!r}: "
        f"{type(error).__name__}: {str(error)[:2000]} (deaths {len(subject.deaths)}, draining {subject.draining}, "
        f"abandoned {subject.abandoned}, admitted {call.admitted}, cancelled {call.cancelled}, "
        f"deadline {call.deadline})"
    )


def _differences(call: Call, values: Any, expected: list[Parcel | Failing]) -> str:
    parcel = call.parcel
    if not call.sendable:
        return f"parcel {parcel.number} was sent, and cannot be pickled"
    if not isinstance(values, list) or len(values) != len(expected):
        return f"parcel {parcel.number}: {len(expected)} outputs expected, got {values!r:.200}"
    for value, right in zip(values, expected, strict=True):
        if isinstance(right, Failing):
            return f"parcel {parcel.number}: {right.type.__name__} expected, got {value!r:.200}"
        if not isinstance(value, Parcel) or (value.number, value.trail) != (right.number, right.trail):
            return f"parcel {parcel.number}, trail {right.trail} expected, got {value!r:.200}"
        if (value.size, value.body is None) != (right.size, right.body is None):
            return f"parcel {parcel.number}: {right.size} bytes expected, got {value.size}"
        try:
            value.check()
        except Spoiled as spoiled:
            return str(spoiled)
    return ""


def judge_compile(subject: Subject, error: BaseException) -> str:
    """Why it is wrong that compiling has failed so; "" where an actor was killed meanwhile."""
    if subject.deaths and isinstance(error, GraphError) and isinstance(error, ActorDiedError):
        return ""
    return f"compiling {subject.shape.name!r}, {len(subject.deaths)} of its actors killed: {error!r:.2000}"


AFTER_A_HANG = 1.0  # seconds of patience: the run is to end, and to say what else hangs


class Hung(Exception):
    """Something that must end has not."""


class Tally:
    """The counters of a run. Threads may count too.

    Args:
        patience: seconds within which whatever is waited for must end.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.outcomes: Counter[Outcome] = Counter()
        self.events: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest_failure = 0.0  # seconds from a kill until a call that was in flight had failed
        self._lock = threading.Lock()

    @property
    def executions(self) -> int:
        """Calls that gave a result or a node's failure."""
        return self.outcomes[Outcome.RIGHT] + self.outcomes[Outcome.FAILED]

    def count(self, call: Call, result: Any, output: int | None = None, at: float | None = None) -> Outcome:
        """Judge and count; ``at`` is when the result was there (now, if not told)."""
        outcome, why = judge(call, result, output)
        at = time.monotonic() if at is None else at
        with self._lock:
            self.outcomes[outcome] += 1
            if why:
                self.wrong.append(why)
            if outcome is Outcome.SPOILED and not call.subject.refused:
                call.subject.refused = True
                self.events["malformed frames refused"] += 1
            killed_at = call.subject.killed_at
            if outcome is Outcome.BROKEN and killed_at is not None and call.began < killed_at:
                self.slowest_failure = max(self.slowest_failure, at - killed_at)
        return outcome

    def note(self, event: str, count: int = 1) -> None:
        """Count something else that has happened."""
        with self._lock:
            self.events[event] += count

    def complain(self, what: str) -> None:
        """Something is wrong that no call has given."""
        with self._lock:
            self.wrong.append(what)

    async def result_of(self, awaitable: Awaitable[Any], what: str) -> Any:
        """The value, or the exception, of ``awaitable``.

        Raises:
            Hung: neither came within `patience`.
        """
        future = asyncio.ensure_future(awaitable)
        await asyncio.wait([future], timeout=self.patience)
        if not future.done():
            hung = f"hung: {what} has not ended within {self.patience:g} s"
            self.complain(hung)
            print(hung, file=sys.stderr, flush=True)
            faulthandler.dump_traceback(file=sys.__stderr__)
            self.patience = AFTER_A_HANG
            raise Hung(hung)
        if future.cancelled():
            return asyncio.CancelledError()
        error = future.exception()
        return future.result() if error is None else error
