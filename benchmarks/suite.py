"""Rounds over workloads: in each round every backend, the floor and a rival have their turns at every workload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Protocol

from benchmarks.backends import Backend
from benchmarks.floor import Floor
from benchmarks.histogram import Histogram
from benchmarks.memory import Memory
from benchmarks.rows import Figures, Row
from benchmarks.site import Site
from benchmarks.workloads import Floored, Rivalled, Sliced, Workload

FLOOR = "floor"
OURS = "async_adag"
PARKED = "parked"  # async_adag as well, whose processes only sleep, as those of the floor do


@dataclass
class Results:
    """Every figure of every round, by row and by who it is of (a backend's name, FLOOR, or a rival's name)."""

    rows: list[Row]
    figures: dict[tuple[Row, str], list[float]] = field(default_factory=dict)
    histograms: dict[tuple[Row, str], Histogram] = field(default_factory=dict)
    """Of all rounds together, where there are any."""
    failures: Counter[tuple[Row, str, str]] = field(default_factory=Counter)
    """What could not be measured: the row, of whom, why; and how often."""
    memory: dict[tuple[str, str], Memory] = field(default_factory=dict)
    """The most that was held, by workload and by who was measured."""
    under_way: str = ""
    """What is being measured now. A record that has it was left by a run that did not end."""

    def add(self, who: str, figures: Figures) -> None:
        for row, figure in figures.values.items():
            self.figures.setdefault((row, who), []).append(figure)
        for row, histogram in figures.histograms.items():
            self.histograms[row, who] = self.histograms.get((row, who), Histogram({})) + histogram

    def fail(self, workload: Workload, who: str, reason: str) -> None:
        """No row of this workload has a figure of this round."""
        for row in workload.rows:
            self.failures[row, who, reason] += 1

    def hold(self, workload: Workload, who: str, memory: Memory) -> None:
        """So much memory was held."""
        self.memory[workload.name, who] = self.memory.get((workload.name, who), Memory()) | memory

    def median(self, row: Row, who: str) -> float | None:
        """The median over the rounds; None where this was not measured."""
        figures = self.figures.get((row, who))
        return median(figures) if figures else None

    def ratio(self, row: Row, over: str, under: str) -> float | None:
        """How many times the median of `under` goes into that of `over`; None where one was not measured."""
        above, below = self.median(row, over), self.median(row, under)
        if above is None or below is None:
            return None
        return above / below if below else float("inf")

    def gain(self, row: Row) -> float | None:
        """How many times better async_adag is than the row's rival: above 1, it is ahead."""
        if row.unit == "/s":
            return self.ratio(row, OURS, row.rival)
        return self.ratio(row, row.rival, OURS)

    def over_floor(self, row: Row) -> float | None:
        """How many times the floor: of async_adag parked, if that was measured."""
        who = PARKED if self.median(row, PARKED) is not None else OURS
        return self.ratio(row, who, FLOOR)


class Place(Protocol):
    """Where turns are taken."""

    def site(self) -> Site:
        """Live actors, just now."""
        ...

    def watch(self) -> Callable[[], Memory]:
        """Watch memory from now on; what is returned tells how much was held."""
        ...

    def tidy(self, failed: bool) -> None:
        """See to it that the next turn finds live actors, and memory."""
        ...


def run(
    results: Results,
    workloads: Sequence[Workload],
    backends: Sequence[Backend],
    floor: Floor | None,
    place: Place,
    rounds: int,
    tell: Callable[[str], None],
    keep: Callable[[], None] = lambda: None,
    parked: Backend | None = None,
) -> None:
    """Measures everything `rounds` times, one graph alive at a time. `tell` hears what is under way.

    Beside a floor, `parked` is measured as well, if there is one.

    Where a workload asks for it, the turns within a round are short, and many. `keep` is called ahead of each
    turn but for later short ones, when `results` say what comes: of a run that is killed, the rest is there.
    """
    for number in range(rounds):
        for workload in workloads:
            turns = _turns(workload, backends, floor, parked)
            turns = [*turns[number % len(turns) :], *turns[: number % len(turns)]]  # nobody is always first
            slices = workload.slices if isinstance(workload, Sliced) else 1
            for turn_number, (who, turn) in enumerate(turns * slices):
                results.under_way = f"round {number + 1} of {rounds}: {workload.name}: {who}"
                tell(results.under_way)
                if turn_number < len(turns):
                    keep()
                failed = False
                held = place.watch()
                try:
                    figures = turn(place.site().briefly(1 / slices))
                    results.add(who, figures)
                    if figures.values:
                        results.hold(workload, who, held())
                except Exception as error:  # told at the end; the other figures are still good
                    failed = True
                    results.fail(workload, who, f"{type(error).__name__}: {error}")
                    results.hold(workload, who, held())
                place.tidy(failed)
    results.under_way = ""
    keep()


def _turns(
    workload: Workload, backends: Sequence[Backend], floor: Floor | None, parked: Backend | None
) -> list[tuple[str, Callable[[Site], Figures]]]:
    """Who is measured, and how."""
    turns: list[tuple[str, Callable[[Site], Figures]]] = [
        (backend.name, partial(workload.measure, backend)) for backend in backends
    ]
    if isinstance(workload, Rivalled):
        turns.append((workload.rival, workload.measure_rival))
    if floor is not None and isinstance(workload, Floored):
        turns.append((FLOOR, partial(workload.floor, floor)))
        if parked is not None:
            turns.append((PARKED, partial(workload.measure, parked)))
    return turns
