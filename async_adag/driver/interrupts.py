"""Ctrl-C and the books of a graph.

Python calls the handler of a signal between any two steps of the main thread, and the usual one raises there. An
execution that has been sent and not yet been written down, or a frame that was taken and not yet handed on, would
put a graph's books out of step for good. So while the main thread is in a call of a graph's, the signal is only
noted, and whoever waits there is woken; it is handled, by the handler that was there before, at the next place
where nothing is half done: before each wait, and when the call ends.

A second Ctrl-C before that is handled where it finds the thread, so that nobody is locked in by a payload that
never finishes pickling.
"""

from __future__ import annotations

# What `signal` is made of. Without its enums a handler is set in a third of a microsecond rather than in ten.
import _signal  # type: ignore[import-not-found]
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

_SIGINT = 2


def raises_anywhere() -> bool:
    """Whether Ctrl-C would raise wherever it finds this thread, as it does unless a program or loop sees to it."""
    return _is_main_thread() and _signal.getsignal(_SIGINT) is _signal.default_int_handler


def _is_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


class Held:
    """A context in which Ctrl-C waits for `check`, or the end. Does nothing on other threads than the main one.

    Attributes:
        wake: called when the signal comes, to end a wait; has to be harmless at any moment.
    """

    __slots__ = ("_before", "_handler", "_noted", "_within", "wake")

    def __init__(self) -> None:
        self.wake: Callable[[], None] | None = None
        self._before: Any = None
        self._handler: Any = None
        self._within: FrameType | None = None
        self._noted = False

    def __enter__(self) -> Self:
        if _is_main_thread():
            before = _signal.getsignal(_SIGINT)
            if callable(before):
                # In code of the user's that runs within another such context: what would be called in the end.
                self._handler = before._handler if type(before) is Held else before
                self._before = before
                self._within = sys._getframe(1)
                _signal.signal(_SIGINT, self)
        return self

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """What the signal calls instead."""
        if not self._is_open(frame):
            # Something else was raised on the way into `__exit__`, such as another signal's handler does.
            _signal.signal(_SIGINT, self._before)
            self._handler(number, frame)
            return
        if self._noted:
            self._handler(number, frame)
            return
        self._noted = True
        if self.wake is not None:
            self.wake()

    def _is_open(self, frame: FrameType | None) -> bool:
        while frame is not None and frame is not self._within:
            frame = frame.f_back
        return frame is not None

    def has_come(self) -> bool:
        """Whether the signal has come, and `check` would handle it."""
        return self._noted

    def check(self) -> None:
        """Nothing is half done here: handle a signal that has come.

        Raises:
            BaseException: whatever the handler raises; `KeyboardInterrupt`, if nobody has set another one.
        """
        if self._noted:
            self._noted = False
            self._handler(_SIGINT, sys._getframe(1))

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _signal.signal(_SIGINT, self._before)
            self._within = None
            self.check()
