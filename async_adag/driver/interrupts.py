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

import os
import sys
import threading

# What `signal` is made of: without its enums a handler is set in a fifth of a microsecond rather than in ten.
from _signal import default_int_handler, getsignal  # type: ignore[import-not-found]
from _signal import signal as set_handler
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, Self

_SIGINT = 2
_main_thread = threading.main_thread().ident


def _renew() -> None:
    global _main_thread
    _main_thread = threading.main_thread().ident  # in a forked child: the thread that forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def raises_anywhere() -> bool:
    """Whether Ctrl-C would raise wherever it finds this thread, as it does unless a program or loop sees to it."""
    if get_ident() != _main_thread:
        return False
    handler = getsignal(_SIGINT)
    return (handler._handler if type(handler) is Held else handler) is default_int_handler


class Held:
    """A context in which Ctrl-C waits for `check`, or the end. Does nothing on other threads than the main one.

    Attributes:
        noted: whether the signal has come, and `check` would handle it.
        wake: called when the signal comes, to end a wait; has to be harmless at any moment.
    """

    __slots__ = ("_before", "_handler", "_within", "noted", "wake")

    wake: Callable[[], None] | None
    _before: Any
    _handler: Any
    _within: FrameType | None

    def __enter__(self) -> Self:
        # All in one place, and no __init__: this is on the path of every blocking call.
        self.wake = self._before = None
        self.noted = False
        if get_ident() == _main_thread:
            before = getsignal(_SIGINT)
            if before is default_int_handler or callable(before):
                # In code of the user's that runs within another such context: what would be called in the end.
                self._handler = before._handler if type(before) is Held else before
                self._before = before
                self._within = sys._getframe(1)
                set_handler(_SIGINT, self)
        return self

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """What the signal calls instead."""
        if not self._is_open(frame):
            # Something else was raised on the way into `__exit__`, such as another signal's handler does.
            set_handler(_SIGINT, self._before)
            self._handler(number, frame)
            return
        if self.noted:
            self._handler(number, frame)
            return
        self.noted = True
        if self.wake is not None:
            self.wake()

    def _is_open(self, frame: FrameType | None) -> bool:
        while frame is not None and frame is not self._within:
            frame = frame.f_back
        return frame is not None

    def check(self) -> None:
        """Nothing is half done here: handle a signal that has come.

        Raises:
            BaseException: whatever the handler raises; `KeyboardInterrupt`, if nobody has set another one.
        """
        if self.noted:
            self.noted = False
            self._handler(_SIGINT, sys._getframe(1))

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            set_handler(_SIGINT, self._before)
            self._within = None
            if self.noted:
                self.check()
