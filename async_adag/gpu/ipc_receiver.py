"""A reader's end of an edge between processes on one GPU. How it works is told in `ipc`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from async_adag.gpu.acks import CLOSED, HELD, Acks
from async_adag.gpu.arrivals import Arrival, Arrivals
from async_adag.gpu.buffers import Buffer, Buffers, lay_out, spans_in, wait_until
from async_adag.gpu.interface import Device, DeviceError, Event, Span, Stream
from async_adag.gpu.ipc import Note, leases_for
from async_adag.gpu.mappings import Mappings


class _Lease:
    """A slot that somebody here refers to, and the stream where it is used."""

    __slots__ = ("generation", "slot", "stream")

    def __init__(self, slot: int, generation: int, stream: Stream) -> None:
        self.slot = slot
        self.generation = generation
        self.stream = stream


class _Copy:
    """A copy that somebody here refers to, and the stream where it is used."""

    __slots__ = ("buffer", "stream")

    def __init__(self, buffer: Buffer, stream: Stream) -> None:
        self.buffer = buffer
        self.stream = stream


class IpcReceiver:
    """A reader's end: a `transfer.Receiver`."""

    def __init__(
        self,
        device: Device,
        page: Any,
        reader: int,
        slots: int,
        readers: int = 1,
        mappings: Mappings | None = None,
        *,
        linger: float = 5.0,
    ) -> None:
        """Begin an edge.

        Args:
            device: where it is.
            page: as the writer has it.
            reader: which of the readers this is, from 0.
            slots: as many as the writer was told.
            readers: as many as the writer was told.
            mappings: where memory is opened; to be shared by all edges that may bring the same memory, as those
                from one process do that hand over its pool's (None: one of its own).
            linger: how long to wait for the device when all is closed, in seconds.
        """
        self._device = device
        self._page = self._open_page(page, reader, slots)
        self._page.sign_in()
        self._limit = leases_for(slots, readers)
        self._linger = linger
        self._stream = device.stream()
        self._copied = device.event()
        self._buffers = Buffers(device, backlog=slots)
        self._mappings = mappings or Mappings(device)
        self._allocations: dict[int, tuple[bytes, Span]] = {}
        self._ready: dict[int, Event] = {}
        self._acks: dict[int, Event] = {}
        self._leases = 0
        self.follower: Stream | None = None
        """A stream that waits for whatever arrives, too: what comes behind it there, comes when that is whole."""
        self._arrivals: Arrivals[_Lease | _Copy] = Arrivals(self._gone, self._finish)
        self._closed = False
        self._unused = False
        self._unmapped = False

    def _open_page(self, page: Any, reader: int, slots: int) -> Acks:
        return Acks(page, reader, slots)

    def receive(self, note: Note, sizes: Sequence[int], stream: Stream) -> list[Arrival]:
        """As `transfer.Receiver.receive`: where the writer has put it, unless too much is kept already."""
        if self._closed:
            raise DeviceError("this edge was closed")
        self._arrivals.collect()
        slot, generation, handle, news, places = note
        for number, allocation in news:
            if number not in self._allocations:
                self._allocations[number] = allocation, self._mappings.open(allocation).span
        if handle and slot not in self._ready:
            self._ready[slot] = self._device.open_event(handle)
        spans = []
        for (number, offset), size in zip(places, sizes, strict=True):
            _, whole = self._allocations[number]
            if not 0 <= offset <= whole.nbytes - size:
                raise DeviceError(f"{size} bytes at {offset} are not in an allocation of {whole.nbytes}")
            spans.append(Span(whole.address + offset, size))
        if self._leases < self._limit:
            self._have_wait(stream, self._ready[slot])
            self._leases += 1
            return self._arrivals.hand_out(_Lease(slot, generation, stream), spans)
        return self._copy(slot, generation, spans, stream)

    def _copy(self, slot: int, generation: int, spans: list[Span], stream: Stream) -> list[Arrival]:
        """Have it copied into memory of ours, so that the writer may have its slot back."""
        sizes = [span.nbytes for span in spans]
        offsets, total = lay_out(sizes)
        buffer = self._buffers.take(total, self._stream)
        self._stream.wait(self._ready[slot])
        copies = spans_in(buffer.span, offsets, sizes)
        for target, source in zip(copies, spans, strict=True):
            self._device.copy(target, source, self._stream)
        self._stream.record(self._copied)
        self._have_wait(stream, self._copied)
        self._ack(slot, generation, self._stream)
        return self._arrivals.hand_out(_Copy(buffer, stream), copies)

    def _have_wait(self, stream: Stream, event: Event) -> None:
        stream.wait(event)
        if self.follower is not None:
            self.follower.wait(event)

    def _gone(self, kept: _Lease | _Copy) -> None:
        try:
            if isinstance(kept, _Copy):
                self._buffers.give_back(kept.buffer, kept.stream)
            else:
                self._leases -= 1
                self._ack(kept.slot, kept.generation, kept.stream)
        except DeviceError:
            if not self._closed:
                raise
            # Whoever drops a result of a graph that is long closed, on a device that has failed, need not know.

    def _ack(self, slot: int, generation: int, stream: Stream) -> None:
        """Tell the writer that it may fill a slot behind what is issued to ``stream`` so far."""
        event = self._acks.get(slot)
        if event is None:
            event = self._acks[slot] = self._device.event(shared=True)
            self._page.set_event(slot, event.export())
        self._record_ack(stream, event)
        self._page.set_done_with(slot, generation)

    def _record_ack(self, stream: Stream, event: Event) -> None:
        stream.record(event)

    def close(self) -> None:
        """As `transfer.Receiver.close`: mappings go with the last that somebody refers to.

        The events that the writer waits for are kept if it has not closed its end yet. Closing again, once it has
        or is dead, lets go of them.
        """
        if self._closed:
            if self._unused and not self._unmapped:
                self._finish()
            if self._unmapped:
                self._let_go()
            return
        self._closed = True
        self._arrivals.collect()
        if self._arrivals.outstanding:
            self._page.state = HELD
        self._arrivals.close()

    def _finish(self) -> None:
        """Nobody refers to anything: unmap, once the device is done with it, and tell the writer."""
        self._unused = True
        try:
            self._device.enter()
            done = wait_until(lambda: all(event.query() for event in self._acks.values()), self._linger)
        except DeviceError:
            return  # its process has to end before it can use a device again, and all of this ends with it
        if not (self._buffers.close(self._linger) and done):
            return  # still in use, so it stays mapped, and the writer keeps the memory while this process lives
        for event in (*self._ready.values(), self._copied):
            event.close()
        for handle, _ in self._allocations.values():
            self._mappings.release(handle)
        self._stream.close()
        self._unmapped = True
        self._page.state = CLOSED
        if self._page.writer_has_closed:
            self._let_go()

    def _let_go(self) -> None:
        while self._acks:
            _, event = self._acks.popitem()
            event.close()
        self._page.close()
