"""A reader's end of an edge between processes on one GPU. How it works is told in `ipc`."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from async_adag.gpu.acks import CLOSED, HELD, Acks, Shared
from async_adag.gpu.arrivals import Arrival, Arrivals
from async_adag.gpu.buffers import Buffer, Buffers, behind_all, lay_out, spans_in, wait_until
from async_adag.gpu.interface import Device, DeviceError, Span, Stream
from async_adag.gpu.ipc import Note, leases_for
from async_adag.gpu.mappings import Mappings
from async_adag.gpu.transfer import Marks


class _Lease:
    """A slot that somebody here refers to, and the streams where it is used."""

    __slots__ = ("generation", "slot", "streams")

    def __init__(self, slot: int, generation: int, streams: Sequence[Stream]) -> None:
        self.slot = slot
        self.generation = generation
        self.streams = streams


class _Copy:
    """A copy that somebody here refers to, and the streams where it is used."""

    __slots__ = ("buffer", "streams")

    def __init__(self, buffer: Buffer, streams: Sequence[Stream]) -> None:
        self.buffer = buffer
        self.streams = streams


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
        self.marks: Marks | None = None
        self._device = device
        self._shared = Shared(device, page)
        self._page = self._open_part(reader, slots)
        self._page.sign_in_reader()
        self._slots = slots
        self._limit = leases_for(slots, readers)
        self._linger = linger
        self._stream = device.stream()
        self._copied = device.event()
        self._followed = device.event()
        self._behind = device.event()  # recorded, and waited for at once
        self._buffers = Buffers(device, backlog=slots)
        self._mappings = mappings or Mappings(device)
        self._allocations: dict[int, tuple[bytes, Span]] = {}
        self._leases = 0
        self.follower: Stream | None = None
        """A stream that waits for whatever arrives, too: what comes behind it there, comes when that is whole."""
        self._arrivals: Arrivals[_Lease | _Copy] = Arrivals(self._gone, self._finish)
        self._closed = False
        self._whole: list[int] | None = None  # once the writer is given up: what had become ready, by slot
        self._unused = False
        self._freed = False
        # The last net: when the process ends, its device waits for its streams, and they may wait for the writer.
        self._letting_go = weakref.finalize(self, self._page.let_reader_go)

    def _open_part(self, reader: int, slots: int) -> Acks:
        return Acks(self._shared, reader, slots)

    def receive(
        self, note: Note, sizes: Sequence[int], stream: Stream, others: Sequence[Stream] = ()
    ) -> list[Arrival]:
        """As `transfer.Receiver.receive`: where the writer has put it, unless too much is kept already."""
        if self._closed:
            raise DeviceError("this edge was closed")
        self._arrivals.collect()
        slot, generation, news, places = note
        self._check_given_up(slot, generation)
        for number, allocation in news:
            if number not in self._allocations:
                self._allocations[number] = allocation, self._mappings.open(allocation).span
        spans = []
        for (number, offset), size in zip(places, sizes, strict=True):
            _, whole = self._allocations[number]
            if not 0 <= offset <= whole.nbytes - size:
                raise DeviceError(f"{size} bytes at {offset} are not in an allocation of {whole.nbytes}")
            spans.append(Span(whole.address + offset, size))
        streams = [stream, *others]
        if self._leases < self._limit:
            if self.marks is not None:
                self.marks.begin(stream)
            for using in streams:
                self._page.wait_until_ready(using, slot, generation)
            if self.marks is not None:
                self.marks.end(stream)
            if self.follower is not None:
                self._page.wait_until_ready(self.follower, slot, generation)
                self.follower.record(self._followed)
            self._check_given_up(slot, generation)  # once more: then the streams have not waited
            self._leases += 1
            return self._arrivals.hand_out(_Lease(slot, generation, streams), spans)
        return self._copy(slot, generation, spans, streams)

    def _check_given_up(self, slot: int, generation: int) -> None:
        if self._whole is not None and generation > self._whole[slot]:
            raise DeviceError("this is not received: its writer has ended before it was ready, or was given up")

    def _copy(self, slot: int, generation: int, spans: list[Span], streams: list[Stream]) -> list[Arrival]:
        """Have it copied into memory of ours, so that the writer may have its slot back."""
        sizes = [span.nbytes for span in spans]
        offsets, total = lay_out(sizes)
        buffer = self._buffers.take(total, self._stream)
        if self.marks is not None:
            self.marks.begin(self._stream)
        self._page.wait_until_ready(self._stream, slot, generation)
        copies = spans_in(buffer.span, offsets, sizes)
        for target, source in zip(copies, spans, strict=True):
            self._device.copy(target, source, self._stream)
        if self.marks is not None:
            self.marks.end(self._stream)
        self._stream.record(self._copied)
        for using in streams:
            using.wait(self._copied)
        if self.follower is not None:
            self.follower.wait(self._copied)
        self._check_given_up(slot, generation)
        self._ack(slot, generation, self._stream)
        return self._arrivals.hand_out(_Copy(buffer, streams), copies)

    def _gone(self, kept: _Lease | _Copy) -> None:
        try:
            if self._closed:
                self._device.enter()  # this may be any thread
            last = self._last_use(kept.streams)
            if isinstance(kept, _Copy):
                self._buffers.give_back(kept.buffer, last)
            else:
                self._leases -= 1
                self._ack(kept.slot, kept.generation, last)
        except DeviceError:
            if not self._closed:
                raise
            # Whoever drops a result of a graph that is long closed, on a device that has failed, need not know.

    def _last_use(self, streams: Sequence[Stream]) -> Stream:
        return behind_all(streams, self._stream, self._behind)

    def _ack(self, slot: int, generation: int, stream: Stream) -> None:
        """Tell the writer that it may fill a slot behind what is issued to ``stream`` so far."""
        self._page.store_ack(stream, slot, generation)

    def release(self) -> None:
        """Give the writer up: streams here go on, whatever they wait for, and only what is ready is received.

        What they find then is not what was sent. From any thread, again and again, as a writer that lives after
        all may store over this; harmless once all has been let go of.
        """
        with suppress(ValueError):  # all has been let go of
            if self._whole is None:
                self._whole = [self._page.ready(slot) for slot in range(self._slots)]
        self._page.let_reader_go()

    def check_writer(self) -> None:
        """`release`, if the writer's process has ended."""
        with suppress(ValueError):  # all has been let go of
            if self._page.writer_has_ended:
                self.release()

    @property
    def is_given_up(self) -> bool:
        """Whether the writer was given up: what had not become ready by then never does, though streams go on."""
        return self._whole is not None

    @property
    def is_free(self) -> bool:
        """Whether all has been let go of."""
        return self._freed

    def close(self) -> None:
        """As `transfer.Receiver.close`: mappings go with the last that somebody refers to.

        What the device is not done with within ``linger`` seconds is kept; closing again later lets go of it.
        """
        if self._closed:
            if self._unused and not self._freed:
                self._finish()
            return
        self._closed = True
        self.check_writer()
        self._check_device()
        self._arrivals.collect()
        if self._arrivals.outstanding:
            self._page.state = HELD
        self._arrivals.close()

    def _check_device(self) -> bool:
        """Whether the device goes on, in this process; else the writer is not to wait for acks."""
        try:
            self._device.enter()
            self._copied.query()
        except DeviceError:
            self._page.let_writer_go()
            return False
        return True

    def _finish(self) -> None:
        """Nobody refers to anything: unmap, once the device is done with it, and tell the writer."""
        self._unused = True
        if not self._check_device():
            return  # its process has to end before it can use a device again, and all of this ends with it
        try:
            done = wait_until(self._is_done, self._linger)
        except DeviceError:
            self._page.let_writer_go()
            return
        if not (self._buffers.close(self._linger) and done):
            return  # still in use, so it stays mapped, and the writer keeps the memory while this process lives
        self._freed = True
        self._letting_go.detach()
        self._copied.close()
        self._followed.close()
        self._behind.close()
        for handle, _ in self._allocations.values():
            self._mappings.release(handle)
        self._stream.close()
        self._page.state = CLOSED
        self._page.close()
        self._shared.close()

    def _is_done(self) -> bool:
        """Whether the device is done with what was received, and with all that waits for the writer."""
        self.check_writer()
        acked = all(self._page.acked(slot) >= self._page.issued(slot) for slot in range(self._slots))
        return acked and self._copied.query() and self._followed.query()
