"""The communicators of users that an actor's share of a graph calls: started with its loop, destroyed with it.

A loop that waits inside one cannot be asked to end. So a thread watches whether the driver has let go of the
graph, and then destroys the communicators under the loop's hands: that ends their calls, if they are made for it.

In the same way a loop may wait, in a method, for a stream that waits for another process. The thread looks now and
then whether such processes have ended, and has the streams go on; but not before the graph is over, as what comes
behind is computed of what never arrived, and nobody is to take it for a result.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Any

from async_adag.channels.rendezvous import HungUp
from async_adag.graph.plan import Membership

_log = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds for the thread to end
_PERIOD_MS = 250  # between two looks at whether peers live


class Communicators:
    """Those of one actor.

    Args:
        memberships: what it is a rank of.
        check_peers: has streams go on that wait for processes that have ended; called by the thread, again and
            again (None: there are no such streams).
        is_over: whether the graph takes no results any more, so that peers may be looked at.
    """

    def __init__(
        self,
        memberships: tuple[Membership, ...],
        check_peers: Callable[[], None] | None = None,
        is_over: Callable[[], bool] = lambda: True,
    ) -> None:
        self._memberships = memberships
        self._check_peers = check_peers
        self._is_over = is_over
        self._started: list[Any] = []
        self._given_up = False  # the driver has let go of the graph
        self._lock = threading.Lock()  # held while they are destroyed, by whichever thread comes first
        self._thread: threading.Thread | None = None
        self._closing = -1

    def start(self, sentinels: list[int]) -> None:
        """Initialize each with the actor's rank, once.

        Args:
            sentinels: descriptors that become readable when the driver is gone, or has let go of the graph.

        Raises:
            HungUp: the driver has let go of the graph meanwhile.
            Exception: what ``initialize`` raised; those that it had initialized are destroyed.
        """
        if not self._memberships and self._check_peers is None:
            return
        try:
            self._closing = os.eventfd(0, os.EFD_CLOEXEC)
            self._thread = threading.Thread(
                target=self._watch, args=(sentinels, self._closing), name="async_adag communicators", daemon=True
            )
            self._thread.start()
            for one in self._memberships:
                # Ours may be destroyed while it is waiting for a rank that never comes.
                early = getattr(one.communicator, "waits_until_destroyed", False)
                if early:
                    self._note(one.communicator)
                one.communicator.initialize(one.rank)
                if not early:
                    self._note(one.communicator)
        except BaseException:
            self.close()
            raise

    def _note(self, communicator: Any) -> None:
        """It is to be destroyed with the others from here on."""
        with self._lock:
            if not self._given_up:
                self._started.append(communicator)
                return
        communicator.destroy()
        raise HungUp("the graph's driver has let go of it")

    def unwatch(self) -> None:
        """End the thread, ahead of closing the sentinels; again is harmless."""
        thread, self._thread = self._thread, None
        closing, self._closing = self._closing, -1
        if thread is not None and thread.ident is not None:
            os.eventfd_write(closing, 1)
            thread.join(_PATIENCE)  # it may be in a destroy() that waits
        elif closing >= 0:
            os.close(closing)

    def close(self) -> None:
        """Destroy each, if that has not been done; what it raises is logged."""
        self.unwatch()
        self._destroy()

    def _watch(self, sentinels: list[int], closing: int) -> None:
        poll = select.poll()
        for fd in (closing, *sentinels):
            poll.register(fd, select.POLLIN)
        period = None if self._check_peers is None else _PERIOD_MS
        while closing not in (ready := dict(poll.poll(period))):
            if ready:
                self._given_up = True
                self._destroy()
                for fd in sentinels:
                    poll.unregister(fd)
                sentinels = []
            if self._check_peers is not None and (self._given_up or self._is_over()):
                self._check_peers()
        os.close(closing)

    def _destroy(self) -> None:
        with self._lock:
            started, self._started = self._started, []
            for communicator in started:
                try:
                    communicator.destroy()
                except Exception:
                    _log.exception("a communicator's destroy() failed")
