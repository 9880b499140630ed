"""A joint result: several outputs of an execution in one future, for who wants them all and at once.

`asyncio.gather` over a future for each output gives the same: the list of values, or the first error. It takes a
callback and a turn of the event loop for each of them; who never sees those futures need not pay for that.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal


class Part:
    """One output's part of a joint result; settled once, as a future is, on the thread of its loop.

    Attributes:
        whole: the future of the list of values.
    """

    __slots__ = ("_left", "_place", "_values", "whole")

    def __init__(self, whole: asyncio.Future[Any], values: list[Any], left: list[None], place: int) -> None:
        self.whole = whole
        self._values = values
        self._left = left  # one item for each part that is not there yet
        self._place = place

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the whole."""
        return self.whole.get_loop()

    def done(self) -> bool:
        """Whether nobody waits for this part: an error of another one was first, or the whole was cancelled."""
        return self.whole.done()

    def set_result(self, value: Any) -> None:
        """The value; the last one settles the whole."""
        self._values[self._place] = value
        self._left.pop()
        if not self._left:
            self.whole.set_result(self._values)

    def set_exception(self, error: BaseException) -> None:
        """The error, which settles the whole."""
        self.whole.set_exception(error)

    @property
    def _log_traceback(self) -> bool:
        return self.whole._log_traceback

    @_log_traceback.setter
    def _log_traceback(self, value: Literal[False]) -> None:
        self.whole._log_traceback = value


def parts_of(whole: asyncio.Future[Any], count: int) -> list[Part]:
    """So many parts, which settle ``whole`` together."""
    values: list[Any] = [None] * count
    left: list[None] = [None] * count
    return [Part(whole, values, left, place) for place in range(count)]
