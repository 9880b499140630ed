"""Figures over what grows.

A line is the median of the rounds; the band around it goes from the least of them to the most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.plots.style import COLOURS, NAMES, WHO, add_legend, new_figure, rows_of, time_in_words
from benchmarks.record import Record

Format = Callable[..., str]


def draw_throughput(record: Record) -> Any:
    """Executions per second by how many are in flight; None where that was not measured."""
    prefix = "Throughput by window, awaited, "
    sections = list(dict.fromkeys(row["section"] for row in rows_of(record, prefix)))
    panels = [(section, f"{section.removeprefix(prefix)}: executions per second") for section in sections]
    figure, axes = _panels(record, panels, "in flight", _count)
    for axis in axes:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def draw_payloads(record: Record) -> Any:
    """Times by the size of an array; None where they were not measured."""
    panels = [
        ("Array there and back, awaited", "array there and back, awaited"),
        ("Array there and back, blocking", "array there and back, blocking"),
        ("Broadcast", "array to 4 actors at once"),
    ]
    figure, axes = _panels(record, panels, "size of the array", _bytes)
    for axis in axes:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(time_in_words)
    return figure


def draw_scaling(record: Record) -> Any:
    """Costs that are to stay flat, or grow slowly; None where they were not measured."""
    panels = [
        ("Cost per hop of a chain", "cost per hop of a chain", "actors in the chain"),
        ("Round trip, awaited, 1 actor, by graphs alive", "round trip, by graphs alive", "graphs alive"),
        ("Compile", "compile, up to the first result", "actors in the chain"),
    ]
    figure, axes = _panels(record, [panel[:2] for panel in panels], "", _count)
    for axis in axes:
        axis.set_xlabel(next(below for _, title, below in panels if title == axis.get_title(loc="left")))
        medians = [place for line in axis.get_lines() for place in line.get_ydata()]
        axis.set_ylim(0, 1.35 * max(medians))  # a single round that went astray would flatten all the others
        axis.yaxis.set_major_formatter(time_in_words)
    return figure


def _panels(record: Record, panels: list[tuple[str, str]], below: str, words: Format) -> tuple[Any, list[Any]]:
    """A panel for each section that begins so and was measured at more than one place; those axes."""
    curves = [
        (title, [row for row in rows_of(record, section) if any(row["rounds"].values())])
        for section, title in panels
    ]
    curves = [(title, rows) for title, rows in curves if len(rows) > 1]
    if not curves:
        return None, []
    figure, axes = new_figure(1, len(curves), max(6.2, 3.1 * len(curves)), 2.9)
    drawn = list(axes.flat)
    for axis, (title, rows) in zip(drawn, curves, strict=True):
        axis.set_title(title)
        axis.set_xlabel(below)
        axis.set_xscale("log")
        axis.grid()
        for who in WHO:
            _line(axis, rows, who)
        places = [row["x"] for row in rows]
        axis.set_xticks(places, [words(place) for place in places])
        axis.minorticks_off()
    add_legend(figure, max(drawn, key=lambda axis: len(axis.get_legend_handles_labels()[1])))
    return figure, drawn


def _line(axis: Any, rows: list[dict[str, Any]], who: str) -> None:
    measured = [row for row in rows if row["rounds"].get(who)]
    if not measured:
        return
    places = [row["x"] for row in measured]
    style = {"color": COLOURS[who], "linewidth": 1.4, "markersize": 3.5}
    dashes = "--" if who == "floor" else "-"
    axis.plot(places, [row["medians"][who] for row in measured], dashes, marker="o", label=NAMES[who], **style)
    least, most = ([of(row["rounds"][who]) for row in measured] for of in (min, max))
    axis.fill_between(places, least, most, color=COLOURS[who], alpha=0.15, linewidth=0)


def _count(value: float) -> str:
    return f"{value:g}"


def _bytes(value: float) -> str:
    for scale, unit in ((1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{value / scale:g} {unit}"
    return f"{value:g} B"
