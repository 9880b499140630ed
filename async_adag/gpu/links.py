"""Tensors over links: NCCL between GPUs, or whatever else implements `interface.Link`.

The writer has a link and a stream of its own to each reader, so that a slow one holds up no other, and each reader
one link and a stream to receive on. What is sent on a link is received in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from async_adag.gpu.arrivals import Arrival, Arrivals
from async_adag.gpu.buffers import Buffer, Buffers, Events, behind_all, lay_out, spans_in, wait_until
from async_adag.gpu.held import Held
from async_adag.gpu.interface import Device, DeviceError, Event, Link, Span, Stream
from async_adag.gpu.transfer import Marks


class _Checked:
    """Looks after links: each is asked whether it has failed, but not more often than makes sense."""

    EVERY = 0.005
    """In seconds."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._links = list(links)
        self._next = 0.0

    def check(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.EVERY
            for link in self._links:
                link.check()

    def destroy(self) -> None:
        for link in self._links:
            link.destroy()


def _has_failed(link: Link) -> bool:
    try:
        link.check()
    except DeviceError:
        return True
    return False


class LinkSender:
    """The writer's end: a `transfer.Sender`."""

    def __init__(
        self, device: Device, links: Sequence[Link], *, overlap: bool = True, linger: float = 5.0
    ) -> None:
        """Begin an edge.

        Args:
            device: where it is.
            links: one to each reader, in which this is rank 0; initialized.
            overlap: whether the stream of the tensors goes on while they are sent.
            linger: how long `close` waits for the device, in seconds.
        """
        self.marks: Marks | None = None
        self._links = list(links)
        self._checked = _Checked(self._links)
        self._linger = linger
        self._streams = [device.stream() for _ in self._links]
        self._produced = device.event()
        self._events = Events(device)
        self._held = Held(self._events)
        self._overlap = overlap
        self._pending: tuple[list[Span], list[Any], Stream] | None = None
        self._generation = 0
        self._closed = False

    def announce(self, spans: Sequence[Span], owners: Sequence[Any], stream: Stream) -> int:
        """As `transfer.Sender.announce`."""
        if self._closed:
            raise DeviceError("this edge was closed")
        self._checked.check()
        self._held.release()
        stream.record(self._produced)
        self._pending = list(spans), list(owners), stream
        self._generation += 1
        return self._generation

    def check(self) -> None:
        """As `transfer.Sender.check`."""
        self._checked.check()
        self._produced.query()

    def withdraw(self) -> None:
        """As `transfer.Sender.withdraw`."""
        self._pending = None

    def send(self) -> None:
        """As `transfer.Sender.send`."""
        if self._closed:
            raise DeviceError("this edge was closed")
        if self._pending is None:
            return
        spans, owners, producing = self._pending
        self._pending = None
        sent: list[Event] = []
        try:
            for link, stream in zip(self._links, self._streams, strict=True):
                stream.wait(self._produced)
                if self.marks is not None:
                    self.marks.begin(stream)
                try:
                    with link.group():
                        for span in spans:
                            link.send(span, stream)
                finally:
                    # Also where it failed half way: what was issued reads the memory all the same.
                    event = self._events.take()
                    stream.record(event)
                    sent.append(event)
                if self.marks is not None:
                    self.marks.end(stream)
                if not self._overlap:
                    producing.wait(event)
        finally:
            self._hold(sent, owners)

    def _hold(self, sent: list[Event], owners: list[Any]) -> None:
        self._held.add(sent, owners)

    def close(self) -> None:
        """As `transfer.Sender.close`; the links are destroyed too."""
        if self._closed:
            return
        self._closed = True
        self._pending = None
        self._await_sent()
        self._checked.destroy()  # what is still under way ends now
        self._held.close(self._linger)
        for stream in self._streams:
            stream.close()
        self._produced.close()
        self._events.close()

    def _await_sent(self) -> None:
        # Each link for itself: what a reader that has died does not take is nothing to the others.
        ends: list[Event] = []
        with suppress(DeviceError):  # the device has failed: nothing on it goes on
            for stream in self._streams:
                ends.append(self._events.take())
                stream.record(ends[-1])
            ways = list(zip(self._links, ends, strict=True))
            wait_until(lambda: all(end.query() or _has_failed(link) for link, end in ways), self._linger)
        for end in ends:
            self._events.give_back(end)


class _Kept:
    """A buffer that somebody refers to, and the streams where it is used."""

    __slots__ = ("buffer", "streams")

    def __init__(self, buffer: Buffer, streams: Sequence[Stream]) -> None:
        self.buffer = buffer
        self.streams = streams


class LinkReceiver:
    """A reader's end: a `transfer.Receiver`."""

    def __init__(
        self, device: Device, link: Link, *, overlap: bool = True, backlog: int = 16, linger: float = 5.0
    ) -> None:
        """Begin an edge.

        Args:
            device: where it is.
            link: from the writer, in which this is rank 1; initialized.
            overlap: whether receiving begins before what the stream was given earlier is done.
            backlog: up to how many buffers of a size may wait for the device to be done with them, before
                receiving waits for it too.
            linger: how long `close` waits for the device, in seconds.
        """
        self.marks: Marks | None = None
        self._device = device
        self._link = link
        self._checked = _Checked([link])
        self._linger = linger
        self._stream = device.stream()
        self._received = device.event()  # behind the last receive
        self._behind = device.event()  # recorded, and waited for at once
        self._overlap = overlap
        self._buffers = self._make_buffers(device, backlog)
        self._arrivals: Arrivals[_Kept] = Arrivals(self._gone, self._finish)
        self._generation = 0
        self._stranded: list[Buffer] = []
        self._unused = False
        self._closed = False

    @staticmethod
    def _make_buffers(device: Device, backlog: int) -> Buffers:
        return Buffers(device, backlog)

    def receive(
        self, note: int, sizes: Sequence[int], stream: Stream, others: Sequence[Stream] = ()
    ) -> list[Arrival]:
        """As `transfer.Receiver.receive`."""
        if self._closed:
            raise DeviceError("this edge was closed")
        if note <= self._generation:
            raise DeviceError(f"what was announced as number {note} came behind number {self._generation}")
        self._generation = note
        self._checked.check()
        self._arrivals.collect()
        offsets, total = lay_out(sizes)
        buffer = self._buffers.take(total, self._stream)
        spans = spans_in(buffer.span, offsets, sizes)
        streams = [stream, *others]
        for using in () if self._overlap else streams:
            using.record(self._behind)
            self._stream.wait(self._behind)
        if self.marks is not None:
            self.marks.begin(self._stream)
        try:
            with self._link.group():
                for span in spans:
                    self._link.receive(span, self._stream)
        except BaseException:
            self._stranded.append(buffer)  # some of it may be under way, into this
            raise
        if self.marks is not None:
            self.marks.end(self._stream)
        self._stream.record(self._received)
        for using in streams:
            using.wait(self._received)
        return self._arrivals.hand_out(_Kept(buffer, streams), spans)

    def _gone(self, kept: _Kept) -> None:
        try:
            if self._closed:
                self._device.enter()  # this may be any thread
            self._buffers.give_back(kept.buffer, self._last_use(kept.streams))
        except DeviceError:
            if not self._closed:
                raise
            # Whoever drops a result of a graph that is long closed, on a device that has failed, need not know.

    def _last_use(self, streams: Sequence[Stream]) -> Stream:
        return behind_all(streams, self._stream, self._behind)

    def close(self) -> None:
        """As `transfer.Receiver.close`; the link is destroyed too, once all that was received is there.

        What is not there within ``linger`` seconds never comes. Closing again gives back what the device was not
        yet done with.
        """
        if self._closed:
            if self._unused:
                self._finish()
            return
        self._closed = True
        self._await_received()
        self._checked.destroy()
        self._arrivals.close()

    def _await_received(self) -> None:
        # Whoever keeps what was received need not have waited for the device, and destroying the link would abort
        # what is under way. The writer need not be waited for: what it sends was issued when its frame was read,
        # or right after, and goes on by itself while it closes.
        with suppress(DeviceError):  # the device has failed: nothing on it goes on
            self._device.enter()
            wait_until(lambda: self._received.query() or _has_failed(self._link), self._linger)

    def _finish(self) -> None:
        """Nobody refers to anything: give the memory back once the device is done with it."""
        self._unused = True
        try:
            self._device.enter()
        except DeviceError:
            pass  # it has failed, and its memory is gone with it
        self._buffers.close(self._linger)
        self._received.close()
        self._behind.close()
        self._stream.close()
