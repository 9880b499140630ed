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


def never() -> bool:
    """What a loop waits for that nobody can see the end of."""
    return False


class Turn:
    """What the loops of one actor share.

    Attributes:
        lock: held while a method runs.
        crowded: whether there are several loops.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.crowded = False
        self._places: list[Place] = []
        self._guard = Lock()
        self._taken = Event()

    def join(self) -> Place:
        """A place for one more loop."""
        with self._guard:
            place = Place(self)
            self._places.append(place)
            self.crowded = len(self._places) > 1
            return place

    def leave(self, place: Place) -> None:
        """The loop has ended."""
        with self._guard:
            self._places.remove(place)
            self.crowded = len(self._places) > 1

    def wanted_beside(self, place: Place) -> bool:
        """Whether another loop would take a turn now."""
        return any(other.wants() for other in self._places if other is not place)

    def has_begun(self) -> None:
        """A loop has taken the lock: who gave way goes on."""
        self._taken.set()

    def give_way(self) -> None:
        """Wait until another loop has taken the lock."""
        self._taken.clear()
        self._taken.wait(PATIENCE)


class Place:
    """One loop's place among them.

    Attributes:
        waiting_for: while the loop waits, what tells that it need not any more; None while it runs.
    """

    __slots__ = ("_since", "_turn", "waiting_for")

    def __init__(self, turn: Turn) -> None:
        self.waiting_for: Callable[[], bool] | None = None
        self._turn = turn
        self._since = 0

    def wants(self) -> bool:
        """Whether the loop has something to do."""
        waiting_for = self.waiting_for
        return waiting_for is None or waiting_for()

    def has_run(self, now: int) -> None:
        """The loop has done a node; ``now`` is the time, in nanoseconds."""
        if now - self._since >= QUANTUM_NS:
            self._since = now
            if self._turn.wanted_beside(self):
                self.waiting_for = never  # of two, only one gives way
                self._turn.give_way()
                self.waiting_for = None
