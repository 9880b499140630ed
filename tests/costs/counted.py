"""What executions cost, counted: ``python -m tests.costs.counted``. Prints it as JSON, case by case.

``python -m tests.costs.counted CASE COUNT`` runs that many executions between two marks, which a trace of system
calls shows, and does nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

import async_adag
from tests.costs.stepped import Chain, open_chain

WARM = 304  # executions; as all of these, a multiple of the burst
COUNTED = 104
MANY = 1_000
MARK = -7007  # closed where the trace is to be counted from, and up to
ROOT = Path(__file__).parents[2]
PACKAGE = os.path.dirname(async_adag.__file__) + os.sep
GAUGE = os.path.join(PACKAGE, "channels", "gauge.py")  # by which the count itself looks


@dataclass(frozen=True)
class Case:
    """How a chain is called.

    Attributes:
        value: what goes through it.
        new_loop: makes the event loop that awaits; None for a thread that blocks.
        actors: how many the chain has.
        burst: executions that are all admitted before the first is computed, and all computed before the first
            result is taken in; each burst begins from rest.
    """

    value: Any = 7
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = asyncio.new_event_loop
    actors: int = 1
    burst: int = 1


CASES = {
    "awaited": Case(),
    "awaited, uvloop": Case(new_loop=uvloop.new_event_loop),
    "blocking": Case(new_loop=None),
    "burst of 8": Case(burst=8),
    "chain of 3": Case(actors=3),
    "dictionary": Case({"token": 7, "text": "seven"}),
    "block": Case(bytes(100_000)),
}


@dataclass(frozen=True)
class Cost:
    """Of one execution, on average.

    Attributes:
        frames: written to channels.
        rings: doorbell writes.
        silences: doorbell reads.
        driver_parks: how often a thread of the driver went to sleep; an event loop's sleeps are its own.
        actor_parks: how often an actor's loop did, of all actors.
        driver_calls: of Python functions and C functions in the driver, by the package's code.
        actor_calls: the same in an actor's loop.
        blocks_left: blocks of memory by which a thousand executions have left more than there were.
        cycles_left: objects in a thousand executions that only the cyclic garbage collector would find.
    """

    frames: float
    rings: float
    silences: float
    driver_parks: float
    actor_parks: float
    driver_calls: float
    actor_calls: float
    blocks_left: int
    cycles_left: int


class Calls:
    """Counts calls by the package's code; made the profile function of a thread."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_call"):
            path = frame.f_code.co_filename
            self.count += path.startswith(PACKAGE) and path != GAUGE


class Eventfds:
    """Counts what is written to and read from eventfds."""

    def __init__(self) -> None:
        self.written = 0
        self.read = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        write, read = os.eventfd_write, os.eventfd_read

        def counted_write(fd: int, value: int) -> None:
            self.written += 1
            write(fd, value)

        def counted_read(fd: int) -> int:
            self.read += 1
            return read(fd)

        os.eventfd_write, os.eventfd_read = counted_write, counted_read
        try:
            yield
        finally:
            os.eventfd_write, os.eventfd_read = write, read


class Caller:
    """Runs the executions of a case, each burst of them from rest."""

    def __init__(self, chain: Chain, case: Case) -> None:
        self._chain = chain
        self._case = case
        self._runner = None if case.new_loop is None else asyncio.Runner(loop_factory=case.new_loop)
        if case.burst == 1:
            chain.hold_results_until_driver_sleeps()
        else:
            chain.hold_results_until_admitted(case.burst)

    def run(self, count: int, begin: Callable[[], None] = list, end: Callable[[], None] = list) -> None:
        """``begin`` and ``end`` are called where everything rests, ahead of the first and behind the last."""
        assert count % self._case.burst == 0
        if self._runner is not None:
            self._runner.run(self._run_awaited(count, begin, end))
            return
        chain, compiled, value = self._chain, self._chain.compiled, self._case.value
        begin()
        for _ in range(count):
            compiled.execute(value).get()
            chain.rest()
        end()

    async def _run_awaited(self, count: int, begin: Callable[[], None], end: Callable[[], None]) -> None:
        chain, compiled, value, burst = self._chain, self._chain.compiled, self._case.value, self._case.burst
        begin()
        for _ in range(count // burst):
            if burst == 1:
                await compiled(value)
            else:
                futures = [await compiled.execute_async(value) for _ in range(burst)]
                chain.wait_for_results()
                for future in futures:
                    await future
            chain.rest()
        end()

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


def count(chain: Chain, caller: Caller, burst: int) -> Cost:
    """What an execution costs."""
    caller.run(WARM)

    frames, (driver_parks, actor_parks) = chain.frames(), chain.parks()
    eventfds = Eventfds()
    with eventfds.counted():
        caller.run(COUNTED)
    frames, parks = chain.frames() - frames, chain.parks()

    driver, actors = Calls(), [Calls() for _ in chain.actors]
    for actor, calls in zip(chain.actors, actors, strict=True):
        actor.profile = calls
    caller.run(burst)  # they are profiled from within this one on
    before = [calls.count for calls in actors]
    caller.run(COUNTED, lambda: sys.setprofile(driver), lambda: sys.setprofile(None))
    in_actors = sum(calls.count - begun for calls, begun in zip(actors, before, strict=True))
    for actor in chain.actors:
        actor.profile = None
    caller.run(WARM)

    blocks, cycles = _left_by(lambda: caller.run(MANY))
    return Cost(
        frames=frames / COUNTED,
        rings=eventfds.written / COUNTED,
        silences=eventfds.read / COUNTED,
        driver_parks=(parks[0] - driver_parks) / COUNTED,
        actor_parks=(parks[1] - actor_parks) / COUNTED,
        driver_calls=driver.count / COUNTED,
        actor_calls=in_actors / COUNTED / len(actors),
        blocks_left=blocks,
        cycles_left=cycles,
    )


def _left_by(work: Callable[[], None]) -> tuple[int, int]:
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        work()
        cycles = gc.collect()  # which also empties the free lists of tuples and the like
        return sys.getallocatedblocks() - before, cycles
    finally:
        gc.enable()


def _mark() -> None:
    try:
        os.close(MARK)
    except OSError:
        pass


def main(*arguments: str) -> None:
    if arguments:
        name, executions = arguments
        case = CASES[name]
        with open_chain(case.actors) as chain, closing(Caller(chain, case)) as caller:
            caller.run(WARM)
            caller.run(int(executions), _mark, _mark)
        return
    costs = {}
    for name, case in CASES.items():
        with open_chain(case.actors) as chain, closing(Caller(chain, case)) as caller:
            costs[name] = dataclasses.asdict(count(chain, caller, case.burst))
    print(json.dumps(costs))


if __name__ == "__main__":
    main(*sys.argv[1:])
