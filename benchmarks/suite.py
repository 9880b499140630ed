"""Rounds over workloads: in each round every backend, and the floor, has its turn at every workload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from benchmarks.backends import Backend
from benchmarks.floor import Floor
from benchmarks.workloads import Figures, Floored, Row, Site, Sliced, Workload

FLOOR = "floor"


@dataclass
class Results:
    """Every figure of every round, by row and by who it is of (a backend's name, or FLOOR)."""

    rows: list[Row]
    figures: dict[tuple[Row, str], list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    """What could not be measured, and how often."""

    def add(self, who: str, figures: Figures) -> None:
        for row, figure in figures.items():
            self.figures.setdefault((row, who), []).append(figure)

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
        """How many times better async_adag is than Ray: above 1, it is ahead."""
        if row.unit == "/s":
            return self.ratio(row, "async_adag", "ray")
        return self.ratio(row, "ray", "async_adag")


def run(
    workloads: Sequence[Workload],
    backends: Sequence[Backend],
    floor: Floor | None,
    site: Site,
    rounds: int,
    tell: Callable[[str], None],
) -> Results:
    """Measures everything `rounds` times, one graph alive at a time. `tell` hears what is under way.

    Where a workload asks for it, the turns within a round are short, and many.
    """
    results = Results([row for workload in workloads for row in workload.rows])
    turns: list[Backend | Floor] = [*backends, *([floor] if floor else [])]
    for number in range(rounds):
        for workload in workloads:
            tell(f"round {number + 1} of {rounds}: {workload.name}")
            slices = workload.slices if isinstance(workload, Sliced) else 1
            here = replace(site, seconds=site.seconds / slices)
            for turn in [*turns] * slices:
                try:
                    if not isinstance(turn, Floor):
                        results.add(turn.name, workload.measure(turn, here))
                    elif isinstance(workload, Floored):
                        results.add(FLOOR, workload.floor(turn, here))
                except Exception as error:  # told at the end; the other figures are still good
                    who = FLOOR if isinstance(turn, Floor) else turn.name
                    results.failures[f"{who}: {workload.name}: {type(error).__name__}: {error}"] += 1
        turns = [*turns[1:], turns[0]]  # nobody is always first, or always after the same one
    return results
