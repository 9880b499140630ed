"""The ways of calling a graph. Each makes some executions of it, and counts what has come of each."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import ray

from async_adag import ExecutionTimeout
from tests.soak.outcomes import Call, Outcome, Subject, Tally
from tests.soak.parcels import Parcel, Post, Spoiled
from tests.threads import in_thread

Way = Callable[[Subject, list[Parcel]], Awaitable[None]]
HELD = 72  # results that a user holds: more than a reader leases


class Callers:
    """The ways of calling, for one run.

    Args:
        tally: where outcomes are counted.
        post: where parcels come from.
    """

    def __init__(self, tally: Tally, post: Post) -> None:
        self.tally = tally
        self.post = post
        self.rng: Random = post.rng
        self._held: deque[Parcel] = deque()

    @property
    def ways(self) -> tuple[Way, ...]:
        """All of them; each takes a graph and the parcels to send."""
        return (
            self.awaited,
            self.gathered,
            self.held,
            self.cancelled_futures,
            self.cancelled_waits,
            self.never_awaited,
            self.with_deadline,
            self.mapped,
            self.mapped_and_left,
            self.unsendable,
            self.refs_in_payloads,
            self.threads,
            self.threads_with_deadline,
            self.dropped_refs,
        )

    # -- tasks

    async def awaited(self, subject: Subject, parcels: list[Parcel]) -> None:
        """One after the other."""
        compiled = subject.compiled
        for parcel in parcels:
            call = Call(subject, parcel)
            self.tally.count(call, await self._result(compiled(parcel), call))

    async def gathered(self, subject: Subject, parcels: list[Parcel]) -> None:
        """All at once, looked at in any order, some twice."""
        admitted = await self._admit(subject, parcels)
        self.rng.shuffle(admitted)
        for call, futures, times in admitted:
            for output, future in enumerate(futures):
                result = await self._result(future, call)
                self.tally.count(call, result, output, times[output])
                if self.rng.random() < 0.2 and await self._result(future, call) is not result:
                    self.tally.complain(f"parcel {call.parcel.number}: awaited twice, two results")

    async def held(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Results are held while others come and go, and are what they were when they are let go of."""
        for call, futures, _ in await self._admit(subject, parcels):
            for output, future in enumerate(futures):
                result = await self._result(future, call)
                if self.tally.count(call, result, output) is Outcome.RIGHT:
                    self._held.append(result)
        self.let_go(HELD)

    def let_go(self, left: int = 0) -> None:
        """Drop the results that are held, the oldest first, until ``left`` are."""
        while len(self._held) > left:
            try:
                self._held.popleft().check()
            except Spoiled as spoiled:
                self.tally.complain(f"while it was held: {spoiled}")

    async def cancelled_futures(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Half of the futures are cancelled."""
        admitted = await self._admit(subject, parcels)
        for call, futures, _ in admitted:
            if self.rng.random() < 0.5:
                call.cancelled = True
                for future in futures:
                    future.cancel()
        await self._count(admitted)

    async def cancelled_waits(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Tasks are cancelled wherever they happen to wait: for a place, or for their result."""
        compiled = subject.compiled
        calls = [Call(subject, parcel) for parcel in parcels]
        tasks = [asyncio.ensure_future(compiled(call.parcel)) for call in calls]
        for call, task in zip(calls, tasks, strict=True):
            if self.rng.random() < 0.5:
                await self._moment()
                call.cancelled = True
                task.cancel()
        for call, task in zip(calls, tasks, strict=True):
            self.tally.count(call, await self._result(task, call))

    async def never_awaited(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Nobody looks at the results."""
        compiled = subject.compiled
        for parcel in parcels:
            call = Call(subject, parcel)
            result = await self._result(compiled.execute_async(parcel), call)
            if isinstance(result, BaseException):
                self.tally.count(call, result)
            else:
                self.tally.note("results that nobody looked at")

    async def with_deadline(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Each execution has a deadline, which many miss."""
        compiled = subject.compiled
        calls = [Call(subject, parcel, deadline=True) for parcel in parcels]
        view = compiled.options(timeout=self.rng.choice((0.0, 0.001, 0.02, 0.2)))
        tasks = [asyncio.ensure_future(view(call.parcel)) for call in calls]
        for call, task in zip(calls, tasks, strict=True):
            self.tally.count(call, await self._result(task, call))

    async def mapped(self, subject: Subject, parcels: list[Parcel]) -> None:
        """`map` over a plain iterable, to its end or to the first failure."""
        await self._map(subject, parcels, leave_after=len(parcels))

    async def mapped_and_left(self, subject: Subject, parcels: list[Parcel]) -> None:
        """`map` over an async iterable, left early."""

        async def items() -> Any:
            for parcel in parcels:
                await self._moment()
                yield parcel

        await self._map(subject, parcels, leave_after=self.rng.randint(0, len(parcels)), source=items())

    async def _map(self, subject: Subject, parcels: list[Parcel], leave_after: int, source: Any = None) -> None:
        ordered = self.rng.random() < 0.5
        window = self.rng.choice((None, 1, 3, 100))
        results = subject.compiled.map(source or parcels, window=window, ordered=ordered)
        calls = {parcel.number: Call(subject, parcel) for parcel in parcels}
        for parcel in parcels[:leave_after]:
            result = await self._result(anext(results, None), calls[parcel.number])
            if result is None:
                self.tally.complain(f"map ended before parcel {parcel.number}")
            call = calls[parcel.number] if ordered else _call_of(result, calls)
            self.tally.count(call, result)
            if isinstance(result, BaseException):
                break
        await self._result(results.aclose(), "closing a map")

    async def unsendable(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Payloads that cannot be pickled, between others."""
        compiled = subject.compiled
        for parcel in parcels:
            call = Call(subject, self.post.unsendable(), sendable=False)
            self.tally.count(call, await self._result(compiled(call.parcel), call))
            call = Call(subject, parcel)
            self.tally.count(call, await self._result(compiled(parcel), call))

    async def refs_in_payloads(self, subject: Subject, parcels: list[Parcel]) -> None:
        """ObjectRefs travel along, and an actor gets them."""
        names = subject.shape.stage_names
        await self.gathered(subject, [self.post.with_ref(self.rng.choice(names)) for _ in parcels])

    # -- threads

    async def threads(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Three threads, with refs that are got in any order, in part by looking again and again."""
        await self._in_threads([self._get_all], subject, parcels)

    async def threads_with_deadline(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Threads whose executions have a deadline."""
        await self._in_threads([self._get_in_time], subject, parcels)

    async def dropped_refs(self, subject: Subject, parcels: list[Parcel]) -> None:
        """Refs that are never got, beside some that are."""
        await self._in_threads([self._drop, self._get_all], subject, parcels)

    async def _in_threads(self, ways: list[Any], subject: Subject, parcels: list[Parcel]) -> None:
        compiled = subject.compiled
        jobs = []
        for number in range(3):
            rng = Random(self.rng.random())  # a generator is not to be shared between threads
            way = ways[number % len(ways)]
            jobs.append(asyncio.wrap_future(in_thread(way, compiled, subject, parcels[number::3], rng)))
        for job in jobs:
            result = await self._result(job, "a thread")
            if isinstance(result, BaseException):
                self.tally.complain(f"a thread ended with {result!r:.2000}")

    def _submit(self, view: Any, call: Call) -> list[Any]:
        """The refs of an execution; none where it was refused, which is counted."""
        call.blocking = True
        try:
            refs = view.execute(call.parcel)
        except Exception as error:
            self.tally.count(call, error)
            return []
        call.admitted = not call.subject.draining
        return refs if call.subject.shape.multi else [refs]

    def _get_all(self, compiled: Any, subject: Subject, parcels: list[Parcel], rng: Random) -> None:
        calls = [Call(subject, parcel) for parcel in parcels]
        got = [(call, output, ref) for call in calls for output, ref in enumerate(self._submit(compiled, call))]
        rng.shuffle(got)
        for call, output, ref in got:
            self.tally.count(call, self._get(ref, rng), output)

    def _get(self, ref: Any, rng: Random) -> Any:
        until = time.monotonic() + self.tally.patience
        while True:
            try:
                return (
                    ray.get(ref) if rng.random() < 0.2 else ref.get(timeout=rng.choice((None, 0.0, 0.001, 0.05)))
                )
            except ExecutionTimeout as error:
                if time.monotonic() > until:
                    return error  # nobody set a deadline: it is counted as wrong
            except Exception as error:
                return error

    def _get_in_time(self, compiled: Any, subject: Subject, parcels: list[Parcel], rng: Random) -> None:
        view = compiled.options(timeout=rng.choice((0.0, 0.001, 0.02, 0.2)))
        for parcel in parcels:
            call = Call(subject, parcel, deadline=True)
            for output, ref in enumerate(self._submit(view, call)):
                try:
                    result = ref.get()
                except Exception as error:
                    result = error
                self.tally.count(call, result, output)

    def _drop(self, compiled: Any, subject: Subject, parcels: list[Parcel], rng: Random) -> None:
        for parcel in parcels:
            if self._submit(compiled, Call(subject, parcel)):
                self.tally.note("results that nobody looked at")

    # -- common

    async def _admit(self, subject: Subject, parcels: list[Parcel]) -> list[tuple[Call, Any, list[float | None]]]:
        """The futures of each parcel that was admitted, and when each was settled; the others are counted."""
        compiled = subject.compiled
        admitted = []
        for parcel in parcels:
            call = Call(subject, parcel)
            futures = await self._result(compiled.execute_async(parcel), call)
            if isinstance(futures, BaseException):
                self.tally.count(call, futures)
                continue
            call.admitted = not subject.draining
            futures = futures if subject.shape.multi else [futures]
            times: list[float | None] = [None] * len(futures)
            for output, future in enumerate(futures):
                future.add_done_callback(_note_time(times, output))
            admitted.append((call, futures, times))
        return admitted

    async def _count(self, admitted: list[tuple[Call, Any, list[float | None]]]) -> None:
        for call, futures, times in admitted:
            for output, future in enumerate(futures):
                self.tally.count(call, await self._result(future, call), output, times[output])

    async def _result(self, awaitable: Awaitable[Any], what: Call | str) -> Any:
        if isinstance(what, Call):
            what = f"parcel {what.parcel.number} ({what.parcel.orders}) in {what.subject.shape.name!r}"
        return await self.tally.result_of(awaitable, what)

    async def _moment(self) -> None:
        """Let others run: for a turn of the loop or two, or for some milliseconds."""
        await asyncio.sleep(self.rng.choice((0, 0, 0, 0.001, 0.01)))


def _note_time(times: list[float | None], output: int) -> Callable[[object], None]:
    def note(_: object) -> None:
        times[output] = time.monotonic()

    return note


def _call_of(result: Any, calls: dict[int, Call]) -> Call:
    """The call that ``result`` of an unordered map belongs to; for a failure, one that was to fail."""
    value = result[0] if isinstance(result, list) else result
    if isinstance(value, Parcel) and value.number in calls:
        return calls[value.number]
    for call in calls.values():
        if any(not isinstance(right, Parcel) and right.fits(result) for right in call.expected):
            return call
    return next(iter(calls.values()))
