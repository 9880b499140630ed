"""Turns: one method of an actor at a time, whichever graph calls it, and none of its graphs for long.

The lock alone would not do: a thread that runs holds the interpreter lock too, so that the loop of another graph,
which has work and only needs the interpreter to see it, may be kept out for hundreds of executions. So a loop that
has run for a while gives way, if another wants a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock

QUANTUM_NS = 1_000_000  # how long a loop may run before it gives way
PATIENCE = 0.005  # seconds that it then waits for another to take a turn, at most


def always() -> bool:
    """A loop is about to take the lock."""
    return True


def never() -> bool:
    """A loop does something for which it needs no lock, until it says otherwise."""
    return False


class Turn:
    """What the loops of one actor share.

    Attributes:
        lock: held while a method runs.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self._places: list[Place] = []
        self._polite: list[Place] = []  # who gave way, and waits
        self._taken = Event()

    def join(self, has_work: Callable[[], bool]) -> Place:
        """A place for one more loop; ``has_work`` tells whether it has an execution to begin."""
        place = Place(self, has_work)
        self._places.append(place)
        return place

    def leave(self, place: Place) -> None:
        """The loop has ended."""
        self._places.remove(place)

    def is_crowded(self) -> bool:
        """Whether there are several loops."""
        return len(self._places) > 1

    def is_wanted_beside(self, place: Place) -> bool:
        """Whether another loop would take the lock now."""
        return any(other.wants() for other in self._places if other is not place)

    def has_begun(self) -> None:
        """A loop has taken the lock: whoever gave way goes on, and wants it again."""
        if self._polite:
            for place in self._polite:
                place.wants = place.has_work
            self._polite.clear()
            self._taken.set()

    def give_way(self, place: Place) -> None:
        """Wait until another loop has taken the lock."""
        place.wants = never  # of two, only one gives way
        self._taken.clear()
        self._polite.append(place)
        self._taken.wait(PATIENCE)
        place.wants = place.has_work


class Place:
    """One loop's place among them.

    Attributes:
        has_work: whether it has an execution to begin.
        wants: whether it would take the lock now, as far as can be seen from outside.
    """

    __slots__ = ("_since", "_turn", "has_work", "wants")

    def __init__(self, turn: Turn, has_work: Callable[[], bool]) -> None:
        self.has_work = has_work
        self.wants = has_work
        self._turn = turn
        self._since = 0

    def begins(self, now: int) -> None:
        """The loop has waited, and goes on; ``now`` is the time, in nanoseconds."""
        self._since = now

    def has_run(self, now: int) -> None:
        """The loop has done a node; ``now`` is the time, in nanoseconds."""
        if now - self._since >= QUANTUM_NS:
            if self._turn.is_wanted_beside(self):
                self._turn.give_way(self)
            self._since = now
