"""Turns: one method of an actor at a time, whichever graph calls it, and none of its graphs for long.

The lock alone would not do: a thread that runs holds the interpreter lock too, so that the loop of another graph,
which has work and only needs the interpreter to see it, may be kept out for hundreds of executions. So a loop that
has run for a while gives way, if another wants a turn, and keeps away from the lock until that turn is over.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock
from time import monotonic_ns

QUANTUM_NS = 1_000_000  # how long a loop may run before it gives way
GLANCE = 0.005  # seconds after which it looks whether another still wants a turn
PATIENCE = 20  # glances, at most: a loop that says that it wants a turn may be encoding something large


def always() -> bool:
    """A loop is about to take the lock."""
    return True


def never() -> bool:
    """A loop does something for which it needs no lock, until it says otherwise."""
    return False


def _nothing() -> None:
    """What a loop does for work that comes by itself."""


class Turn:
    """What the loops of one actor share.

    Attributes:
        lock: held while a method runs.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self._places: list[Place] = []
        self._owner: Place | None = None  # whose turn it is
        self._polite: Place | None = None  # who gave way, and waits
        self._exchange = Lock()

    def join(self, has_work: Callable[[], bool], look: Callable[[], None] | None = None) -> Place:
        """A place for one more loop.

        Args:
            has_work: tells whether it has an execution to begin.
            look: takes in executions that have come, where those do not come by themselves; called on its thread.
        """
        place = Place(self, has_work, look or _nothing)
        self._places.append(place)
        return place

    def leave(self, place: Place) -> None:
        """The loop has ended."""
        self._places.remove(place)
        self._owner = None
        self.pauses(place)
        place.has_work = place.wants = never  # whose channel goes with the loop
        place.look = _nothing

    def is_crowded(self) -> bool:
        """Whether there are several loops."""
        return len(self._places) > 1

    def is_wanted_beside(self, place: Place) -> bool:
        """Whether another loop would take the lock now."""
        return any(other.wants() for other in self._places if other is not place)

    def has_begun(self, place: Place) -> None:
        """A loop has taken the lock: its turn begins, if it was another's."""
        if place is not self._owner:
            self._owner = place
            place.begins(monotonic_ns())

    def pauses(self, place: Place) -> None:
        """A loop does without the lock for now: whoever gave way may go on."""
        polite = self._polite
        if polite is not None and polite is not place:
            polite.may_go_on.set()

    def give_way(self, place: Place) -> None:
        """Wait until the turn of another is over."""
        place.may_go_on.clear()
        with self._exchange:
            self.pauses(place)  # of two, only one waits for the other
            self._polite = place
        for _ in range(PATIENCE):
            place.look()  # as the other goes on for as long as this one has no work
            if not self.is_wanted_beside(place) or place.may_go_on.wait(GLANCE):
                break
        with self._exchange:
            self._stops_waiting(place)

    def _stops_waiting(self, place: Place) -> None:
        # A function of its own: what `give_way` has assigned itself, the compiler takes for what is there still,
        # where another loop may have gone and left None.
        if self._polite is place:
            self._polite = None


class Place:
    """One loop's place among them.

    Attributes:
        has_work: whether it has an execution to begin.
        look: see `Turn.join`.
        wants: whether it would take the lock now, as far as can be seen from outside.
        may_go_on: set when it need not wait any more, having given way.
    """

    __slots__ = ("_since", "_turn", "has_work", "look", "may_go_on", "wants")

    def __init__(self, turn: Turn, has_work: Callable[[], bool], look: Callable[[], None]) -> None:
        self.has_work = has_work
        self.look = look
        self.wants = has_work
        self.may_go_on = Event()
        self._turn = turn
        self._since = 0

    def begins(self, now: int) -> None:
        """The loop's turn begins; ``now`` is the time, in nanoseconds."""
        self._since = now

    def has_run(self, now: int) -> None:
        """The loop has done a node; ``now`` is the time, in nanoseconds."""
        if now - self._since >= QUANTUM_NS:
            if self._turn.is_wanted_beside(self):
                self._turn.give_way(self)
                now = monotonic_ns()
            self._since = now
