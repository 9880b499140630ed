"""Figures as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.suite import FLOOR, Results
from benchmarks.workloads import Row

WIDTHS = (28, 13, 13, 11, 13, 11)
HEADINGS = ("", "Ray", "async_adag", "gain", "floor", "over floor")
NOTES = """\
Medians over the rounds. gain: how many times better async_adag is than Ray. floor: the same shape of C
processes that park in read() of an eventfd, and copy the array once per hop (pingpong.c). over floor:
async_adag's time divided by that. Left alone, the kernel may put both ends on one core, where waking is
cheap, or on two, where it is not; the pinned rows compare like with like, in ten short turns a round, since
what a wake-up costs changes from second to second."""
NOT_MEASURED = "-"


def header(facts: Mapping[str, str]) -> str:
    """Names and values, one pair a line."""
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def table(results: Results) -> str:
    """The figures, section by section, fit for a terminal of 100 columns."""
    lines = [_line(HEADINGS)]
    for section, rows in _sections(results.rows).items():
        lines += ["", section]
        lines += [_line(_cells(results, row)) for row in rows]
    return "\n".join(lines)


def as_json(results: Results, facts: Mapping[str, str]) -> dict[str, Any]:
    """All figures of all rounds, with their medians and ratios."""
    return {
        "run": dict(facts),
        "rows": [
            {
                "section": row.section,
                "label": row.label,
                "unit": row.unit,
                "gain": results.gain(row),
                "over_floor": results.ratio(row, "async_adag", FLOOR),
                "medians": {who: results.median(row, who) for who in ("ray", "async_adag", FLOOR)},
                "rounds": {who: results.figures.get((row, who), []) for who in ("ray", "async_adag", FLOOR)},
            }
            for row in results.rows
        ],
        "failures": results.failures,
    }


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
    return (
        f"  {row.label}",
        figure(results.median(row, "ray"), row.unit),
        figure(results.median(row, "async_adag"), row.unit),
        times(results.gain(row)),
        figure(results.median(row, FLOOR), row.unit),
        times(results.ratio(row, "async_adag", FLOOR)),
    )


def _line(cells: tuple[str, ...]) -> str:
    first, *others = zip(cells, WIDTHS, strict=True)
    return f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)
