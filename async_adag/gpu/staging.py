"""Copies between the device and the host, through pinned memory, on a stream of the edge's own.

To the host the bytes are there when the call returns, so it waits for the device: they have to be in the frame
before that goes out. From the host nobody waits: the bytes lie in pinned memory until the device has read them.
"""

from __future__ import annotations

from collections.abc import Sequence

from async_adag.gpu.arrivals import Arrivals
from async_adag.gpu.buffers import Buffer, Buffers, lay_out, size_class, spans_in, wait_until
from async_adag.gpu.interface import Device, DeviceError, Event, HostMemory, Span, Stream
from async_adag.gpu.transfer import Arrived, Marks


class Pinned:
    """Pinned memory, and the event behind the device's last use of it; None where it has none to wait for."""

    __slots__ = ("event", "in_use", "memory")

    def __init__(self, memory: HostMemory, event: Event) -> None:
        self.memory = memory
        self.event = event
        self.in_use = False

    def is_idle(self) -> bool:
        """Whether the device is done with it."""
        return not self.in_use or self.event.query()


class PinnedBuffers:
    """Pinned memory that is filled again and again, each time after the device is done with it."""

    def __init__(self, device: Device, kept: int) -> None:
        """Begin with none.

        Args:
            device: which is to use it.
            kept: how many of one size there may be before whoever needs one waits for the device. At least 1.
        """
        self._device = device
        self._kept = kept
        self._free: list[Pinned] = []  # the longest unused first

    def take(self, nbytes: int) -> Pinned:
        """Memory of at least ``nbytes`` with which the device is done; may wait for that.

        Raises:
            DeviceError: there is not as much memory, or the device has failed.
        """
        need = size_class(nbytes)
        fitting = [pinned for pinned in self._free if need <= pinned.memory.span.nbytes <= 4 * need]
        chosen = next((pinned for pinned in fitting if self._is_idle(pinned)), None)
        if chosen is None and len(fitting) >= self._kept:
            chosen = fitting[0]
            chosen.event.synchronize()
        if chosen is None:
            self._shrink()
            return Pinned(self._device.allocate_host(need), self._device.event())
        self._free.remove(chosen)
        chosen.in_use = False
        return chosen

    @staticmethod
    def _is_idle(pinned: Pinned) -> bool:
        return pinned.is_idle()

    def give_back(self, pinned: Pinned, stream: Stream | None = None) -> None:
        """It is free once the device is done with what was issued to ``stream`` so far; now, without one."""
        if stream is not None:
            stream.record(pinned.event)
            pinned.in_use = True
        self._free.append(pinned)

    def _shrink(self) -> None:
        """Of other sizes, keep no more than of one."""
        idle = [pinned for pinned in self._free if pinned.is_idle()]
        for pinned in idle[: max(0, len(self._free) - self._kept)]:
            self._free.remove(pinned)
            self._close(pinned)

    def close(self, patience: float) -> None:
        """Give back all, once the device is done with it; what it is not done with in so many seconds stays."""
        free, self._free = self._free, []
        try:
            if not wait_until(lambda: all(pinned.is_idle() for pinned in free), patience):
                return
        except DeviceError:
            pass  # the device has failed: nothing on it goes on
        for pinned in free:
            self._close(pinned)

    @staticmethod
    def _close(pinned: Pinned) -> None:
        pinned.memory.close()
        pinned.event.close()


class ToHost:
    """Brings memory of the device to the host, at the writer of an edge.

    Attributes:
        marks: told of each copy, if any.
    """

    def __init__(self, device: Device, *, linger: float = 5.0) -> None:
        """Begin an edge.

        Args:
            device: where the memory is.
            linger: how long `close` waits for the device, in seconds.
        """
        self.marks: Marks | None = None
        self._device = device
        self._linger = linger
        self._stream = device.stream()
        self._produced = device.event()
        self._copied = device.event()
        self._pinned = PinnedBuffers(device, 1)
        self._lent: list[Pinned] = []
        self._closed = False

    def fetch(self, spans: Sequence[Span], stream: Stream) -> list[memoryview]:
        """The bytes of each, to be looked at until `release`. Waits for the device, without the GIL.

        Args:
            spans: none of them empty; to be kept until this returns.
            stream: where the last writes of them were issued.

        Raises:
            DeviceError: the device has failed, or there is no pinned memory.
        """
        places, total = lay_out([span.nbytes for span in spans])
        pinned = self._pinned.take(total)
        stream.record(self._produced)
        self._stream.wait(self._produced)
        to = spans_in(pinned.memory.span, places, [span.nbytes for span in spans])
        if self.marks is not None:
            self.marks.begin(self._stream)
        for there, here in zip(to, spans, strict=True):
            self._device.to_host(there, here, self._stream)
        if self.marks is not None:
            self.marks.end(self._stream)
        self._stream.record(self._copied)
        self._await()  # where this raises, the device may still write there: it is nobody's any more
        self._lent.append(pinned)
        return [pinned.memory.read(place, span.nbytes) for place, span in zip(places, spans, strict=True)]

    def _await(self) -> None:
        self._copied.synchronize()

    def release(self) -> None:
        """The bytes have been taken: their memory may be filled again. Again is harmless."""
        while self._lent:
            self._pinned.give_back(self._lent.pop())

    def close(self) -> None:
        """Let go of everything, once the device is done with it; again is harmless."""
        if self._closed:
            return
        self._closed = True
        self.release()
        self._pinned.close(self._linger)
        self._produced.close()
        self._copied.close()
        self._stream.close()


