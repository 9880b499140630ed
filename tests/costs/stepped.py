"""A chain of actors whose loops run in this process; its executions come one after the other, each from rest.

All of it is real: the driver's engine, rings, doorbells, and the actors' loops, on threads of their own. What is
not left to the scheduler is who sleeps when. An execution begins when every actor has armed its doorbell, which
shared memory tells; and where it is alone, the last method returns when the driver has armed too. So each
execution takes the same steps, which can be counted. All threads run on one CPU: an actor on another one may be
called up before its frame is there, and whether it then finds the frame depends on the moment.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from async_adag.actor import loop as actor_loop
from async_adag.actor.loop import ThreadLoop
from async_adag.actor.moved import Movers
from async_adag.actor.turn import Turn
from async_adag.graph.model import FromInput, FromNode
from tests.graphs import build_graph
from tests.stage import Stage


class Echo:
    """An actor; its method does nothing but what the count needs.

    Attributes:
        profile: what its loop's thread is to be profiled by, from the next call on.
        hold: called before the method returns.
    """

    def __init__(self) -> None:
        self.profile: Any = None
        self.hold: Callable[[], None] = _go_on

    def method(self, value: Any) -> Any:
        if sys.getprofile() is not self.profile:
            sys.setprofile(self.profile)
        self.hold()
        return value

    method0 = method1 = method2 = method


class Chain:
    """The chain.

    Attributes:
        compiled: what users hold.
        actors: their instances.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.compiled = stage.compiled
        plan, deployment = stage.engine.plan, stage.engine.deployment
        results = {channel.number for channel in plan.results()}
        self._to_actors = [gauge for number, gauge in deployment.gauges.items() if number not in results]
        (self._result,) = (gauge for number, gauge in deployment.gauges.items() if number in results)
        self.actors = [Echo() for _ in stage.parts]
        self._loops = [
            ThreadLoop(echo, actor, part.ends, Movers(), part.control, [], None, Turn(), _go_on, _complain)
            for echo, actor, part in zip(self.actors, plan.actors, stage.parts, strict=True)
        ]
        for loop in self._loops:
            loop.start()

    def hold_results_until_driver_sleeps(self) -> None:
        """From now on a result is sent when a thread of the driver has armed, to sleep."""

        def wait() -> None:
            while not self._result.read().sleepers:
                time.sleep(0)  # lets the others run

        self.actors[-1].hold = wait

    def hold_results_until_admitted(self, burst: int) -> None:
        """From now on nothing is computed until so many executions have been admitted."""
        first = self._to_actors[0]

        def wait() -> None:
            while first.read().written % burst:
                time.sleep(0)

        self.actors[0].hold = wait

    def wait_for_results(self) -> None:
        """Return when every result has been sent."""
        while self._result.read().written != self._to_actors[0].read().written:
            time.sleep(0)

    def rest(self) -> None:
        """Return when every actor sleeps."""
        for gauge in self._to_actors:
            while not gauge.read().sleepers:
                time.sleep(0)

    def frames(self) -> int:
        """How many have been written to all channels."""
        return sum(gauge.read().written for gauge in (*self._to_actors, self._result))

    def parks(self) -> tuple[int, int]:
        """How often the driver's threads have slept, and how often the actors' have."""
        engine = self._stage.engine
        return engine.blocking.waits()[0], sum(control.waits()[0] for control in engine.deployment.controls)

    def close(self) -> None:
        """End the loops, which close their ends."""
        self.compiled.teardown()
        for loop in self._loops:
            loop._runner.join()


@contextmanager
def open_chain(actors: int) -> Iterator[Chain]:
    """A chain of so many actors, at work until the end of the block."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    # A method counts as brief however long it waits here: what a loop does besides depends on that.
    actor_loop.BRIEF_NS = actor_loop.LONG_NS = 10**15
    nodes = [(number, [FromNode(number - 1) if number else FromInput(None)]) for number in range(actors)]
    stage = Stage(build_graph(*nodes), max_inflight=8)
    try:
        chain = Chain(stage)
        try:
            chain.rest()
            yield chain
        finally:
            chain.close()
    finally:
        stage.close()


def _go_on() -> None:
    """Nothing is waited for."""


def _complain(broken: str) -> None:
    if broken:
        print(f"a loop has broken: {broken}", file=sys.stderr)
