"""The event loop that a graph serves: watches the doorbell and the supervision there, and settles its futures.

One running loop at a time. A loop that was closed is forgotten, and one that merely stands still gives way, so
that a graph can outlive loops, as pytest makes them.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from async_adag.driver.interrupts import raises_anywhere

if TYPE_CHECKING:
    from async_adag.driver.engine import Engine

Future = asyncio.Future[Any]


class _Hold:
    """Keeps the compiled graph alive while tasks wait for its executions.

    Only the event loop has it, so that it goes with a loop that is closed, and lets go of what nobody can await.
    """

    __slots__ = ("__weakref__", "_engine", "owner")

    def __init__(self, engine: Engine, owner: object | None) -> None:
        self._engine = engine
        self.owner = owner

    def on_departure(self) -> None:
        """What the event loop does when an actor has left."""
        self._engine.on_departure()


class LoopBinding:
    """Which loop a graph is bound to. All but `unbind` is called under the graph's lock."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0  # that last ran it, and used the graph
        self._leaving: asyncio.AbstractEventLoop | None = None  # is to let go of the descriptors, at the end
        self._left = threading.Event()  # it has
        self._fds: list[int] = []
        self._hold: Callable[[], _Hold | None] = _no_hold
        self.is_raw = False  # whether Ctrl-C raises in the middle of whatever this loop runs

    def bind(self) -> asyncio.AbstractEventLoop:
        """The running loop, bound.

        Raises:
            RuntimeError: no loop runs here, or the graph serves another running loop.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            self._note_thread()
            return loop
        before = self._hold()
        owner = before.owner if before is not None else None  # tasks of a loop that stands still may go on
        del before
        if self._loop is not None and not self._loop.is_closed():
            if self._loop.is_running():
                raise RuntimeError(
                    "this graph serves another running event loop: use it from that loop, compile the DAG again "
                    "for this one, or call execute() from threads"
                )
            self._unwatch(self._loop)
        engine = self._engine
        engine.attention.forget()
        hold = _Hold(engine, owner)
        self._hold = weakref.ref(hold)
        self._loop = loop
        self._thread = threading.get_ident()
        self.is_raw = raises_anywhere()
        # Bound methods of the engine: it lives until the graph is torn down or dropped, which unbinds them.
        deployment = engine.deployment
        self._fds = [deployment.ends.doorbell.fd, deployment.supervision.fd]
        loop.add_reader(self._fds[0], engine.on_doorbell)
        loop.add_reader(self._fds[1], hold.on_departure)
        if deployment.ends.network is not None:
            self._fds.append(deployment.ends.network.fileno())
            loop.add_reader(self._fds[2], engine.on_doorbell)
        self.settle_in()
        return loop

    def _note_thread(self) -> None:
        """A loop may be run by one thread after another."""
        thread = threading.get_ident()
        if thread != self._thread:
            self._thread = thread
            self.is_raw = raises_anywhere()

    def quiet(self) -> asyncio.AbstractEventLoop | None:
        """The running loop, where Ctrl-C does not raise in the middle of what runs here; None where it may, as the
        loop is raw, or not bound yet.
        """
        loop = _get_running_loop()  # a system call, in Python 3.11: once for each execution
        if loop is self._loop and not self.is_raw and threading.get_ident() == self._thread:
            return loop
        return None

    def settle_in(self) -> None:
        """See to it that the doorbell will ring for whatever is waited for now."""
        if self.is_here():
            self._engine.progress()

    def keep(self, owner: object) -> None:
        """Keep the compiled graph alive while tasks wait for its executions."""
        hold = self._hold()
        if hold is not None:
            hold.owner = owner

    def release(self) -> None:
        """Nothing is in flight: whether the graph lives is up to those who hold it."""
        hold = self._hold()
        if hold is not None:
            hold.owner = None

    def is_here(self) -> bool:
        """Whether this runs on the bound loop, whichever thread that is run by now."""
        return self._loop is not None and _get_running_loop() is self._loop

    def settle(self, future: Future, value: Any, error: BaseException | None, here: bool) -> None:
        """Settle a future, now if ``here`` (`is_here`) and of this loop, else on its own loop's thread.

        One that is done was abandoned.
        """
        loop = future.get_loop()
        if here and loop is self._loop:
            if error is not None:
                settle_here(future, value, error)
            elif not future.done():
                try:
                    future.set_result(value)
                except asyncio.InvalidStateError:
                    pass  # as in `settle_here`
                except RuntimeError:
                    if not loop.is_closed():
                        raise  # else nobody waits any more
            return
        try:
            loop.call_soon_threadsafe(settle_here, future, value, error)
        except RuntimeError:
            pass  # its loop is closed: nobody waits any more

    def unbind(self, then: Callable[[], None], wait: bool) -> None:
        """Stop watching, then call ``then``: on the loop's thread if the loop runs, since only there may a
        reader be removed, and it has to be before its descriptor is closed. Again is harmless, and calls it again.
        """
        with self._engine.lock:
            is_first = self._loop is not None
            if is_first:
                self._leaving, self._loop = self._loop, None
            loop = self._leaving
        if not _runs_elsewhere(loop):
            self._let_go(then)
            return
        assert loop is not None
        if is_first:
            try:
                loop.call_soon_threadsafe(self._let_go, then)
            except RuntimeError:
                self._let_go(then)  # it was closed meanwhile
                return
        if wait and not self._left.wait(1.0) and not _runs_elsewhere(loop):  # bounded: it may wait for this thread
            self._let_go(then)

    def _let_go(self, then: Callable[[], None]) -> None:
        with self._engine.lock:
            loop, self._leaving = self._leaving, None
            if loop is not None and not loop.is_closed():
                self._unwatch(loop)
            then()
        self._left.set()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`: the loop's epoll is the parent's too, so nothing is taken off it."""
        self._loop = self._leaving = None
        self._fds = []
        self.release()

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        for fd in self._fds:
            loop.remove_reader(fd)
        self._fds = []


def _runs_elsewhere(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Whether a loop is run by another thread now."""
    return loop is not None and loop.is_running() and loop is not _get_running_loop()


def _no_hold() -> None:
    """What a dead weak reference gives, for a graph that no loop has served yet."""


def settle_here(future: Future, value: Any, error: BaseException | None) -> None:
    """Settle a future on its loop's thread; one that is done stays as it is."""
    if future.done():
        return
    try:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
            future._log_traceback = False  # a failure that nobody awaits is nobody's business
    except asyncio.InvalidStateError:
        pass  # cancelled just now: of Ctrl-C, `asyncio.run` makes a cancellation, in the signal's handler
    except RuntimeError:  # its callbacks could not be scheduled
        if not future.get_loop().is_closed():
            raise
        future._log_traceback = False
