"""Placement: on which CPU the thread of each of a graph's loops is to stay.

``together``: all on one CPU, where they wake each other cheaply; for work that is sequential anyhow. ``apart``:
each on the CPU that has the fewest, so that the stages of a pipeline work at the same time. Graphs that one driver
has at the same time are spread as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from threading import Lock

TOGETHER, APART = "together", "apart"
POLICIES = (TOGETHER, APART)


class Seats:
    """Which CPUs the loops of a driver's graphs have been given."""

    def __init__(self) -> None:
        self._taken: Counter[int] = Counter()
        self._lock = Lock()

    def take(self, policy: str, loops: int, cpus: Sequence[int]) -> list[int]:
        """A CPU for each of so many loops.

        Args:
            policy: of `POLICIES`.
            loops: how many.
            cpus: those to choose from, the most welcome first; at least one.
        """
        with self._lock:
            order = {cpu: number for number, cpu in enumerate(cpus)}
            given: list[int] = []
            for _ in range(loops):
                if policy == APART or not given:
                    cpu = min(order, key=lambda cpu: (self._taken[cpu], order[cpu]))
                else:
                    cpu = given[0]
                given.append(cpu)
                self._taken[cpu] += 1
            return given

    def give_back(self, given: list[int]) -> None:
        """Those loops have ended; again is harmless."""
        with self._lock:
            self._taken.subtract(given)
            given.clear()


def cores_first(cpus: set[int], core_of: Callable[[int], object]) -> list[int]:
    """The CPUs in such an order that those of different cores come first: two of one core share its units."""
    seen: Counter[object] = Counter()
    ranked = []
    for cpu in sorted(cpus):
        core = core_of(cpu)
        ranked.append((seen[core], cpu))
        seen[core] += 1
    return [cpu for _, cpu in sorted(ranked)]


def own_in_place_of(cpu: int, cpus: set[int]) -> int:
    """The CPU itself where a thread may use it, else one of its ``cpus``: the same for all that have the same."""
    return cpu if cpu in cpus else sorted(cpus)[cpu % len(cpus)]
