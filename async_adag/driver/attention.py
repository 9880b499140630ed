"""How the event loop learns that results have arrived: by the doorbell, or by looking for a while.

While nothing is in flight, nobody listens. When the first execution is sent, either the channels are armed, so
that their writers ring, or the loop polls: a callback that looks for a few microseconds and calls itself again,
so that whatever else is ready in the loop has its turn in between. It gives up when its time is over or another
execution joins, and arms then.
"""

from __future__ import annotations

import asyncio
from time import monotonic_ns
from typing import TYPE_CHECKING

from async_adag.protocol.polling import Poller

if TYPE_CHECKING:
    from async_adag.driver.engine import Engine

STEP_NS = 5_000  # for so long nothing else runs in the loop


class Attention:
    """What the event loop of a graph listens by. All is called on its thread, under the graph's lock.

    Attributes:
        is_armed: whether everything that is waited for is armed, or a ring is on its way.
        spun: how often results arrived while it polled.
    """

    def __init__(self, engine: Engine, poller: Poller | None) -> None:
        self._engine = engine
        self._poller = poller
        self.is_armed = False
        self.spun = 0
        self._poll = 0  # the number of the poll that is under way; 0: none
        self._polls = 0
        self._began = 0  # when the present wait began; 0: there is none, or it teaches nothing
        self._rang = 0  # when the doorbell last did, where a wait may have ended by it
        self._until = 0
        self._budget = 0

    def expect(self, loop: asyncio.AbstractEventLoop, may_poll: bool) -> None:
        """An execution was sent.

        Args:
            loop: the running event loop.
            may_poll: whether what the loop calls is called to its end: Ctrl-C does not raise before it begins.
        """
        if self.is_armed or self._poll:
            return
        engine = self._engine
        poller = self._poller
        if poller is None:
            pass
        elif poller.rest:
            poller.rest -= 1
            self._began = 0
        else:
            alone = may_poll and engine.is_alone()
            now = self._began = monotonic_ns() if alone else 0
            budget = self._budget = poller.budget(now) if alone else 0
            if budget:
                self._until = now + budget
                self._polls += 1
                self._poll = self._polls
                loop.call_soon(self._go_on, loop, self._poll)
                return
        if engine.arm():
            engine.progress()
        else:
            self.is_armed = True

    def on_ring(self) -> None:
        """The doorbell has rung, so that not everything is armed any more."""
        self.is_armed = False
        self._rang = monotonic_ns() if self._began and not self._poll else 0

    def on_arrival(self) -> None:
        """That ring was for something that has arrived, and did not call the loop up ahead of it."""
        if self._poller is not None and self._rang:
            self._poller.waited(self._rang - self._began, self._budget, False)
            self._began = self._rang = 0

    def forget(self) -> None:
        """Another loop is bound, or none."""
        self.is_armed = False
        self._poll = self._began = self._rang = 0

    def _go_on(self, loop: asyncio.AbstractEventLoop, poll: int) -> None:
        if poll == self._poll:
            self._engine.attend(lambda: self._look(loop))

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        engine = self._engine
        may_read = engine.arrivals.may_read
        now = monotonic_ns()
        pause = min(now + STEP_NS, self._until)
        while not may_read():
            now = monotonic_ns()
            if now >= pause:
                break
        else:
            took = monotonic_ns() - self._began
            poll, self._poll = self._poll, 0  # what is taken in may raise, and may send another execution
            engine.take_in(here=True)
            if engine.ledger.in_flight == 0:
                if self._poller is not None:
                    self._poller.waited(took, took, True)
                self._began = 0
                self.spun += 1
                engine.progress()
                return
            if self._poll or self.is_armed:
                return  # it did, and somebody listens
            self._poll = poll
        if now < self._until and engine.ledger.in_flight == 1:
            loop.call_soon(self._go_on, loop, self._poll)
        else:
            self._poll = 0
            if now < self._until:
                self._began = 0  # it was cut short, and teaches nothing
            engine.progress()
            if not engine.ledger.in_flight:
                self._began = 0
