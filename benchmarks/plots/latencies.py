"""How round trips are distributed: all of them, of all rounds."""

from __future__ import annotations

from typing import Any

from benchmarks.histogram import Histogram, edge
from benchmarks.plots.style import COLOURS, NAMES, WHO, add_legend, new_figure, rows_of, time_in_words
from benchmarks.record import Record

SIDES = ("Round trip, awaited", "Round trip, blocking")
EDGE = 0.001  # of the round trips, at either end, that may lie outside the picture


def draw(record: Record) -> Any:
    """The picture; None where no times were kept."""
    sides = [
        [row for row in rows_of(record, side) if row["section"] == side and row["histograms"]] for side in SIDES
    ]
    sides = [rows for rows in sides if rows]
    if not sides:
        return None
    columns = max(map(len, sides))
    figure, axes = new_figure(len(sides), columns, 3 * columns, 0.7 + 1.6 * len(sides))
    for axis in axes.flat:
        axis.set_visible(False)
    for line, rows in zip(axes, sides, strict=True):
        for axis, row in zip(line, rows, strict=False):
            axis.set_visible(True)
            _draw_row(axis, row)
    add_legend(figure, max(axes.flat, key=lambda axis: len(axis.get_legend_handles_labels()[1])))
    return figure


def _draw_row(axis: Any, row: dict[str, Any]) -> None:
    side = row["section"].removeprefix("Round trip, ")
    axis.set_title(f"{row['label'].removesuffix(', p50')}, {side}")
    lowest, highest = float("inf"), 0.0
    for who in WHO:
        if who not in row["histograms"]:
            continue
        times = Histogram.from_json(row["histograms"][who])
        numbers = range(min(times.counts), max(times.counts) + 1)
        shares = [100 * times.counts.get(number, 0) / times.total for number in numbers]
        axis.stairs(shares, [edge(number) for number in (*numbers, numbers[-1] + 1)], color=COLOURS[who],
                    fill=True, alpha=0.25)  # fmt: skip
        axis.stairs(shares, [edge(number) for number in (*numbers, numbers[-1] + 1)], color=COLOURS[who],
                    linewidth=1, label=NAMES[who])  # fmt: skip
        low, high = _bulk(times)
        lowest, highest = min(lowest, low), max(highest, high)
    axis.set_xscale("log")
    axis.set_xlim(lowest / 1.1, highest * 1.1)
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_formatter(time_in_words)
    axis.xaxis.set_minor_formatter(lambda *_: "")
    axis.grid(axis="x")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")


def _bulk(times: Histogram) -> tuple[float, float]:
    """Between which times all but the edges lie."""
    seen = 0
    inside = []
    for number in sorted(times.counts):
        before, seen = seen, seen + times.counts[number]
        if seen > EDGE * times.total and before < (1 - EDGE) * times.total:
            inside.append(number)
    return edge(inside[0]), edge(inside[-1] + 1)
