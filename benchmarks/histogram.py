"""How times are distributed, in bins that are narrow where times are short."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PER_DECADE = 40  # bins: each is 6% wide
SHORTEST = 1e-7  # seconds, the lower edge of bin 0


@dataclass(frozen=True)
class Histogram:
    """Counts by bin. Bin `n` goes from `edge(n)` up to `edge(n + 1)`."""

    counts: dict[int, int]

    @classmethod
    def of(cls, times: Iterable[float]) -> Histogram:
        """Of times in seconds."""
        return cls(dict(Counter(_bin(time) for time in times)))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Histogram:
        return cls({data["first"] + place: count for place, count in enumerate(data["counts"]) if count})

    def as_json(self) -> dict[str, Any]:
        """The number of the first bin, and the counts from there on."""
        first, last = min(self.counts), max(self.counts)
        return {"first": first, "counts": [self.counts.get(number, 0) for number in range(first, last + 1)]}

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(dict(Counter(self.counts) + Counter(other.counts)))

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def edge(number: int) -> float:
    """The lower edge of a bin, in seconds."""
    return SHORTEST * 10 ** (number / PER_DECADE)


def _bin(time: float) -> int:
    return max(0, math.floor(PER_DECADE * math.log10(max(time, SHORTEST) / SHORTEST)))
