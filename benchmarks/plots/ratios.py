"""How many times better than Ray, and how many times the floor: a bar for each row of the table."""

from __future__ import annotations

from typing import Any

from benchmarks.plots.style import COLOURS, new_figure, set_ticks
from benchmarks.record import Record

LEFT_OUT = ("Throughput by window", "Cost per hop", "Round trip, awaited, 1 actor, by graphs")  # these are curves
Entry = dict[str, Any]


def draw(record: Record) -> Any:
    """The picture; None where nothing was compared."""
    sections: dict[str, list[Entry]] = {}
    for row in record["rows"]:
        if _is_shown(row):
            sections.setdefault(row["section"].removesuffix(", p50"), []).append(row)
    if not sections:
        return None
    lines = sum(1 + len(rows) for rows in sections.values())
    figure, axes = new_figure(1, 2, 9, 0.8 + 0.17 * lines, sharey=True)
    against_ray, against_floor = axes[0]
    place = 0.0
    ticks: list[tuple[float, str]] = []
    headings: list[tuple[float, str]] = []
    for section, rows in sections.items():
        headings.append((place, section))
        place += 1
        for row in rows:
            ticks.append((place, row["label"].removesuffix(", p50")))
            _bar(against_ray, place, row["gain"], _by_round(row, gain=True), COLOURS["async_adag"])
            _bar(against_floor, place, row["over_floor"], _by_round(row, gain=False), COLOURS["floor"])
            place += 1
        place += 0.35
    against_ray.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    against_ray.set_ylim(place - 0.5, -0.8)
    against_ray.set_title("times better than Ray's compiled graph (right of 1: ahead)")
    against_floor.set_title("times the same shape of C processes (1: nothing left to gain)")
    for axis in axes[0]:
        axis.set_xscale("log")
        axis.axvline(1, color="#333333", linewidth=0.8)
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
        set_ticks(axis.xaxis, lambda value, _: f"{value:g}x")
        low, high = axis.get_xlim()
        axis.set_xlim(min(low, 0.7), high * 1.7)  # room for the figure behind the longest bar
    for at, section in headings:
        against_ray.annotate(
            section, (0, at), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=7.5, weight="bold", color="#333333",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    return figure


def _is_shown(row: Entry) -> bool:
    if row["rival"] != "ray" or row["label"].endswith("p99") or row["section"].startswith(LEFT_OUT):
        return False
    if row["unit"] == "%":
        return False  # nothing at all, of which no ratio can be drawn
    return row["gain"] is not None or row["over_floor"] is not None


def _bar(axis: Any, place: float, ratio: float | None, by_round: list[float], colour: str) -> None:
    if ratio is None:
        return
    axis.barh(place, ratio - 1, left=1, height=0.72, color=colour, alpha=0.85)
    if len(by_round) > 1:
        axis.plot([min(by_round), max(by_round)], [place, place], color="#222222", linewidth=0.9)
    end = max(ratio, *by_round, 1.0) if by_round else max(ratio, 1.0)
    text = f"{ratio:.{1 if ratio < 9.95 else 0}f}x"
    axis.annotate(text, (end, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)


def _by_round(row: Entry, *, gain: bool) -> list[float]:
    """The ratio in each round, where both were measured in all."""
    ours = row["rounds"].get("async_adag", [])
    theirs = row["rounds"].get(row["rival"] if gain else "floor", [])
    if len(ours) != len(theirs):
        return []
    if gain and row["unit"] != "/s":
        ours, theirs = theirs, ours
    return [our / their for our, their in zip(ours, theirs, strict=True) if their]
