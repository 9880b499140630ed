"""Awaiting the device: futures that are done when a stream has got where it was when they were made.

The event loop watches the eventfds of lanes (`wakeups`). A failed device may skip what would ring them, so a timer
asks it while anything is awaited. Being rung takes an interrupt and the waking of a thread. Whoever has a core for
it may have the loop look for a while first: by a callback that asks the device for a few microseconds and calls
itself again, while nothing else is awaited.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any

from async_adag.gpu.interface import Device, DeviceError, Stream
from async_adag.gpu.wakeups import Lane, retire, sweep
from async_adag.protocol.polling import Poller

WATCH_S = 0.25
"""How often the device is asked whether it has failed, while something is awaited."""


STEP_NS = 5_000
"""For so long nothing else runs in the loop."""


class _Watched:
    """A lane, the futures of the places that it is pending for, and the stream in which they are."""

    __slots__ = ("futures", "lane", "stream")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.futures: deque[asyncio.Future[None]] = deque()
        self.stream = 0


class Completions:
    """Futures of what was issued to a device, in one event loop; for the thread that runs it.

    Costs the loop one descriptor for each stream that is awaited at the same time as others. The first future of a
    process takes a tenth of a second, unless `host_function.ring_address` was called before, on any thread.
    """

    def __init__(
        self, device: Device, loop: asyncio.AbstractEventLoop | None = None, poller: Poller | None = None
    ) -> None:
        """Begin.

        Args:
            device: what is awaited.
            loop: the running one unless given.
            poller: says for how long the loop looks before it is to be rung; None: not at all.
        """
        self._device = device
        self._loop = loop or asyncio.get_running_loop()
        self._poller = poller
        self._polled: _Watched | None = None  # what the loop looks at; nothing else is awaited
        self._poll = 0  # the number of the last poll
        self._began = 0  # when the present wait began; 0: there is none, or it teaches nothing
        self._until = 0
        self._budget = 0
        self._busy: dict[int, _Watched] = {}
        self._idle: list[_Watched] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        device.enter()
        sweep()

    def future_for(self, stream: Stream) -> asyncio.Future[None]:
        """A future that is done when all that was issued to ``stream`` so far is. Cancelling it stops nothing.

        It fails with `DeviceError` if the device fails before, or when this is closed; a failure that nobody
        awaits logs nothing.

        Raises:
            DeviceError: the device has failed already; or this is closed.
            OSError: no descriptor is left.
        """
        if self._closed:
            raise DeviceError("the device cannot be awaited: this was closed")
        future: asyncio.Future[None] = self._loop.create_future()
        self._stop_polling()
        alone = not self._busy
        if not alone:
            self._began = 0  # what the wait that was alone takes now teaches nothing
        watched = self._busy.get(stream.handle) or self._take(stream.handle)
        try:
            if watched.lane.follow(stream, quietly=alone and self._poller is not None):
                if alone:
                    self._begin(watched)
                watched.futures.append(future)
                self._watch()
            else:
                future.set_result(None)
        finally:
            if not watched.futures:
                self._rest(watched)
        return future

    def _begin(self, watched: _Watched) -> None:
        """The only wait there is has begun: look for it, or have it rung for."""
        self._began = self._budget = 0
        poller = self._poller
        if poller is None:
            return
        if poller.rest:
            poller.rest -= 1
        else:
            self._began = monotonic_ns()
            self._budget = poller.budget(self._began)
        if self._budget:
            self._until = self._began + self._budget
            self._polled = watched
            self._poll += 1
            self._loop.call_soon(self._look_closely, self._poll)
        else:
            watched.lane.ring()

    def _stop_polling(self) -> None:
        """Have it rung for."""
        watched, self._polled = self._polled, None
        if watched is None:
            return
        try:
            watched.lane.ring()
        except DeviceError as error:
            del self._busy[watched.stream]
            self._give_up(watched, error)

    def _look_closely(self, poll: int) -> None:
        watched = self._polled
        if watched is None or poll != self._poll:
            return
        now = monotonic_ns()
        pause = min(now + STEP_NS, self._until)
        try:
            while not watched.lane.has_come():
                now = monotonic_ns()
                if now >= pause:
                    break
            else:
                self._polled = None
                _finish(watched.futures.popleft())
                self._rest(watched)
                self._learn(hit=True)
                return
        except DeviceError as error:
            self._polled = None
            del self._busy[watched.stream]
            self._give_up(watched, error)
            return
        if now < self._until:
            self._loop.call_soon(self._look_closely, poll)
        else:
            self._stop_polling()

    def _learn(self, *, hit: bool) -> None:
        """The only wait there was is over."""
        if self._began and self._poller is not None:
            took = monotonic_ns() - self._began
            self._poller.waited(took, took if hit else self._budget, hit)
        self._began = 0

    def close(self) -> None:
        """Stop: what is still awaited fails. Again is harmless.

        A lane that the device has yet to ring is closed when it has been, which this loop looks to, or whoever
        awaits a device in this process next.
        """
        self._closed = True
        self._polled = None
        error = DeviceError("no longer awaited: closed")
        for watched in [*self._busy.values(), *self._idle]:
            self._give_up(watched, error)
        self._busy.clear()
        self._idle.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch()

    def _take(self, stream: int) -> _Watched:
        """A lane for a stream that has none."""
        if self._idle:
            watched = self._idle.pop()
        else:
            watched = _Watched(Lane(self._device))
            self._loop.add_reader(watched.lane.fd, self._rung, watched)
        watched.stream = stream
        self._busy[stream] = watched
        return watched

    def _rest(self, watched: _Watched) -> None:
        if self._busy.pop(watched.stream, None) is not None:
            self._idle.append(watched)

    def _give_up(self, watched: _Watched, error: DeviceError) -> None:
        for future in watched.futures:
            if not future.done():
                future.set_exception(error)
                future.exception()  # told, as asyncio sees it: nobody has to await it
        watched.futures.clear()
        self._loop.remove_reader(watched.lane.fd)
        retire(watched.lane)

    def _rung(self, watched: _Watched) -> None:
        """The loop found the eventfd of a lane readable."""
        try:
            for _ in range(watched.lane.arrived()):
                _finish(watched.futures.popleft())
        except DeviceError as error:
            del self._busy[watched.stream]
            self._give_up(watched, error)
            return
        if not watched.futures:
            self._rest(watched)
        if not self._busy:
            self._learn(hit=False)

    def _watch(self) -> None:
        """Have the timer run while anything is pending, here or in lanes that were retired."""
        if self._timer is None and (self._busy or sweep()):
            self._timer = self._loop.call_later(WATCH_S, self._look)

    def _look(self) -> None:
        self._timer = None
        if monotonic_ns() > self._until:
            self._stop_polling()  # an interrupt has come instead of the callback
        for watched in list(self._busy.values()):
            try:
                for number in range(watched.lane.passed()):
                    _finish(watched.futures[number])  # its ring is late; it will be taken in all the same
            except DeviceError as error:
                del self._busy[watched.stream]
                self._give_up(watched, error)
        self._watch()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, tuple[Completions, int]]]
_shared = weakref.WeakKeyDictionary()


async def wait_for(device: Device, streams: Sequence[Stream]) -> None:
    """Return when all that was issued to each of ``streams`` so far is done; nothing stays behind.

    Raises:
        DeviceError: the device has failed.
    """
    mine = _shared.setdefault(asyncio.get_running_loop(), {})
    completions, users = mine.get(device.identity) or (Completions(device), 0)
    mine[device.identity] = (completions, users + 1)
    try:
        for future in [completions.future_for(stream) for stream in streams]:
            await future
    finally:
        _, users = mine[device.identity]
        mine[device.identity] = (completions, users - 1)
        if users == 1:
            del mine[device.identity]
            completions.close()


async def completed(stream: Any = None) -> None:
    """Return when the work issued so far is done on the device, without blocking the event loop meanwhile.

    But for the first time in a process, where the device is looked for, which takes some tenths of a second.

    Args:
        stream: a stream of torch or of cupy, or the number of one (its cudaStream_t); by default the current ones
            of both, as far as they are in use, on this thread and its current device.

    Raises:
        DeviceError: there is no device that can be used, or it has failed.
        TypeError: ``stream`` is none.
    """
    from async_adag.gpu.arrays import current_streams, handle_of
    from async_adag.gpu.cuda import find_device

    device = find_device()
    handles = current_streams(device.ordinal) if stream is None else [handle_of(stream)]
    await wait_for(device, [device.adopt(handle) for handle in handles])
