"""How round trips are distributed: all of them, of all rounds. Each curve is as high as its most frequent time."""

from __future__ import annotations

from typing import Any

from benchmarks.histogram import Histogram, edge
from benchmarks.plots.style import COLOURS, NAMES, WHO, add_legend, new_figure, rows_of, set_ticks, time_in_words
from benchmarks.record import Record
from benchmarks.table import figure

SIDES = ("Round trip, awaited", "Round trip, blocking")
EDGE = 0.01  # of the round trips, at either end, that may lie outside the picture


def draw(record: Record) -> Any:
    """The picture; None where no times were kept."""
    sides = [
        [row for row in rows_of(record, side) if row["section"] == side and row["histograms"]] for side in SIDES
    ]
    sides = [rows for rows in sides if rows]
    if not sides:
        return None
    columns = max(map(len, sides))
    picture, axes = new_figure(len(sides), columns, 3 * columns, 0.7 + 1.6 * len(sides))
    for axis in axes.flat:
        axis.set_visible(False)
    for line, rows in zip(axes, sides, strict=True):
        for axis, row in zip(line, rows, strict=False):
            axis.set_visible(True)
            _draw_row(axis, row)
    add_legend(picture, max(axes.flat, key=lambda axis: len(axis.get_legend_handles_labels()[1])))
    return picture


def _draw_row(axis: Any, row: dict[str, Any]) -> None:
    side = row["section"].removeprefix("Round trip, ")
    axis.set_title(f"{row['label'].removesuffix(', p50')}, {side}")
    lowest, highest = float("inf"), 0.0
    for who in WHO:
        if who not in row["histograms"]:
            continue
        times = Histogram.from_json(row["histograms"][who])
        numbers = range(min(times.counts), max(times.counts) + 1)
        most = max(times.counts.values())
        shares = [times.counts.get(number, 0) / most for number in numbers]
        axis.stairs(shares, [edge(number) for number in (*numbers, numbers[-1] + 1)], color=COLOURS[who],
                    fill=True, alpha=0.25)  # fmt: skip
        axis.stairs(shares, [edge(number) for number in (*numbers, numbers[-1] + 1)], color=COLOURS[who],
                    linewidth=1, label=NAMES[who])  # fmt: skip
        low, high = _bulk(times)
        lowest, highest = min(lowest, low), max(highest, high)
        at = 0.02 + 0.25 * WHO.index(who)
        axis.text(at, 0.93, f"p50 {figure(row['medians'][who], 's')}", transform=axis.transAxes, fontsize=6,
                  color=COLOURS[who], weight="bold")  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlim(lowest / 1.1, highest * 1.1)
    axis.set_ylim(0, 1.3)  # the medians stand above
    axis.set_yticks([])
    axis.spines.left.set_visible(False)
    set_ticks(axis.xaxis, time_in_words, steps=(1, 3) if highest < 100 * lowest else (1,))
    axis.grid(axis="x")


def _bulk(times: Histogram) -> tuple[float, float]:
    """Between which times all but the edges lie."""
    seen = 0
    inside = []
    for number in sorted(times.counts):
        before, seen = seen, seen + times.counts[number]
        if seen > EDGE * times.total and before < (1 - EDGE) * times.total:
            inside.append(number)
    return edge(inside[0]), edge(inside[-1] + 1)
