"""Figures as text."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.rows import RAY, Row
from benchmarks.suite import FLOOR, OURS, PARKED, Results

WIDTHS = (30, 12, 13, 9, 12, 12, 12)
HEADINGS = ("", "Ray", "async_adag", "gain", "parked", "floor", "over floor")
NOTES = """\
Medians over the rounds. gain: how many times better async_adag is than Ray, or than the tool that the section
names, whose figure then stands in Ray's place. async_adag: with its default options, or the busy_poll that
was asked for. parked: with busy_poll=0, so that its processes sleep as the floor's do. floor: the same shape
of C processes that park in read() of an eventfd, and copy the array once per hop (pingpong.c); of a
throughput, async_adag's own rings and codec in bare loops (bare.py); over two hosts, a plain socket between
two Python processes, which may share a core. over floor: the figure of what parks, divided by the floor's.
Left alone, the kernel may put both ends on one core, where waking is cheap, or on two, where it is not; the
pinned rows compare like with like, in ten short turns a round, since what a wake-up costs changes from
second to second."""
NOT_MEASURED = "-"
FAILED = "failed"


def header(facts: Mapping[str, str]) -> str:
    """Names and values, one pair a line."""
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def table(results: Results) -> str:
    """The figures, section by section, fit for a terminal of 100 columns."""
    lines = [_line(HEADINGS)]
    for section, rows in _sections(results.rows).items():
        rival = rows[0].rival
        lines += ["", section if rival == RAY else f"{section} (in the first column)"]
        lines += [_line(_cells(results, row)) for row in rows]
    return "\n".join(lines)


def failures(results: Results) -> list[str]:
    """What could not be measured, a line for each reason."""
    told: dict[tuple[str, str, str], tuple[list[str], int]] = {}
    for (row, who, reason), how_often in results.failures.items():
        labels, most = told.setdefault((row.section, who, reason), ([], 0))
        told[row.section, who, reason] = [*labels, row.label], max(most, how_often)
    return [
        f"failed {how_often} times, {who}: {section}: {', '.join(labels)}: {reason}"
        for (section, who, reason), (labels, how_often) in told.items()
    ]


def memory(results: Results) -> str:
    """The most memory that was resident in each workload."""
    widths = (44, 13, 13, 13)
    lines = [_line(("Memory in MB, at most", "driver", "actors", "afterwards"), widths)]
    for (workload, who), held in results.memory.items():
        if who in (RAY, OURS):
            sizes = (f"{size / 1e6:,.0f}" for size in (held.driver, held.actors, held.left))
            lines.append(_line((f"  {workload}, {who}", *sizes), widths))
    return "\n".join(lines)


def figure(value: float | None, unit: str) -> str:
    """A value with its unit, in three or four digits."""
    if value is None:
        return NOT_MEASURED
    if unit == "%":
        return f"{value:.1f} %"
    if unit == "/s":
        return f"{value:,.0f} /s"
    for scale, name in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 999.5 * scale:
            return f"{value / scale:.{1 if value < 99.95 * scale else 0}f} {name}"
    return f"{value:.2f} s"


def times(ratio: float | None) -> str:
    """A ratio, as "2.1 x"."""
    if ratio is None:
        return NOT_MEASURED
    if ratio >= 1000:
        return "> 999 x"
    return f"{ratio:.{2 if ratio < 9.995 else 0}f} x"


def _sections(rows: list[Row]) -> dict[str, list[Row]]:
    sections: dict[str, list[Row]] = {}
    for row in rows:
        sections.setdefault(row.section, []).append(row)
    return sections


def _cells(results: Results, row: Row) -> tuple[str, ...]:
    failed = {who for (which, who, _) in results.failures if which == row}

    def cell(who: str) -> str:
        value = results.median(row, who)
        return FAILED if value is None and who in failed else figure(value, row.unit)

    return (
        f"  {row.label}",
        cell(row.rival),
        cell(OURS),
        times(results.gain(row)),
        cell(PARKED),
        cell(FLOOR),
        times(results.over_floor(row)),
    )


def _line(cells: tuple[str, ...], widths: tuple[int, ...] = WIDTHS) -> str:
    first, *others = zip(cells, widths, strict=True)
    return f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)