class _Kept:
    """A buffer that somebody refers to, and the stream where it is used."""

    __slots__ = ("buffer", "stream")

    def __init__(self, buffer: Buffer, stream: Stream) -> None:
        self.buffer = buffer
        self.stream = stream


class FromHost:
    """Brings bytes of the host to the device, at a reader of an edge.

    Attributes:
        follower: a stream that is to wait for whatever arrives too.
        marks: told of each copy, if any.
    """

    def __init__(
        self, device: Device, *, overlap: bool = True, backlog: int = 16, pinned: int = 4, linger: float = 5.0
    ) -> None:
        """Begin an edge.

        Args:
            device: where the bytes are to be.
            overlap: whether copying begins before what the stream was given earlier is done.
            backlog: see `Buffers`.
            pinned: see ``kept`` of `PinnedBuffers`.
            linger: how long the end of everything waits for the device, in seconds.
        """
        self.marks: Marks | None = None
        self._device = device
        self._overlap = overlap
        self._linger = linger
        self._stream = device.stream()
        self._ordered = device.event()
        self._buffers = Buffers(device, backlog)
        self._pinned = self._make_pinned(device, pinned)
        self._arrivals: Arrivals[_Kept] = Arrivals(self._gone, self._finish)
        self._closed = False
        self.follower: Stream | None = None

    @staticmethod
    def _make_pinned(device: Device, kept: int) -> PinnedBuffers:
        return PinnedBuffers(device, kept)

    def place(self, parts: Sequence[memoryview], stream: Stream) -> list[Arrived]:
        """These bytes, on the device. They are read before this returns, which does not wait for the device.

        Args:
            parts: of bytes, none of them empty.
            stream: where they will be used: what is issued there from now on finds them whole.

        Raises:
            DeviceError: the device has failed, or there is no memory.
        """
        if self._closed:
            raise DeviceError("this edge was closed")
        self._arrivals.collect()
        sizes = [part.nbytes for part in parts]
        places, total = lay_out(sizes)
        buffer = self._buffers.take(total, self._stream)
        pinned = self._pinned.take(total)
        for place, part in zip(places, parts, strict=True):
            pinned.memory.write(place, part)
        if not self._overlap:
            stream.record(self._ordered)
            self._stream.wait(self._ordered)
        to, source = Span(buffer.span.address, total), Span(pinned.memory.span.address, total)
        if self.marks is not None:
            self.marks.begin(self._stream)
        self._device.from_host(to, source, self._stream)
        if self.marks is not None:
            self.marks.end(self._stream)
        self._pinned.give_back(pinned, self._stream)
        self._stream.record(self._ordered)
        self._wait(stream)
        if self.follower is not None:
            self.follower.wait(self._ordered)
        return [*self._arrivals.hand_out(_Kept(buffer, stream), spans_in(buffer.span, places, sizes))]

    def _wait(self, stream: Stream) -> None:
        stream.wait(self._ordered)

    def _gone(self, kept: _Kept) -> None:
        try:
            if self._closed:
                self._device.enter()  # this may be any thread
            self._buffers.give_back(kept.buffer, kept.stream)
        except DeviceError:
            if not self._closed:
                raise
            # Whoever drops a result of a graph that is long closed, on a device that has failed, need not know.

    def close(self) -> None:
        """Let go of everything but what somebody still refers to; again is harmless."""
        if self._closed:
            return
        self._closed = True
        self._arrivals.close()

    def _finish(self) -> None:
        """Nobody refers to anything: give the memory back once the device is done with it."""
        try:
            self._device.enter()
        except DeviceError:
            pass  # it has failed, and its memory is gone with it
        self._pinned.close(self._linger)
        self._buffers.close(self._linger)
        self._ordered.close()
        self._stream.close()
