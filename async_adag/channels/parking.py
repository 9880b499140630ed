"""Parking: how a thread waits for its channels.

One descriptor, the doorbell, stands for all of them; sentinels (a pidfd, a connection) end the wait when the
other side is gone. The doorbell is watched edge-triggered, so that a wake-up is one system call: its counter is
never read.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from async_adag.channels.doorbell import Doorbell
from async_adag.channels.network import Network
from async_adag.protocol.polling import Poller

_CHECK_NS = 1_000_000  # a wait that polls for longer looks at its descriptors that often
_LONGEST = 86_400  # seconds: epoll counts milliseconds in 32 bits


class SentinelFired(Exception):
    """A sentinel became readable while waiting."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.fd = fd


class Parking:
    """Where one thread parks. ``poller`` tells for how long it polls first, if it is to."""

    def __init__(
        self,
        doorbell: Doorbell,
        sentinels: list[int],
        poller: Poller | None = None,
        nudge: Doorbell | None = None,
        network: Network | None = None,
        longest: float = _LONGEST,
    ) -> None:
        """A place to park.

        Args:
            doorbell: rung by the other ends of this process's channels.
            sentinels: descriptors that become readable when the other side is gone.
            poller: asked before each wait, and told how it went.
            nudge: rung by other threads of this process. Where one of them reads the doorbell, as an event loop
                has to, a ring may be gone before this thread has seen it: then that thread passes the news on.
            network: the connections with other hosts, if there are any; takes its turns here.
            longest: seconds after which a wait ends early, if nothing else ends it. Python handles signals in
                between: one that comes just before the system call, or that the system gives to another thread,
                ends no sleep.
        """
        self._network = network
        self._longest = longest
        self._bells = {bell.fd for bell in (doorbell, nudge) if bell is not None}
        self._epoll = select.epoll()
        try:
            for fd in self._bells:
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            for fd in sentinels:
                self._epoll.register(fd, select.EPOLLIN)
            if network is not None:
                self._bells.add(network.fileno())
                self._epoll.register(network.fileno(), select.EPOLLIN)
        except BaseException:
            self._epoll.close()
            raise
        self._poller = poller
        self._began = self._polled = 0  # of a wait that goes on: when it began, and for how long it has polled
        self._goes_on = False  # whether the last sleep ended early
        self.parked = 0
        self.spun = 0

    def wait(self, ready: Callable[[], bool], arm: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait until ``ready`` or the doorbell rings; False when neither was by the deadline (`time.monotonic`).

        A ring may be for something else, and a wait may end early: the caller looks, and waits again.

        Raises:
            SentinelFired: the other side is gone.
        """
        poller = self._poller
        if poller is None:
            return arm() or self._park(deadline)
        if poller.rest:
            poller.rest -= 1
            return arm() or self._park(deadline)
        now = time.monotonic_ns()
        began, polled = self._began or now, self._polled
        self._began = self._polled = 0
        budget = poller.budget(now)
        if budget and self._poll(ready, now + budget, deadline):
            self.spun += 1
            ended = time.monotonic_ns()
            poller.waited(ended - began, polled + ended - now, True)
            return True
        polled += budget
        if arm():
            poller.waited(time.monotonic_ns() - began, polled, False)
            return True
        woken = self._park(deadline)
        if woken and not ready():  # called up ahead of the news: the wait goes on
            self._began, self._polled = began, polled
        else:
            poller.waited(time.monotonic_ns() - began, polled, False)
        return woken

    def _park(self, deadline: float | None) -> bool:
        if not self._goes_on:
            self.parked += 1
        timeout = self._longest
        if deadline is not None:
            timeout = min(max(0.0, deadline - time.monotonic()), timeout)
        events = self._epoll.poll(timeout)
        self._goes_on = not events and timeout == self._longest
        for fd, _ in events:
            if fd not in self._bells:
                raise SentinelFired(fd)
        if self._network is not None:
            self._network.turn()
        return bool(events) or self._goes_on

    def check(self) -> None:
        """Look at the sentinels without waiting.

        Raises:
            SentinelFired: the other side is gone.
        """
        self._look(self._epoll.poll(0))

    def _look(self, events: list[tuple[int, int]]) -> None:
        for fd, _ in events:
            if fd not in self._bells:
                raise SentinelFired(fd)

    def _poll(self, ready: Callable[[], bool], until: int, deadline: float | None) -> bool:
        """Look for news, or a ring, for a while; False when there was neither. Times as on `time.monotonic_ns`."""
        if deadline is not None:
            until = min(until, int(deadline * 1e9))
        while True:
            check = time.monotonic_ns() + _CHECK_NS
            pause = min(check, until)
            while not ready():
                if self._network is not None:
                    self._network.turn()
                if time.monotonic_ns() >= pause:
                    break
            else:
                return True
            if pause == until:
                return False
            events = self._epoll.poll(0)
            if events:
                self._look(events)
                return True

    def forget(self, fd: int) -> None:
        """Stop watching a sentinel; harmless when it is not watched."""
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass

    def close(self) -> None:
        """Let go of the descriptor."""
        self._epoll.close()
