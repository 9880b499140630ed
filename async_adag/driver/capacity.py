"""Waiting for a place: first come, first served, for tasks and threads alike.

A place is granted, not taken: whoever frees it reserves it for the first in line, so that nobody who comes later
can slip in between the grant and the moment when the waiter runs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from async_adag.protocol.ledger import Ledger


class Waiter:
    """Somebody in line. Of a task, ``future`` wakes it; of a thread, None: it looks when it is woken."""

    __slots__ = ("error", "future", "granted")

    def __init__(self, future: asyncio.Future[None] | None = None) -> None:
        self.future = future
        self.granted = False
        self.error: BaseException | None = None

    def of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it is a task of this loop."""
        return self.future is not None and self.future.get_loop() is loop

    def is_lost(self) -> bool:
        """Whether the task can never run again, as its loop is closed."""
        return self.future is not None and self.future.get_loop().is_closed()

    def wake(self) -> None:
        """Wake the task, from whichever thread."""
        future = self.future
        if future is None or future.done():
            return
        loop = future.get_loop()
        try:
            loop.call_soon_threadsafe(_resolve, future)
        except RuntimeError:
            pass  # its loop is closed: nobody waits any more


def _resolve(future: asyncio.Future[None]) -> None:
    try:
        if not future.done():
            future.set_result(None)
    except asyncio.InvalidStateError:
        pass  # cancelled just now, by a signal's handler


class Line:
    """Those who wait for a place, in order. Called under the graph's lock."""

    __slots__ = ("_granted", "_ledger", "_waiting", "waited")

    def __init__(self, ledger: Ledger[Any]) -> None:
        self._ledger = ledger
        self._waiting: deque[Waiter] = deque()
        self._granted: dict[Waiter, None] = {}  # tasks that have not run since, in order
        self.waited = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    def join(self, waiter: Waiter) -> None:
        """Stand at the end."""
        self._waiting.append(waiter)
        self.waited += 1

    def join_before_tasks(self, waiter: Waiter, loop: asyncio.AbstractEventLoop) -> None:
        """Stand before the tasks of a loop, of which none can run before this waiter has been given a place.

        If all places that the loop's tasks might free by running are theirs already, the last of them goes back to
        the front of the line without its place.
        """
        for granted in reversed(self._granted):
            if granted.of(loop):
                self.leave(granted)
                self._waiting.appendleft(granted)
                break
        first = next((place for place, other in enumerate(self._waiting) if other.of(loop)), len(self._waiting))
        self._waiting.insert(first, waiter)
        self.waited += 1

    def grant_next(self) -> None:
        """Reserve a place for the first in line; one whose loop is closed is dropped."""
        waiter = self._waiting.popleft()
        if waiter.is_lost():
            return
        waiter.granted = True
        self._ledger.reserve()
        if waiter.future is not None:
            self._granted[waiter] = None
        waiter.wake()

    def reclaim(self) -> None:
        """Take back places whose loops were closed before the tasks ran."""
        for waiter in [waiter for waiter in self._granted if waiter.is_lost()]:
            self.leave(waiter)

    def take(self, waiter: Waiter) -> None:
        """Use the granted place: it is the caller's from here on."""
        waiter.granted = False
        self._granted.pop(waiter, None)

    def leave(self, waiter: Waiter) -> None:
        """Give up: leave the line, or give the granted place back."""
        if waiter.granted:
            self._ledger.release()
            self.take(waiter)
        elif waiter in self._waiting:
            self._waiting.remove(waiter)

    def dismiss(self, refusal: Callable[[], BaseException]) -> None:
        """There will be no more places: everybody in line gets an error of ``refusal``, each one of their own."""
        while self._waiting:
            waiter = self._waiting[0]
            waiter.error = refusal()
            waiter.wake()
            self._waiting.popleft()  # last: what is raised before leaves it here, to be told by the next call
