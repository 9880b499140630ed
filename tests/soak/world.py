"""The actors of chaos: who sits where, and how one is killed and another takes its place."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from random import Random
from typing import Any

import ray

from tests.soak.actors import AsyncHand, Hand
from tests.soak.outcomes import Call, Subject, Tally
from tests.soak.parcels import Post
from tests.soak.shapes import Shape

WAYS = ("SIGKILL", "ray.kill", "os._exit in a call", "os._exit in a node", "SystemExit in a node")
ORDERS = {"os._exit in a node": "leave", "SystemExit in a node": "raise SystemExit"}
STALL = 0.2  # seconds for which a process is stopped now and then


@dataclass(eq=False)
class Seat:
    """A place for an actor of one kind.

    Attributes:
        name: of the seat.
        kind: the actor's class.
        restarts: whether Ray itself restarts the actor, whose handle stays.
        actor: who sits there now.
    """

    name: str
    kind: Any
    restarts: bool = False
    actor: Any = None

    def fill(self) -> None:
        """Put a new actor there."""
        self.actor = self.kind.options(max_restarts=-1 if self.restarts else 0).remote()


class World:
    """The seats and the graphs on them.

    Args:
        rng: decides who is killed, and how.
        tally: where events are counted.
    """

    def __init__(self, rng: Random, tally: Tally) -> None:
        self.seats = [
            Seat("a", Hand),
            Seat("b", Hand),
            Seat("c (restarted by Ray)", Hand, restarts=True),
            Seat("d (async)", AsyncHand),
            Seat("e (async)", AsyncHand),
        ]
        self._subjects: dict[Subject, None] = {}
        self._rng = rng
        self._tally = tally
        self._post = Post(rng)
        for seat in self.seats:
            seat.fill()

    def open(self, shape: Shape, seats: list[Seat]) -> Subject:
        """A graph to be compiled on whoever sits there now; whom it loses is noted from here on."""
        subject = Subject(shape, [seat.actor for seat in seats])
        self._subjects[subject] = None
        return subject

    def forget(self, subject: Subject) -> None:
        """It was ended."""
        self._subjects.pop(subject, None)

    async def pid_of(self, seat: Seat) -> int | None:
        """The process of the actor that sits there; None if it has none now."""
        pid = await self._tally.result_of(seat.actor.pid.remote(), f"the pid of seat {seat.name}")
        return pid if isinstance(pid, int) else None

    async def kill(self) -> None:
        """Kill somebody, some way; the seat is taken by another at once."""
        seat = self._rng.choice(self.seats)
        way = "SIGKILL" if seat.restarts else self._rng.choice(WAYS)
        pid = await self.pid_of(seat)
        if pid is None:
            return
        victim = seat.actor
        if not seat.restarts:
            seat.fill()
        hit = [subject for subject in self._subjects if victim in subject.actors]
        self._tally.note(f"killed by {way}")
        self._tally.note("kills")
        self._tally.note("graphs that lost an actor", sum(not subject.deaths for subject in hit))
        for subject in hit:
            if not subject.deaths and way == "SIGKILL":
                subject.killed_at = time.monotonic()  # of the other ways it is not known when they kill
            subject.deaths.append(time.monotonic())
        match way:
            case "SIGKILL":
                os.kill(pid, signal.SIGKILL)
            case "ray.kill":
                ray.kill(victim)
            case "os._exit in a call":
                await self._tally.result_of(victim.leave.remote(), "the call that ends its actor")
            case _:
                await self._poison(victim, hit, ORDERS[way])
        if not seat.restarts:
            ray.kill(victim)  # in case that it lived: a poisoned parcel does not always arrive

    async def _poison(self, victim: Any, hit: list[Subject], order: str) -> None:
        """Send an execution at whose stage the victim ends itself."""
        for subject in hit:
            names = [stage.name for stage in subject.shape.stages if subject.actors[stage.seat] is victim]
            if subject.compiled is None or not names:
                continue
            parcel = self._post.parcel(100, orders={self._rng.choice(names): order})
            call = Call(subject, parcel)
            self._tally.count(call, await self._tally.result_of(subject.compiled(parcel), f"{order} in a node"))
            return

    async def stall(self) -> None:
        """Stop a process for a moment: nobody is to take it for dead."""
        pid = await self.pid_of(self._rng.choice(self.seats))
        if pid is None:
            return
        self._tally.note("processes stopped for a moment")
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(STALL)
        os.kill(pid, signal.SIGCONT)

    def at_work(self) -> list[Subject]:
        """The graphs that are called now, the oldest first."""
        return [subject for subject in self._subjects if subject.is_at_work()]
