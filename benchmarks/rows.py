"""Rows of the table, and the figures that a measurement gives for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.histogram import Histogram
from benchmarks.measure import percentile

RAY = "ray"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        section: the lines above which it stands; those of a section are of one kind.
        label: which of that kind.
        unit: "s", "/s" (more is better) or "%" of a core.
        x: where its section is a curve, the place on it: bytes, actors, executions.
        rival: who async_adag is compared with.
    """

    section: str
    label: str
    unit: str
    x: float | None = None
    rival: str = RAY


@dataclass
class Figures:
    """What one measurement gave: a figure for each row, and for some rows how single times were distributed."""

    values: dict[Row, float] = field(default_factory=dict)
    histograms: dict[Row, Histogram] = field(default_factory=dict)

    def add(self, others: Figures) -> None:
        self.values |= others.values
        self.histograms |= others.histograms


def of_times(rows: Sequence[Row], times: list[float], share: float = 1.0) -> Figures:
    """The median, for the first of `rows`, and the 99th percentile, for the second if there is one.

    `share` is the part of each time that counts: a hop's of a round trip, say.
    """
    times = [share * time for time in times]
    median, *rest = rows
    values = {median: percentile(times, 50)}
    for row in rest:
        values[row] = percentile(times, 99)
    return Figures(values, {median: Histogram.of(times)})


def p50_and_p99(section: str, name: str, rival: str = RAY) -> list[Row]:
    """The two rows of a latency."""
    return [Row(section, f"{name}, {which}", "s", rival=rival) for which in ("p50", "p99")]
