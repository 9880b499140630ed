"""Results that stay on the driver's GPU: their futures are settled when the device has got there.

Loaded only by a driver that gets such results. A ref's `get` does not wait for the device: what it gives is whole
in the order of the streams that were current then, as everything is that the libraries of the device give.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from async_adag.actor.communicators import Communicators
from async_adag.actor.gpu_edges import Incoming, make_gpu_movers
from async_adag.actor.gpu_staging import Placing
from async_adag.actor.moved import MovedReader, Movers
from async_adag.actor.staged import StagedReader
from async_adag.actor.wiring import Endpoints
from async_adag.errors import GraphBroken
from async_adag.gpu.awaiting import Completions
from async_adag.gpu.cuda import find_device
from async_adag.graph.plan import GpuMove
from async_adag.protocol.polling import Poller

Settle = Callable[[Any, Any, BaseException | None], None]


class GpuResults:
    """The driver's ends of such channels, and the futures of what has arrived and is not there yet.

    Args:
        moves: the channels.
        ends: the driver's channel ends; those of these channels are replaced.
        slots: of the channels' rings, by channel.

    Attributes:
        poller: says how long the event loop looks for a result before the device is to wake it; None: not at all.

    Raises:
        DeviceError: there is no device here.
    """

    def __init__(self, moves: tuple[GpuMove, ...], ends: Endpoints, slots: dict[int, int]) -> None:
        self.poller: Poller | None = None
        movers = Movers()
        try:
            make_gpu_movers(movers, moves, ends.pages, {}, slots)
            self._device = find_device()
            self._stream = self._device.stream()
        except BaseException:
            movers.close()
            raise
        self._watch = Communicators((), movers.check_peers)
        self._closed = False
        self._completions: dict[asyncio.AbstractEventLoop, Completions] = {}  # of loops that were not closed
        self._awaited: dict[asyncio.Future[Any], Any] = {}
        self._incoming: list[Incoming] = []
        for number, receiver in movers.receivers.items():
            assert isinstance(receiver, Incoming)
            receiver.follow(self._stream)
            self._incoming.append(receiver)
            edge = f"the edge from {ends.edges.get(number, '')}"
            ends.readers[number] = MovedReader(ends.readers[number], receiver, edge, contextlib.nullcontext)
        for number, placer in movers.placers.items():
            assert isinstance(placer, Placing)
            placer.follow(self._stream)
            ends.readers[number] = StagedReader(ends.readers[number], placer)
        self._watch.start([])

    def settle(self, future: asyncio.Future[Any], value: Any, settle: Settle) -> None:
        """Have ``settle(future, value, error)`` called once what has arrived so far is there; from any thread.

        Args:
            future: of any event loop that runs.
            value: what has arrived.
            settle: called on the thread of that loop.
        """
        loop = future.get_loop()
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is loop:
                self._await(loop, future, value, settle)
                return
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._await, loop, future, value, settle)

    def receive_no_more(self) -> None:
        """All results have arrived that will: the writers, which wait for that at their end, may let go too."""
        for receiver in self._incoming:
            receiver.close()

    def close(self) -> None:
        """Let go of the device; what is still awaited is settled now, and is there in the order of the streams."""
        self._closed = True
        self._watch.close()
        awaited, self._awaited = self._awaited, {}
        for loop in list(self._completions):
            self._forget(loop)
        for future, (value, settle) in awaited.items():
            with contextlib.suppress(RuntimeError):
                settle(future, value, self._lost())
        self._stream.close()

    def _await(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], value: Any, settle: Settle
    ) -> None:
        if self._closed:
            settle(future, value, self._lost())
            return
        try:
            if loop not in self._completions:
                for other in [other for other in self._completions if other.is_closed()]:
                    self._forget(other)
                self._completions[loop] = Completions(self._device, loop, self.poller)
            passed = self._completions[loop].future_for(self._stream)
        except Exception as error:  # nobody else would hear of it
            settle(future, None, GraphBroken(f"a result cannot be awaited: {error}"))
            return
        self._awaited[future] = value, settle
        passed.add_done_callback(lambda passed: self._done(passed, future))

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._completions.pop(loop).close()

    def _done(self, passed: asyncio.Future[None], future: asyncio.Future[Any]) -> None:
        if future not in self._awaited:
            return
        value, settle = self._awaited.pop(future)
        error = None if passed.cancelled() else passed.exception()
        broken = self._lost() if error is None else GraphBroken(f"a result cannot be awaited: {error}")
        settle(future, value, broken)

    def _lost(self) -> GraphBroken | None:
        """Why what is there only now may not be what was sent: nothing waits for writers that have ended."""
        if any(receiver.is_given_up for receiver in self._incoming):
            return GraphBroken("an actor has died before its result was known to be whole on the GPU")
        return None
