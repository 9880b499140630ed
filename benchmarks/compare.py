"""Two records, row by row: what has changed, and is the change larger than the scatter of the rounds?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

from benchmarks.record import Record
from benchmarks.suite import FLOOR, OURS
from benchmarks.table import NOT_MEASURED, figure

WIDTHS = (30, 13, 13, 9, 9, 9)
HEADINGS = ("", "A", "B", "B / A", "rival", "floor")

Key = tuple[str, str]  # section and label


@dataclass(frozen=True)
class Rounds:
    """The rounds of one row in both, of one who was measured."""

    a: list[float]
    b: list[float]

    @property
    def ratio(self) -> float | None:
        """The median of B over that of A; None where there is none."""
        if not self.a or not self.b or not median(self.a):
            return None
        return median(self.b) / median(self.a)

    def is_apart(self) -> bool:
        """Whether every round of one lies above every round of the other. One round has no scatter."""
        return self._has_scatter() and (max(self.a) < min(self.b) or max(self.b) < min(self.a))

    def by_chance(self) -> float:
        """How likely `is_apart` is where nothing has changed."""
        return 2 / comb(len(self.a) + len(self.b), len(self.a)) if self._has_scatter() else 0.0

    def _has_scatter(self) -> bool:
        return min(len(self.a), len(self.b)) > 1


def compare(a: Sequence[Record], b: Sequence[Record]) -> str:
    """The comparison as text. Each side is one record or more, whose rounds are taken together."""
    lines = [_line(HEADINGS)]
    section = None
    expected = 0.0
    changed = 0
    for key in _keys(a, b):
        ours = _rounds(a, b, key, OURS)
        if not ours.a and not ours.b:
            continue
        if key[0] != section:
            section = key[0]
            lines += ["", section]
        unit, rival = _row(a, b, key)
        expected += ours.by_chance()
        changed += ours.is_apart()
        cells = (
            f"  {key[1]}",
            figure(median(ours.a) if ours.a else None, unit),
            figure(median(ours.b) if ours.b else None, unit),
            _ratio(ours),
            _ratio(_rounds(a, b, key, rival)),
            _ratio(_rounds(a, b, key, FLOOR)),
        )
        lines.append(_line(cells) + _verdict(ours, unit))
    lines += [
        "",
        *_notes(a, b),
        f"{changed} rows differ beyond the scatter; {expected:.1f} would by chance alone.",
    ]
    return "\n".join(lines)


def _notes(a: Sequence[Record], b: Sequence[Record]) -> list[str]:
    notes = [
        'A and B: medians of async_adag over all rounds. "better", "worse": every round of B lies on that side of',
        "every round of A. rival, floor: how theirs has changed, which no commit of ours can do: where it is not",
        "near 1.00, the machine was another or had other things to do, and the row says little.",
    ]
    for name, side in (("A", a), ("B", b)):
        notes += [
            f"{name}: the run of {record['began']} ended in {record['under_way']}"
            for record in side
            if record.get("under_way")
        ]
    for name in sorted({name for record in (*a, *b) for name in record["machine"]} - {"load before"}):
        there, here = ({record["machine"].get(name, "?") for record in side} for side in (a, b))
        if there != here:
            notes.append(f"different {name}: {', '.join(sorted(there))} / {', '.join(sorted(here))}")
    return notes


def _verdict(rounds: Rounds, unit: str) -> str:
    if not rounds.is_apart() or rounds.ratio is None:
        return ""
    return "  better" if (rounds.ratio > 1) == (unit == "/s") else "  worse"


def _ratio(rounds: Rounds) -> str:
    return NOT_MEASURED if rounds.ratio is None else f"{rounds.ratio:.2f}"


def _keys(a: Sequence[Record], b: Sequence[Record]) -> list[Key]:
    """Of all rows, in the order of the first record that has them."""
    return list(dict.fromkeys((row["section"], row["label"]) for record in (*a, *b) for row in record["rows"]))


def _row(a: Sequence[Record], b: Sequence[Record], key: Key) -> tuple[str, str]:
    """Unit and rival of a row."""
    row = next(row for record in (*a, *b) for row in record["rows"] if (row["section"], row["label"]) == key)
    return row["unit"], row["rival"]


def _rounds(a: Sequence[Record], b: Sequence[Record], key: Key, who: str) -> Rounds:
    def of(side: Sequence[Record]) -> list[float]:
        rows = [row for record in side for row in record["rows"] if (row["section"], row["label"]) == key]
        return [value for row in rows for value in row["rounds"].get(who, [])]

    return Rounds(of(a), of(b))


def _line(cells: tuple[str, ...]) -> str:
    first, *others = zip(cells, WIDTHS, strict=True)
    return f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)
