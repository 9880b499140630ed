"""What has happened before what, on the simulated device: vector clocks, and the faults that they show.

Every host (a simulated process) and every stream counts its own steps. A clock says of each of them how many of
its steps have certainly happened before, in whatever order the streams are run and however long anything takes. So
one run finds a race even when, in that run, the accesses happened to come in the right order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Misuse(Exception):
    """The code that runs on the simulation broke a rule of the device; on a real one anything may follow."""


class Race(Misuse):
    """Two accesses to the same memory, of which neither has to happen before the other; names both."""


class Deadlock(Misuse):
    """Nothing can go on and work is left; says which streams wait, and for what."""


class Epoch(NamedTuple):
    """A step.

    Attributes:
        actor: the number of the host or stream that made it.
        tick: which of its steps it was, from 1.
    """

    actor: int
    tick: int


class Clock:
    """For each actor, how many of its steps have happened before."""

    __slots__ = ("_ticks",)

    def __init__(self, ticks: dict[int, int] | None = None) -> None:
        self._ticks = {} if ticks is None else ticks

    def tick(self, actor: int) -> Epoch:
        """The next step of the actor whose clock this is."""
        self._ticks[actor] = self._ticks.get(actor, 0) + 1
        return Epoch(actor, self._ticks[actor])

    def join(self, other: Clock) -> None:
        """From now on, all that had happened before ``other`` has happened before."""
        for actor, tick in other._ticks.items():
            if tick > self._ticks.get(actor, 0):
                self._ticks[actor] = tick

    def knows(self, epoch: Epoch) -> bool:
        """Whether that step has happened before."""
        return self._ticks.get(epoch.actor, 0) >= epoch.tick

    def copy(self) -> Clock:
        return Clock(dict(self._ticks))

    @staticmethod
    def meet(clocks: Iterable[Clock]) -> Clock:
        """What has happened before all of ``clocks``, of which there is at least one."""
        first, *others = clocks
        return Clock(
            {
                actor: min(tick, *(other._ticks.get(actor, 0) for other in others)) if others else tick
                for actor, tick in first._ticks.items()
            }
        )


@dataclass(frozen=True, slots=True)
class Access:
    """That memory was read, written, made or freed.

    Attributes:
        what: such as "copy #3".
        where: the stream or host, and its process.
        at: virtual time, in seconds.
        epoch: the step in which it was done.
    """

    what: str
    where: str
    at: float
    epoch: Epoch

    def __str__(self) -> str:
        return f"{self.what} ({self.where}, at {self.at:g} s)"
