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


class SentinelFired(Exception):
    """A sentinel became readable while waiting."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.fd = fd


class Parking:
    """Where one thread parks. Spins for ``spin_ns`` first, when that is not 0."""

    def __init__(
        self,
        doorbell: Doorbell,
        sentinels: list[int],
        spin_ns: int,
        nudge: Doorbell | None = None,
        network: Network | None = None,
    ) -> None:
        """A place to park.

        Args:
            doorbell: rung by the other ends of this process's channels.
            sentinels: descriptors that become readable when the other side is gone.
            spin_ns: nanoseconds.
            nudge: rung by other threads of this process. Where one of them reads the doorbell, as an event loop
                has to, a ring may be gone before this thread has seen it: then that thread passes the news on.
            network: the connections with other hosts, if there are any; takes its turns here.
        """
        self._network = network
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
        self._spin_ns = spin_ns
        self.parked = 0
        self.spun = 0

    def wait(self, ready: Callable[[], bool], arm: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait until ``ready`` or the doorbell rings; False when the deadline (`time.monotonic`) has passed.

        A ring may be for something else: the caller looks, and waits again.

        Raises:
            SentinelFired: the other side is gone.
        """
        if self._spin_ns and self._spin(ready):
            self.spun += 1
            return True
        if arm():
            return True
        self.parked += 1
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        events = self._epoll.poll(timeout)
        self._look(events)
        if self._network is not None:
            self._network.turn()
        return bool(events)

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

    def _spin(self, ready: Callable[[], bool]) -> bool:
        until = time.monotonic_ns() + self._spin_ns
        while not ready():
            if self._network is not None:
                self._network.turn()
            if time.monotonic_ns() > until:
                return False
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
