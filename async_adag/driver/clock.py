"""The clock of another host, as far as this one can tell.

A host's clock counts from when it was started, and no two go equally fast. So they are compared: the other is
asked what time it is, and has looked somewhere between question and answer. Half of what lies between these is how
wrong that may be; of several answers the quickest counts. Times between two comparisons are put in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two clocks at one moment, in nanoseconds.

    Attributes:
        theirs: what the other host's clock said.
        ahead: how far ours was ahead of it.
        error: how wrong that may be, either way.
    """

    theirs: int
    ahead: int
    error: int


def compare(asked: int, theirs: int, heard: int) -> Comparison:
    """What an answer says.

    Args:
        asked: when the question was asked, by our clock.
        theirs: the answer.
        heard: when it was heard, by our clock.
    """
    return Comparison(theirs, (asked + heard) // 2 - theirs, (heard - asked + 1) // 2)


class HostClock:
    """Puts times of another host's clock on ours, by one comparison or two."""

    def __init__(self, first: Comparison, last: Comparison) -> None:
        self._first = first
        self._last = last

    @property
    def error(self) -> int:
        """How wrong a time between the two may be, in nanoseconds, either way; where the clocks go steadily."""
        return max(self._first.error, self._last.error)

    def to_ours(self, theirs: int) -> int:
        """A time of theirs, as ours; in nanoseconds."""
        first, last = self._first, self._last
        between = last.theirs - first.theirs
        passed = min(max(theirs - first.theirs, 0), between)
        ahead = first.ahead + ((last.ahead - first.ahead) * passed // between if between > 0 else 0)
        return max(0, theirs + ahead)
