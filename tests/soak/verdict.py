"""Flat or not: the last third of the samples against the middle third. The first third is for warming up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.soak.sampling import FIGURES, Sample

ENOUGH = 9  # samples of a process: fewer say nothing
RELATIVE = 0.05
MEGABYTE = 1 << 20
ABSOLUTE = {
    "rss": 8 * MEGABYTE,
    "pss": 8 * MEGABYTE,
    "memory_files": 8 * MEGABYTE,
    "fds": 3,
    "threads": 2,  # Ray starts threads of its own at its own times
    # Three for each of those threads; and a channel maps another block when it needs more at once than ever yet,
    # up to a limit that rare coincidences come near. A leak of one in twenty graphs would be past this in minutes.
    "mappings": 24,
}


@dataclass(frozen=True)
class Finding:
    """One figure of one process: the medians of the thirds, and how much more the last may be than the middle."""

    process: str
    figure: str
    first: float
    middle: float
    last: float
    allowed: float

    @property
    def flat(self) -> bool:
        return self.last - self.middle <= self.allowed


def find(samples: Sequence[Sample]) -> list[Finding]:
    """A finding for each figure of each process of which there are `ENOUGH` samples."""
    findings = []
    for process in dict.fromkeys(sample.process for sample in samples):
        own = [sample for sample in samples if sample.process == process]
        if len(own) < ENOUGH:
            continue
        third = len(own) // 3
        for figure in FIGURES:
            values = [getattr(sample, figure) for sample in own]
            first, middle, last = (
                median(values[: -2 * third]),
                median(values[-2 * third : -third]),
                median(values[-third:]),
            )
            relative = RELATIVE * middle if ABSOLUTE[figure] >= MEGABYTE else 0.0
            allowed = max(ABSOLUTE[figure], relative)
            findings.append(Finding(process, figure, first, middle, last, allowed))
    return findings


def table(findings: Sequence[Finding]) -> str:
    """The findings as text, one line each."""
    lines = [f"{'':<28}{'first third':>14}{'middle':>10}{'last':>10}{'may grow':>10}"]
    process = ""
    for finding in findings:
        if finding.process != process:
            process = finding.process
            lines += ["", process]
        figures = [
            _text(finding.figure, value)
            for value in (finding.first, finding.middle, finding.last, finding.allowed)
        ]
        mark = "" if finding.flat else "   NOT FLAT"
        lines.append(
            f"  {finding.figure:<26}{figures[0]:>14}{figures[1]:>10}{figures[2]:>10}{figures[3]:>10}{mark}"
        )
    return "\n".join(lines)


def _text(figure: str, value: float) -> str:
    return f"{value / MEGABYTE:.1f} MB" if ABSOLUTE[figure] >= MEGABYTE else f"{value:.0f}"
