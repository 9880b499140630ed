"""What the pictures share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.record import Record

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

# Told apart by colour-blind people too.
COLOURS = {"ray": "#d55e00", "async_adag": "#0072b2", "parked": "#56b4e9", "floor": "#6b6b6b"}
NAMES = {
    "ray": "Ray's compiled graph",
    "async_adag": "async_adag",
    "parked": "async_adag, parked",
    "floor": "C processes (floor)",
}
WHO = tuple(COLOURS)
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "async_adag",  # the same record gives the same file
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "savefig.facecolor": "white",
}
FOOT = 0.3  # inches, for two lines at the foot
LETTERS = 22  # of those lines, to an inch


@contextmanager
def applied() -> Iterator[None]:
    """The settings, until the block ends."""
    with plt.rc_context(SETTINGS):
        yield


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure and a 2-d array of its axes, with room for a legend at the head and a line at the foot."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **options
    )
    figure.get_layout_engine().set(rect=(0, FOOT / height, 1, 1 - FOOT / height))
    return figure, axes


def add_legend(figure: Any, axis: Any) -> None:
    """One legend, of that axis, above all."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), fontsize=8)


def save(figure: Any, record: Record, path: Path) -> None:
    """Writes the figure, with the machine and the versions at its foot."""
    width, height = figure.get_size_inches()
    foot = textwrap.fill(provenance(record), int(LETTERS * width))
    figure.text(0.05 / width, 0.05 / height, foot, fontsize=6, color="#555555")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def provenance(record: Record) -> str:
    """Where the figures are from, in a line."""
    machine, options = record["machine"], record["options"]
    versions = f"{machine['Python']}; Ray {machine['ray']}; {options['event loop']}"
    ours = f"async_adag {machine['async-adag']} at {record['commit'][:7]}"
    here = f"{machine['CPU']}; {machine['kernel']}"
    return f"{here}; {versions}; {ours}; rounds: {options['rounds']}; {record['began'][:10]}"


def set_ticks(axis: Any, words: Any, steps: tuple[int, ...] = (1, 2, 5)) -> None:
    """Has a logarithmic axis say 1, 2, 5, 10 and so on, by `words`."""
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(words)
    axis.set_minor_locator(NullLocator())


def time_in_words(seconds: float, _: object = None) -> str:
    """For an axis: "50 µs"."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= 0.9995 * scale:
            return f"{seconds / scale:g} {unit}"
    return f"{seconds / 1e-6:g} µs"


def rows_of(record: Record, section: str) -> list[dict[str, Any]]:
    """The rows of all sections whose name begins so."""
    return [row for row in record["rows"] if row["section"].startswith(section)]
