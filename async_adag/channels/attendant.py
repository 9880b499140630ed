"""The attendant: a thread that looks after what has to go on while a process's loops compute.

It waits for descriptors and for the time, and calls back. When nothing happens it sleeps until the next time that
somebody has asked for.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
import traceback
from collections.abc import Callable

from async_adag.channels.doorbell import Doorbell

JOIN = 2.0  # seconds that `close` waits for a callback to return


class Attendant:
    """The thread. Callbacks run on it, one at a time.

    Args:
        name: of the thread.
        on_error: called with what a callback raised; the attendant goes on. Logged to stderr when None.
    """

    def __init__(
        self, name: str = "async_adag attendant", on_error: Callable[[BaseException], None] | None = None
    ) -> None:
        self.on_error = on_error
        self._watched: dict[int, Callable[[int], None]] = {}
        self._times: list[_Time] = []
        self._closing = False
        self._finishing = False
        self._gone = False
        self._ending = threading.Lock()
        self._bell = Doorbell.create()
        try:
            self._epoll = select.epoll()
            self._epoll.register(self._bell.fd, select.EPOLLIN | select.EPOLLET)
        except BaseException:
            self._bell.close()
            raise
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` when one of ``events`` (of `select.epoll`) is there; in place of what was
        asked for before. Nothing is watched any more when this is closed.

        Raises:
            OSError: ``fd`` cannot be watched.
        """
        if self._closing:
            return
        known = fd in self._watched
        self._watched[fd] = callback
        if not known:
            try:
                self._epoll.register(fd, events)
                return
            except FileExistsError:
                pass
            except BaseException:
                del self._watched[fd]
                raise
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop watching; harmless when it is not watched. The callback may be running on the thread just now."""
        if self._watched.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except (OSError, ValueError):
                pass  # it was closed meanwhile, or this was

    def every(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` every so many seconds, from then on."""
        with self._ending:
            if not self._gone:
                self._times.append(_Time(time.monotonic() + seconds, seconds, callback))
                self._bell.ring()

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when so many seconds have passed."""
        self._times.append(_Time(time.monotonic() + seconds, math.inf, callback))
        self._bell.ring()

    def finish(self) -> None:
        """End the thread when nothing is watched any more, and let go of its descriptors then; does not wait."""
        self._finishing = True
        self._bell.ring()

    def is_here(self) -> bool:
        """Whether this is the attendant's thread."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the thread and let go of its descriptors; again is harmless. A callback that does not return within
        `JOIN` seconds keeps them until it does.
        """
        self._closing = True
        with self._ending:
            if not self._gone:
                self._bell.ring()
        if self._thread.is_alive():
            if not self.is_here():
                self._thread.join(JOIN)
        else:
            self._let_go()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self._ending = threading.Lock()
        self._closing = True
        self._let_go()

    def _let_go(self) -> None:
        with self._ending:
            self._gone = True
            self._watched.clear()
            self._times.clear()
            self._epoll.close()
            self._bell.close()

    def _run(self) -> None:
        while not self._closing:
            try:
                events = self._epoll.poll(self._until_next())
            except (OSError, ValueError):
                break
            for fd, what in events:
                callback = self._watched.get(fd)
                if callback is not None and not self._closing:
                    self._call(callback, what)
            self._look_at_times()
            if self._finishing and not self._watched:
                break
        if os.getpid() == self._process:
            self._let_go()

    def _until_next(self) -> float | None:
        if not self._times:
            return None
        return max(0.0, min(each.at for each in self._times) - time.monotonic())

    def _look_at_times(self) -> None:
        now = time.monotonic()
        for each in list(self._times):
            if each.at <= now and not self._closing:
                each.at = now + each.seconds
                if each.seconds == math.inf:
                    self._times.remove(each)
                self._call(each.callback)

    def _call(self, callback: Callable[..., None], *arguments: int) -> None:
        try:
            callback(*arguments)
        except BaseException as error:
            if self.on_error is None:
                traceback.print_exc()
            else:
                self.on_error(error)


class _Time:
    __slots__ = ("at", "callback", "seconds")

    def __init__(self, at: float, seconds: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.seconds = seconds
        self.callback = callback
