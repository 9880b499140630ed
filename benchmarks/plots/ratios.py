"""How many times better than Ray, and how many times the floor: a bar for each row of the table."""

from __future__ import annotations

from typing import Any

from benchmarks.plots.style import COLOURS, new_figure, set_ticks
from benchmarks.record import Record

LEFT_OUT = ("Throughput by window", "Cost per hop", "Round trip, awaited, 1 actor, by graphs")  # these are curves
Entry = dict[str, Any]
Bar = tuple[float, float | None, list[float]]  # where it stands, the ratio, and that of each round


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
    gains: list[Bar] = []
    over_floor: list[Bar] = []
    for section, rows in sections.items():
        headings.append((place, section))
        place += 1
        for row in rows:
            ticks.append((place, row["label"].removesuffix(", p50")))
            gains.append((place, row["gain"], _by_round(row, gain=True)))
            times_floor = None if row["unit"] == "/s" else row["over_floor"]
            over_floor.append((place, times_floor, _by_round(row, gain=False)))
            place += 1
        place += 0.35
    against_ray.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    against_ray.set_ylim(place - 0.5, -0.8)
    against_ray.set_title("times better than Ray's compiled graph (right of 1: ahead)")
    against_floor.set_title("parked: times the C processes (1: nothing left to gain)")
    _draw_bars(against_ray, gains, COLOURS["async_adag"])
    _draw_bars(against_floor, over_floor, COLOURS["floor"])
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


def _draw_bars(axis: Any, bars: list[Bar], colour: str) -> None:
    ratios = [ratio for _, ratio, _ in bars if ratio is not None]
    low, high = 0.75 * min([1, *ratios]), 2.2 * max([1, *ratios])  # a round that went astray sets no limit
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    set_ticks(axis.xaxis, lambda value, _: f"{value:g}x", steps=(1, 2, 5) if high < 200 * low else (1,))
    axis.axvline(1, color="#333333", linewidth=0.8)
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    for place, ratio, by_round in bars:
        if ratio is None:
            continue
        axis.barh(place, ratio - 1, left=1, height=0.72, color=colour, alpha=0.85)
        if len(by_round) > 1:
            axis.plot([min(by_round), max(by_round)], [place, place], color="#222222", linewidth=0.9)
        end = min(max([ratio, 1, *by_round]), high / 1.4)
        text = f"{ratio:.{1 if ratio < 9.95 else 0}f}x"
        axis.annotate(
            text, (end, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip


def _by_round(row: Entry, *, gain: bool) -> list[float]:
    """The ratio in each round, where both were measured in all."""
    rounds = row["rounds"]
    ours = rounds.get("async_adag", []) if gain else rounds.get("parked") or rounds.get("async_adag", [])
    theirs = rounds.get(row["rival"] if gain else "floor", [])
    if len(ours) != len(theirs):
        return []
    if gain and row["unit"] != "/s":
        ours, theirs = theirs, ours
    return [our / their for our, their in zip(ours, theirs, strict=True) if their]
