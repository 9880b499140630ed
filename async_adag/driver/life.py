"""The life of a compiled graph: its state, and what calls raise once it is no longer open."""

from __future__ import annotations

import os
from collections.abc import Callable

from async_adag.driver.reasons import forked
from async_adag.errors import AdagError
from async_adag.protocol.lifecycle import Lifecycle, State


class Life(Lifecycle):
    """Of one graph. Moved and closed to calls under the graph's lock.

    Attributes:
        refusal: makes what calls raise; None while the graph is open. A new error for each: one that was raised
            holds the frames that it went through, and so the graph, which an event loop would then hold through
            this.
    """

    __slots__ = ("_forked", "_process", "refusal")

    def __init__(self) -> None:
        super().__init__()
        self.refusal: Callable[[], AdagError] | None = None
        self._process = os.getpid()
        self._forked: Callable[[], AdagError] | None = None  # makes what every call raises in a forked child

    def is_open(self) -> bool:
        """Whether calls are welcome."""
        return self.refusal is None

    def check_open(self) -> None:
        """Raise what calls on this graph raise now, if it is no longer open."""
        if self.refusal is not None:
            raise self.refusal()

    def check_process(self) -> None:
        """Raise what calls raise in a process that was forked from the graph's own, if this is one."""
        if self._forked is not None:
            raise self._forked()

    def is_forked(self) -> bool:
        """Whether this process was forked from the graph's own."""
        return self._forked is not None

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        parent, child = self._process, os.getpid()
        self.refusal = self._forked = lambda: forked(parent, child)
        self.move(State.CLOSED)
