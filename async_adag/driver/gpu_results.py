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
        self._completions: Completions | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awaited: dict[asyncio.Future[Any], Any] = {}
        for number, receiver in movers.receivers.items():
            assert isinstance(receiver, Incoming)
            receiver.follow(self._stream)
            edge = f"the edge from {ends.edges.get(number, '')}"
            ends.readers[number] = MovedReader(ends.readers[number], receiver, edge, contextlib.nullcontext)
        for number, placer in movers.placers.items():
            assert isinstance(placer, Placing)
            placer.follow(self._stream)
            ends.readers[number] = StagedReader(ends.readers[number], placer)
        self._receivers = list(movers.receivers.values())
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
        for receiver in self._receivers:
            receiver.close()

    def close(self) -> None:
        """Let go of the device; what is still awaited is settled now, and is there in the order of the streams."""
        self._closed = True
        self._watch.close()
        completions, self._completions = self._completions, None
        if completions is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                completions.close()
        for future, (value, settle) in list(self._awaited.items()):
            with contextlib.suppress(RuntimeError):
                settle(future, value, None)
        self._awaited.clear()
        self._stream.close()

    def _await(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], value: Any, settle: Settle
    ) -> None:
        if self._closed:
            settle(future, value, None)
            return
        if self._loop is not loop:
            if self._completions is not None:
                with contextlib.suppress(RuntimeError):
                    self._completions.close()
            self._loop, self._completions = loop, Completions(self._device, loop, self.poller)
        assert self._completions is not None
        self._awaited[future] = value, settle
        self._completions.future_for(self._stream).add_done_callback(lambda passed: self._done(passed, future))

    def _done(self, passed: asyncio.Future[None], future: asyncio.Future[Any]) -> None:
        if future not in self._awaited:
            return
        value, settle = self._awaited.pop(future)
        error = None if passed.cancelled() else passed.exception()
        settle(future, value, GraphBroken(f"a result cannot be awaited: {error}") if error is not None else None)
