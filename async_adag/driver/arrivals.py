"""What comes back: frames of the results, each matched to its execution and handed to whoever waits for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from async_adag.actor.records import Recorder
from async_adag.actor.traced import TracedReader
from async_adag.channels.failures import annotate, decode_failure
from async_adag.channels.interface import STOP, Failure, Reader
from async_adag.driver.event_loop import LoopBinding, settle_here
from async_adag.driver.joint import Part
from async_adag.driver.reasons import Reason, channel_failure
from async_adag.errors import AdagError, RemoteError
from async_adag.graph.plan import Output, Plan
from async_adag.protocol.frame import ChannelError, FrameError
from async_adag.protocol.ledger import Ledger

if TYPE_CHECKING:
    from async_adag.driver.gpu_results import GpuResults

Sinks = list[Any]
"""What waits for an execution: for each output a future, a part of one (`joint.py`), or a weak reference to a
`GraphRef`.

A ref holds the graph. If the engine held the ref, a graph whose refs were dropped would be held for ever, by the
finalizer that is to tear it down.
"""


class Arrivals:
    """The driver's reading ends. All but the making is done under the graph's lock.

    Args:
        plan: of the graph.
        readers: the reading ends, by channel.
        ledger: which executions are in flight.
        loop: settles futures.
        may_stop: whether a channel may end with `STOP` now.
        on_gpu: settles futures of results that stay on the driver's GPU; None where there are none.

    Attributes:
        is_partial: whether only one of the channels that are waited for is armed.
    """

    def __init__(
        self,
        plan: Plan,
        readers: dict[int, Reader],
        ledger: Ledger[Sinks],
        loop: LoopBinding,
        may_stop: Callable[[], bool],
        on_gpu: GpuResults | None = None,
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._loop = loop
        self._may_stop = may_stop
        results = plan.results()
        self._results: list[tuple[int, Reader, Callable[[], bool]]] = [
            (place, readers[channel.number], readers[channel.number].may_read)
            for place, channel in enumerate(results)
        ]
        self._routes = [
            [
                (number, output.position)
                for number, output in enumerate(plan.outputs)
                if isinstance(output, Output) and output.channel == channel.number
            ]
            for channel in results
        ]
        self.is_partial = False
        self._half: Sinks | None = None  # of a frame whose sinks are not all settled
        self._counts = [len(channel.values) for channel in results]
        self._on_gpu = [on_gpu if channel.gpu or channel.to_gpu else None for channel in results]

    def take_in(self, here: bool) -> Reason | None:
        """Take in every frame that has arrived, and settle its sinks.

        Args:
            here: whether this is the thread of the graph's event loop.

        Returns:
            Why the graph is broken, where a channel has no frame in it.
        """
        channel = 0
        try:
            for channel, reader, may_read in self._results:
                while may_read():
                    self._arrive(channel, reader, here)
                    if not self._results:
                        return None  # whoever was told held the graph: it was let go of, and these ends are closed
        except ChannelError as error:
            return channel_failure(self._plan, self._plan.results()[channel], str(error))
        return None

    def _arrive(self, channel: int, reader: Reader, here: bool) -> None:
        error: BaseException | None = None
        ending: BaseException | None = None
        value: Any = None
        try:
            value = reader.read()
        except ChannelError:
            raise
        except BaseException as unreadable:
            if reader.taken() == self._ledger.taken(channel):
                raise  # it came before the frame was consumed
            annotate(unreadable, "async_adag: the result could not be unpickled here")
            error = unreadable
        if type(value) is Failure:
            try:
                error = decode_failure(value.encoded)
            except BaseException as unreadable:
                annotate(unreadable, "async_adag: the error of a node could not be unpickled here")
                error = unreadable
        elif value is STOP:
            if not self._may_stop():
                raise FrameError("a stop that nobody sent")
            return
        elif (count := self._counts[channel]) != 1 and error is None and not _is_tuple_of(value, count):
            raise FrameError("another number of values than there are")
        if error is not None and not isinstance(error, Exception):
            ending = error  # meant for whoever is here; the execution that was hit gets an error of its own
            error = RemoteError(f"{ending!r} was raised here while the result was unpickled")
        try:
            sinks = self._ledger.first(channel).payload
        except IndexError:
            raise FrameError("a frame that no execution waits for") from None
        self._half = sinks
        try:
            self._ledger.arrive(channel)
            for number, position in self._routes[channel]:
                piece = value if position is None or error is not None else value[position]
                on_gpu = self._on_gpu[channel]
                if on_gpu is None or error is not None or type(sinks[number]) is weakref.ref:
                    self.settle(sinks[number], piece, error, here)
                else:
                    on_gpu.settle(sinks[number], piece, settle_here)
        except BaseException as half:
            for number, _ in self._routes[channel]:
                self.settle(sinks[number], None, AdagError(f"{half!r} was raised in its way"), here)
            self._half = None
            raise
        self._half = None
        if ending is not None:
            raise ending

    def record(self, recorder: Recorder | None) -> None:
        """Record what is taken in from now on, or no longer."""
        for place, (channel, reader, _) in enumerate(self._results):
            number = self._plan.results()[channel].number
            end = reader.plain if isinstance(reader, TracedReader) else reader
            if recorder is not None:
                end = TracedReader(end, number, recorder, waits=False)
            self._results[place] = channel, end, end.may_read

    def settle(self, sink: Any, value: Any, error: BaseException | None, here: bool) -> None:
        """Hand the value, or the error, to one that waits."""
        if type(sink) is weakref.ref:
            ref = sink()
            if ref is not None:  # else it was dropped: nobody can get the result
                ref.settle(value, error)
        else:
            self._loop.settle(sink, value, error, here)

    def abandon(self, reason: Reason, here: bool) -> None:
        """Fail what is in flight. Again is harmless, and goes on where something was raised before."""
        for entry, channels in self._ledger.pending():
            error = reason(entry.seq)
            for channel in channels:
                for number, _ in self._routes[channel]:
                    self.settle(entry.payload[number], None, error, here)
        if self._half is not None:  # of those that it has in common with the above, each is settled once
            for sink in self._half:
                self.settle(sink, None, reason(-1), here)
            self._half = None
        self._ledger.abandon()

    def is_in_step(self) -> bool:
        """Whether every frame that was consumed is in the books, and handed on."""
        if self._half is not None:
            return False
        return all(reader.taken() == self._ledger.taken(channel) for channel, reader, _ in self._results)

    def may_read(self) -> bool:
        """Whether a frame has arrived that was not taken in."""
        return any(may_read() for _, _, may_read in self._results)

    def arm(self) -> bool:
        """Have the doorbell rung at the next frame that is waited for; True if one is there already.

        Who waits for all of the one execution under way is served by one ring, of its last channel to come; which
        that is, is a guess, made anew when it has come and others have not. An error rings unasked.
        """
        ledger, results = self._ledger, self._results
        self.is_partial = False
        if ledger.in_flight == 1 and len(results) > 1:
            missing = ledger.incomplete()
            if type(ledger.first(missing[-1]).payload[0]) is Part:
                self.is_partial = len(missing) > 1
                return results[missing[-1]][1].arm()
        there = False
        for _, reader, _ in results:
            there |= reader.arm()
        return there

    def outputs_of(self, channels: list[int]) -> tuple[int, ...]:
        """The outputs that these channels of the ledger bring, by number."""
        return tuple(sorted(number for channel in channels for number, _ in self._routes[channel]))

    def let_go(self) -> None:
        """Forget the reading ends, which are closed by whoever owns them."""
        self._results.clear()


def _is_tuple_of(value: Any, count: int) -> bool:
    return type(value) is tuple and len(value) == count
