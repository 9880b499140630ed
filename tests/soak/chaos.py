"""Chaos: graphs live and end at random, are called every way there is, and lose their actors meanwhile.

Whatever comes of a call must be right, or fail for a reason that it had. A graph that has lost an actor is
compiled anew, on the same seats: the survivors and whoever took the dead one's place. So is one of which a frame
was spoiled. Strangers knock wherever a graph is compiled.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from tests.belongings import take_stock
from tests.soak.actors import give_back_memory, keep_no_free_memory
from tests.soak.callers import Callers
from tests.soak.closing import ENDS, compile_subject, end
from tests.soak.intruders import Strangers, spoil_a_frame
from tests.soak.outcomes import Outcome, Subject, Tally, judge_compile
from tests.soak.parcels import Post
from tests.soak.sampling import Sample, take_samples
from tests.soak.shapes import Shape, any_shape
from tests.soak.world import Seat, World

LIVES = 3  # graphs at a time
SAMPLE_EVERY = 2.0  # seconds
KNOCK_EVERY = 0.02
LOOKS = 20  # for what loops that were abandoned leave behind while they end


class Chaos:
    """One run.

    Args:
        seed: of every choice. Choices come out the same again, moments do not.
        tally: where outcomes are counted.
        pause: seconds between two kills, at most.
        tell: told how far it is.
    """

    def __init__(self, seed: int, tally: Tally, pause: float, tell: Callable[[str], None]) -> None:
        self.tally = tally
        self.samples: list[Sample] = []
        self._seed = seed
        self._pause = pause
        self._tell = tell
        self._world = World(Random(f"{seed} world"), tally)
        self._strangers = Strangers(Random(f"{seed} strangers"), tally)
        self._over = False
        self._before = take_stock().of_graphs()  # in a test process, what other tests still hold

    async def run(self, seconds: float) -> None:
        """Lives and kills until ``seconds`` have passed, then a look at what is left."""
        keep_no_free_memory()
        began = time.monotonic()
        with self._complaints(), self._strangers.log():
            for seat in self._world.seats:
                await self._world.pid_of(seat)  # it has started
            lives = [asyncio.ensure_future(self._lives(number)) for number in range(LIVES)]
            beside = (self._killer(), self._spoiler(), self._knocker(), self._sampler(began))
            others = [asyncio.ensure_future(one) for one in beside]
            try:
                await asyncio.wait([*lives, *others], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                self._over = True
            await asyncio.wait([*lives, *others])
            for task in (*lives, *others):
                await task
            await self._strangers.gone()
            await self._look_for_leftovers()
            self._sample(began)

    # -- lives

    async def _lives(self, number: int) -> None:
        rng = Random(f"{self._seed} life {number}")
        callers = Callers(self.tally, Post(rng))
        while not self._over:
            shape = any_shape(rng)
            seats = rng.choices(self._world.seats, k=shape.seats)
            hurt = await self._life(callers, shape, seats, again=False)
            while hurt and not self._over:
                hurt = await self._life(callers, shape, seats, again=True)
            callers.let_go(0 if rng.random() < 0.3 else 40)
        callers.let_go()

    async def _life(self, callers: Callers, shape: Shape, seats: list[Seat], *, again: bool) -> bool:
        """One graph from its compilation to its end; whether it was hurt."""
        rng = callers.rng
        subject = self._world.open(shape, seats)
        try:
            error = await compile_subject(subject, rng, self.tally)
            if error is not None:
                self.tally.note("graphs that lost an actor while they were compiled")
                why = judge_compile(subject, error)
                if why:
                    self.tally.complain(why)
                return subject.is_hurt()
            self.tally.note("graphs compiled")
            if again:
                await self._prove(callers, subject)
            acts = [self._calls(callers, subject, rng.randint(1, 6)) for _ in range(rng.randint(1, 4))]
            calls = asyncio.gather(*acts)
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0, 1))  # it ends with executions in flight
            else:
                await asyncio.wait([calls])
            await end(subject, rng.choice(ENDS), self.tally)
            await calls
            return subject.is_hurt()
        finally:
            self._world.forget(subject)

    async def _calls(self, callers: Callers, subject: Subject, count: int) -> None:
        rng = callers.rng
        for _ in range(count):
            if not subject.is_at_work() and rng.random() < 0.8:
                return  # now and then somebody goes on calling
            if subject.compiled is None:
                return
            failing = rng.choice((0.0, 0.15, 0.15, 0.5))
            names = subject.shape.stage_names
            parcels = [callers.post.any(names, failing) for _ in range(rng.randint(1, 12))]
            await rng.choice(callers.ways)(subject, parcels)

    async def _prove(self, callers: Callers, subject: Subject) -> None:
        """The survivors, and those who took the dead ones' places, are as good as new."""
        right = self.tally.outcomes[Outcome.RIGHT]
        await callers.awaited(subject, [callers.post.parcel(1000)])
        if not subject.is_hurt():
            self.tally.note("graphs compiled again after they were hurt, and right")
            if self.tally.outcomes[Outcome.RIGHT] == right:
                self.tally.complain(f"{subject.shape.name!r} was compiled again, and gave no result")

    # -- beside them

    async def _killer(self) -> None:
        rng = Random(f"{self._seed} killer")
        while not self._over:
            await asyncio.sleep(rng.uniform(0, self._pause))
            if rng.random() < 0.15:
                await self._world.stall()
            else:
                await self._world.kill()

    async def _spoiler(self) -> None:
        rng = Random(f"{self._seed} spoiler")
        while not self._over:
            await asyncio.sleep(rng.uniform(0, self._pause))
            subjects = self._world.at_work()
            rng.shuffle(subjects)
            any(spoil_a_frame(subject, rng, self.tally) for subject in subjects)

    async def _knocker(self) -> None:
        while not self._over:
            self._strangers.knock()
            await asyncio.sleep(KNOCK_EVERY)

    def _sample(self, began: float) -> None:
        self.samples += take_samples({"driver": os.getpid()}, began, self.tally.executions)

    async def _sampler(self, began: float) -> None:
        while not self._over:
            self._sample(began)
            kills, executions = self.tally.events["kills"], self.tally.executions
            self._tell(f"{time.monotonic() - began:.0f} s, {executions} executions, {kills} kills")
            await asyncio.sleep(SAMPLE_EVERY)

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        """What nobody catches is wrong too: in callbacks of the loop, in threads, in finalizers."""

        def complain(what: Any) -> None:
            self.tally.complain(f"caught by nobody: {what!r:.2000}")

        loop = asyncio.get_running_loop()
        hooks = threading.excepthook, sys.unraisablehook
        loop.set_exception_handler(lambda _, context: complain(context))
        threading.excepthook = sys.unraisablehook = complain
        try:
            yield
        finally:
            threading.excepthook, sys.unraisablehook = hooks
            loop.set_exception_handler(None)

    async def _look_for_leftovers(self) -> None:
        """No graph is left: nothing of one is left in the driver and the actors."""
        left: dict[str, Any] = {}
        for _ in range(LOOKS):
            give_back_memory()
            left = {"driver": dict(take_stock().of_graphs() - self._before)}
            for seat in self._world.seats:
                await self.tally.result_of(seat.actor.rest.remote(), f"the rest of seat {seat.name}")
                what = f"what is left in seat {seat.name}"
                left[seat.name] = await self.tally.result_of(seat.actor.of_graphs.remote(), what)
            left = {name: found for name, found in left.items() if found}
            if not left:
                return
            await asyncio.sleep(0.1)
        self.tally.complain(f"left behind when every graph was gone: {left}")
