"""The life of a graph, as a table.

    open ──aclose──▶ draining ──▶ closed
      │                 │            ▲
      ├──teardown───────┼────────────┘
      └──a peer dies────┴──▶ broken

Draining takes no new executions and lets those in flight finish. A broken graph stays broken for whoever asks
why, also after its teardown: the reason is worth more than the fact that somebody cleaned up.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a graph is in its life."""

    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"
    BROKEN = "broken"


_NEXT: dict[State, frozenset[State]] = {
    State.OPEN: frozenset({State.DRAINING, State.CLOSED, State.BROKEN}),
    State.DRAINING: frozenset({State.CLOSED, State.BROKEN}),
    State.CLOSED: frozenset(),
    State.BROKEN: frozenset(),
}


class Lifecycle:
    """The state of one graph, which moves only along the table."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.OPEN

    def move(self, to: State) -> bool:
        """Go to ``to`` if the table allows it; says whether it did."""
        if to not in _NEXT[self.state]:
            return False
        self.state = to
        return True
