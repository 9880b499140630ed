"""Threads that wait for a graph: for a result, for a place, for the end.

Of several, one parks at the doorbell and takes in what arrives, for all; the others wait to be told, and one of
them parks when it leaves. Ctrl-C ends the main thread's wait, whichever of the two it does (`interrupts.py`).
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from async_adag.channels.doorbell import Doorbell
from async_adag.channels.parking import Parking, SentinelFired
from async_adag.channels.pollers import make_poller
from async_adag.driver.interrupts import Held
from async_adag.driver.reasons import in_the_midst
from async_adag.errors import ExecutionTimeout

LONGEST_SLEEP = 1.0  # seconds: a signal that the system call has missed is handled after that

if TYPE_CHECKING:
    from async_adag.driver.engine import Engine
    from async_adag.driver.results import GraphRef


class Blocking:
    """The waiting threads of one graph."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._followers: list[threading.Lock] = []  # each is let go to wake its thread, once
        self._leader = 0  # the thread that is parked
        # Made at once: an execution needs no descriptor, so that it goes on where none is left.
        self._nudge = Doorbell.create()  # wakes the thread that is parked there
        deployment = engine.deployment
        try:
            self._parking = Parking(
                deployment.ends.doorbell,
                [deployment.supervision.fd],
                make_poller(engine.options.poll_ns, deployment.board, engine.is_alone),
                self._nudge,
                deployment.ends.network,
                LONGEST_SLEEP,
            )
        except BaseException:
            self._nudge.close()
            raise
        self._warned = False

    def tell(self) -> None:
        """Let waiting threads look again. Under the graph's lock."""
        self._wake_followers()
        if self._leader:
            self._nudge.ring()

    def _wake_followers(self) -> None:
        while self._followers:
            _let_go(self._followers.pop())

    def waits(self) -> tuple[int, int]:
        """How often a thread parked, and how often it got its news while spinning."""
        return self._parking.parked, self._parking.spun

    def close(self) -> None:
        """Let go of descriptors. Under the graph's lock."""
        self._parking.close()
        self._nudge.close()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self._followers = []
        self._leader = 0
        self.close()

    def wait_for(self, ref: GraphRef, timeout: float | None) -> None:
        """Wait until ``ref`` is settled. Raises as `GraphRef.get`."""
        self._wait_for([ref], ref.is_settled, timeout)

    def wait_for_all(self, refs: list[GraphRef], timeout: float | None) -> None:
        """Wait until all ``refs`` of an execution are settled, or one has failed. Raises as `GraphRef.get`."""

        def done() -> bool:
            return any(ref._error is not None for ref in refs) or all(ref._settled for ref in refs)

        self._wait_for(refs, done, timeout)

    def _wait_for(self, refs: list[GraphRef], done: Callable[[], bool], timeout: float | None) -> None:
        """Wait for refs of one execution: for ``timeout``, or until its deadline, which settles them."""
        engine = self._engine
        if timeout is None:
            timeout = engine.options.get_timeout
        end = None if timeout is None else time.monotonic() + timeout
        deadline = refs[0].deadline
        misses = deadline is not None and (end is None or deadline < end)
        with Held() as held:
            if timeout != 0:
                self.check_loop()
            if self.wait(done, deadline if misses else end, held):
                return
            computing = engine.describe_computing()
            if not misses:
                raise ExecutionTimeout(f"execution {refs[0]._seq} has not arrived within {timeout:g} s{computing}")
            first = refs[0]
            missed = f"execution {first._seq} missed its deadline of {first.limit:g} s and is abandoned{computing}"
            with engine.lock:
                for ref in refs:
                    ref.settle(None, ExecutionTimeout(missed))

    def wait(self, done: Callable[[], bool], deadline: float | None, held: Held) -> bool:
        """Take in frames until ``done``; False when the deadline (`time.monotonic`) has passed first.

        Raises:
            BaseException: what a handler of Ctrl-C raised, which came while ``held``; nothing is half done.
        """
        engine = self._engine
        has_left = False  # whether an actor has: whoever parks is told, so that nobody asks the system each time
        while True:
            if held.noted:
                held.check()
            with engine.lock:
                if (engine.is_taking_in or engine.inputs.is_sending) and engine.doubt is None:
                    raise in_the_midst()  # by this thread, as the lock is its own: it would wait for itself
                if has_left:
                    has_left = False
                    engine.notice_departures()
                engine.take_in()
                if done():
                    return True
                engine.life.check_process()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    engine.notice_departures()  # who does not wait is not told
                    return done()
                me = threading.get_ident()
                leader = self._leader
                follow = threading.Lock() if leader not in (0, me) else None
                if follow is not None:
                    follow.acquire()
                    self._followers.append(follow)
                else:
                    self._leader = me
            if follow is not None:
                self._follow(follow, left, held)
                continue
            held.wake = self._nudge.ring
            try:
                if not held.noted:
                    self._parking.wait(engine.arrivals.may_read, engine.arm_or_end, deadline)
            except SentinelFired:
                has_left = True
            except (OSError, ValueError):
                if engine.life.is_open():
                    raise
                # Torn down by another thread, and the descriptors with it: the next turn says so.
            finally:
                held.wake = None
                with engine.lock:
                    self._leader = leader
                    if leader:
                        self._nudge.ring()  # in a signal's handler: the wait that it interrupts has to look again
                    if self._followers:
                        self._wake_followers()

    def _follow(self, turn: threading.Lock, left: float | None, held: Held) -> None:
        """Wait until somebody wakes this thread, which lets go of ``turn``, or for a while."""
        held.wake = lambda: _let_go(turn)
        try:
            if not held.noted:
                turn.acquire(timeout=LONGEST_SLEEP if left is None else min(left, LONGEST_SLEEP))
        finally:
            held.wake = None
            with self._engine.lock:
                if turn in self._followers:
                    self._followers.remove(turn)

    def is_on_own_loop(self) -> bool:
        """Whether this is a blocking moment on the event loop that runs nodes of this very graph."""
        own = self._engine.deployment.own_loop
        return own is not None and own is asyncio._get_running_loop()

    def check_own_loop(self, instead: str) -> None:
        """Before a blocking wait, where its like is written ``instead`` in a task.

        Raises:
            RuntimeError: the wait would be for ever, as a node of this graph runs on that very loop.
        """
        if self.is_on_own_loop():
            raise RuntimeError(
                "a node of this graph runs on this very event loop, so that a blocking call here would wait for "
                f"ever: use `{instead}`"
            )

    def check_loop(self) -> None:
        """Before a blocking wait: warn, once, where it would stop an event loop.

        Raises:
            RuntimeError: as `check_own_loop`.
        """
        if asyncio._get_running_loop() is None:
            return
        self.check_own_loop("await compiled.execute_async(...)")
        if not self._warned:
            self._warned = True
            warnings.warn(
                "a blocking call on the thread of a running event loop stops every task there; use `await "
                "compiled.execute_async(...)` instead",
                RuntimeWarning,
                stacklevel=_stack_level(),
            )


def _let_go(turn: threading.Lock) -> None:
    try:
        turn.release()
    except RuntimeError:
        pass  # a signal's handler was first


def _stack_level() -> int:
    """How far up the stack the caller's own code is, for a warning."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and __package__.partition(".")[0] in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
        level += 1
    return level
