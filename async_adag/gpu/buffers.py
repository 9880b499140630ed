"""Memory of an edge that is filled again and again, and events that are recorded again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import monotonic, sleep

from async_adag.gpu.interface import Device, DeviceError, Event, Memory, Span, Stream

ALIGNMENT = 256
"""Where tensors begin, in bytes: what CUDA's own allocations promise, and kernels have come to expect."""


def size_class(nbytes: int) -> int:
    """How much to allocate for ``nbytes``: at most a quarter more, but for small ones.

    Few sizes, so that one that grows bit by bit finds what it had before too small only now and then.
    """
    step = max(4096, 1 << (max(nbytes - 1, 1).bit_length() - 3))
    return -(-max(nbytes, 1) // step) * step


def lay_out(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where in one allocation tensors of these sizes begin, and how much they need together, in bytes."""
    places = []
    total = 0
    for size in sizes:
        places.append(total)
        total += -(-size // ALIGNMENT) * ALIGNMENT
    return places, total


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait by looking now and then; for ends and for emergencies. Returns whether it came true in time."""
    deadline = monotonic() + seconds
    pause = 0.00005
    while not condition():
        if monotonic() >= deadline:
            return condition()
        sleep(pause)
        pause = min(pause * 2, 0.002)
    return True


def behind_all(streams: Sequence[Stream], joining: Stream, event: Event) -> Stream:
    """A stream on which what is issued now comes behind all that was issued to each of ``streams``.

    Args:
        streams: at least one.
        joining: made to wait for them, where they are several.
        event: recorded and waited for at once.
    """
    if len(streams) == 1:
        return streams[0]
    for stream in streams:
        stream.record(event)
        joining.wait(event)
    return joining


class Events:
    """Events that this process alone records, each made once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free: list[Event] = []

    def take(self) -> Event:
        return self._free.pop() if self._free else self._device.event()

    def give_back(self, event: Event) -> None:
        """It has fired, or nobody waits for it any more."""
        self._free.append(event)

    def close(self) -> None:
        while self._free:
            self._free.pop().close()


class Buffer:
    """Memory of ours, and the event behind its last use; None before the first."""

    __slots__ = ("event", "memory", "span")

    def __init__(self, span: Span, memory: Memory | None) -> None:
        self.span = span
        self.memory = memory  # None: it is part of a slab
        self.event: Event | None = None

    def is_idle(self) -> bool:
        """Whether the device is done with it."""
        return self.event is None or self.event.query()


class Buffers:
    """Buffers that nobody refers to at present.

    A buffer comes back while the device may still read it, on the stream of whoever used it. So it comes with an
    event recorded there, and whoever fills it next waits for that, on the device. Small ones are cut from slabs,
    as a device makes no memory of its own for a few bytes.
    """

    KEPT = 64
    """How many large ones are kept; what is over goes back to the device, those unused for longest first."""

    SLAB = 2 << 20
    """The size of slabs, in bytes."""

    def __init__(self, device: Device, backlog: int) -> None:
        """Begin with none.

        Args:
            device: where they are.
            backlog: while fewer fitting buffers than this are free, but not yet read to the end, one more is
                allocated rather than have the filling wait for the reading. At least 1.
        """
        self._device = device
        self._backlog = backlog
        self._large: list[Buffer] = []  # the longest unused first
        self._small: dict[int, list[Buffer]] = {}
        self._slabs: list[Memory] = []
        self._pieces = 0

    def take(self, nbytes: int, stream: Stream) -> Buffer:
        """A buffer of at least ``nbytes``, to be filled by what is issued to ``stream`` from now on.

        Raises:
            DeviceError: there is not as much memory, or the device has failed.
        """
        need = size_class(nbytes)
        if need * 4 <= self.SLAB:
            need = 1 << (need - 1).bit_length()
            free = fitting = self._small.setdefault(need, [])
        else:
            free = self._large
            fitting = [buffer for buffer in free if need <= buffer.span.nbytes <= 4 * need]
        # Those that came back first are the likeliest to have been read to the end.
        chosen = next((buffer for buffer in fitting[: self._backlog] if buffer.is_idle()), None)
        if chosen is None and len(fitting) >= self._backlog:
            chosen = fitting[0]
        if chosen is None and free is self._large:
            memory = self._device.allocate(need)
            return Buffer(memory.span, memory)
        if chosen is None:
            self._cut(need, free)
            chosen = free[-1]
        free.remove(chosen)
        self._wait(stream, chosen)
        return chosen

    def _cut(self, size: int, free: list[Buffer]) -> None:
        slab = self._device.allocate(self.SLAB)
        self._slabs.append(slab)
        starts = range(slab.span.address, slab.span.address + self.SLAB, size)
        self._pieces += len(starts)
        free += [Buffer(Span(start, size), None) for start in starts]

    def _wait(self, stream: Stream, buffer: Buffer) -> None:
        if buffer.event is not None:
            stream.wait(buffer.event)

    def give_back(self, buffer: Buffer, stream: Stream) -> None:
        """Nobody refers to it any more; what uses it has been issued to ``stream``.

        Raises:
            DeviceError: the device has failed.
        """
        if buffer.event is None:
            buffer.event = self._device.event()
        stream.record(buffer.event)
        if buffer.memory is None:
            self._small[buffer.span.nbytes].append(buffer)
            return
        self._large.append(buffer)
        if len(self._large) > self.KEPT and self._large[0].is_idle():
            self._close(self._large.pop(0))

    def close(self, patience: float) -> bool:
        """Give back all that are free, once the device is done with them; whether it was, within so many seconds.

        What the device is not done with stays allocated; also the slabs, if some of their pieces are not free.
        """
        free = [*self._large, *(buffer for buffers in self._small.values() for buffer in buffers)]
        try:
            if not wait_until(lambda: all(buffer.is_idle() for buffer in free), patience):
                return False
        except DeviceError:
            pass  # the device has failed: nothing on it goes on
        whole = sum(map(len, self._small.values())) == self._pieces
        self._large.clear()
        self._small.clear()
        for buffer in free:
            self._close(buffer)
        while whole and self._slabs:
            self._slabs.pop().close()
        return True

    @staticmethod
    def _close(buffer: Buffer) -> None:
        if buffer.memory is not None:
            buffer.memory.close()
        if buffer.event is not None:
            buffer.event.close()


def spans_in(span: Span, places: Sequence[int], sizes: Sequence[int]) -> list[Span]:
    """Parts of a span, by where they begin in it and how long they are."""
    return [Span(span.address + place, size) for place, size in zip(places, sizes, strict=True)]
