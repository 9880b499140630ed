"""The soak: rounds of the same work in another order each time, a sample of every process after each round.

The same work, so that what is at its highest in one round is as high in all: then whatever grows is a leak.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

from tests.nodes import on
from tests.soak.actors import AsyncHand, Hand, give_back_memory, keep_no_free_memory
from tests.soak.callers import Callers, Way
from tests.soak.closing import ENDS, compile_subject, end
from tests.soak.outcomes import Subject, Tally
from tests.soak.parcels import FAILURES, SIZES, Post
from tests.soak.sampling import Sample, take_samples
from tests.soak.shapes import SHAPES, Shape

LARGEST = SIZES[-1]
MANY = 24  # parcels for each way of calling
KEPT = 4  # results that are held from one round to the next
COOLING = 600  # executions of small values: a channel gives the pages of idle blocks back as it is used


class Soak:
    """One run.

    Args:
        rng: decides orders and forms.
        tally: where outcomes are counted.
        largest: bytes of the largest payload.
        hosts: Ray nodes over which actors are spread, as `tests.nodes` makes them.
        tell: told about each round.
    """

    def __init__(self, rng: Random, tally: Tally, largest: int, hosts: int, tell: Callable[[str], None]) -> None:
        self.tally = tally
        self.samples: list[Sample] = []
        self._rng = rng
        self._sizes = [size for size in SIZES if size <= largest]
        self._hosts = hosts
        self._tell = tell
        self._post = Post(rng)
        self._callers = Callers(tally, self._post)
        self._actors: dict[str, Any] = {}
        self._pids: dict[str, int] = {}
        self._standing: list[Subject] = []

    async def run(self, seconds: float) -> None:
        """Rounds until ``seconds`` have passed; one at least."""
        await self._begin()
        began = time.monotonic()
        rounds = 0
        while rounds == 0 or time.monotonic() - began < seconds:
            await self._round()
            await self._rest()
            self.samples += take_samples(self._pids, began, self.tally.executions)
            rounds += 1
            self._tell(f"round {rounds}, {self.tally.executions} executions, {time.monotonic() - began:.0f} s")
        self.tally.note("rounds", rounds)
        for subject in self._standing:
            await end(subject, "aclose", self.tally)
        self._callers.let_go()

    async def _begin(self) -> None:
        keep_no_free_memory()
        kinds: dict[str, Any] = {"actor a": Hand, "actor b (async)": AsyncHand, "actor c": Hand}
        if self._hosts == 1:
            self._actors = {name: kind.remote() for name, kind in kinds.items()}
        else:  # one more, so that there are two on either of two: a host's steward, and one that it looks after
            kinds["actor d"] = Hand
            for number, (name, kind) in enumerate(kinds.items()):
                place = number % self._hosts
                self._actors[f"{name}, host {place}"] = kind.options(**on(place)).remote()
        self._pids = {"driver": os.getpid()}
        for name, actor in self._actors.items():
            self._pids[name] = await self.tally.result_of(actor.pid.remote(), f"the start of {name}")
        # Graphs that stand for the whole run, several on each actor.
        for shape in SHAPES:
            subject = Subject(shape, self._seats(shape.seats))
            error = await compile_subject(subject, self._rng, self.tally, max_inflight=8, submit_timeout=None)
            if error is not None:
                raise error
            self._standing.append(subject)

    def _seats(self, count: int) -> list[Any]:
        actors = list(self._actors.values())
        return [actors[(place + len(self._standing)) % len(actors)] for place in range(count)]

    async def _round(self) -> None:
        """The same acts, two at a time, in an order of its own."""
        standing = self._standing
        acts: list[Callable[[], Awaitable[None]]] = [
            *(partial(self._use, way, standing[n % len(standing)]) for n, way in enumerate(self._callers.ways)),
            *(partial(self._grow_and_shrink, subject) for subject in standing[1::3]),
            *(partial(self._short_life, SHAPES[n % len(SHAPES)], way) for n, way in enumerate(ENDS)),
        ]
        self._rng.shuffle(acts)
        await asyncio.gather(self._lane(acts[::2]), self._lane(acts[1::2]))

    async def _lane(self, acts: list[Callable[[], Awaitable[None]]]) -> None:
        for act in acts:
            await act()

    async def _use(self, way: Way, subject: Subject) -> None:
        await way(subject, self._parcels(subject))

    def _parcels(self, subject: Subject) -> list[Any]:
        """Every size up to 3 MB, every order, and plain ones."""
        names = subject.shape.stage_names
        orders = [*FAILURES, "be slow", "keep", "keep", "fork"]
        sizes = [size for size in self._sizes if size <= 3_000_000]
        parcels = [self._post.parcel(size) for size in sizes]
        parcels += [
            self._post.parcel(self._rng.choice(sizes), orders={self._rng.choice(names): order}, delay=0.01)
            for order in orders
        ]
        parcels += [self._post.parcel(10) for _ in range(MANY - len(parcels))]
        self._rng.shuffle(parcels)
        return parcels

    async def _grow_and_shrink(self, subject: Subject) -> None:
        sizes = [*self._sizes, *reversed(self._sizes)]
        await self._callers.held(subject, [self._post.parcel(size) for size in sizes])

    async def _short_life(self, shape: Shape, way: str) -> None:
        """A graph that is compiled, used, and ended with executions in flight."""
        subject = Subject(shape, self._seats(shape.seats))
        error = await compile_subject(subject, self._rng, self.tally)
        if error is not None:
            self.tally.complain(f"compiling {shape.name!r}: {error!r}")
            return
        ways = (self._callers.gathered, self._callers.threads, self._callers.cancelled_waits)
        calls = asyncio.gather(*(caller(subject, self._parcels(subject)) for caller in ways))
        await asyncio.sleep(0.02)
        await end(subject, way, self.tally)
        await calls

    async def _rest(self) -> None:
        """Let go of what users hold, have memory given back, and let loops that were abandoned end."""
        self._callers.let_go(KEPT)
        for subject in self._standing:
            for _ in range(COOLING // 50):
                await self._callers.gathered(subject, [self._post.parcel(10) for _ in range(50)])
        for name, actor in self._actors.items():
            await self.tally.result_of(actor.rest.remote(), f"the rest of {name}")
        give_back_memory()
