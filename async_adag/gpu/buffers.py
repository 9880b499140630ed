"""Memory of an edge that is filled again and again, and events that are recorded again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import monotonic, sleep

from async_adag.gpu.interface import Device, Event, Memory, Span, Stream

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
    """Memory of ours, and the event behind its last use."""

    __slots__ = ("event", "memory", "used")

    def __init__(self, memory: Memory, event: Event) -> None:
        self.memory = memory
        self.event = event
        self.used = False


class Buffers:
    """Buffers that nobody refers to at present.

    A buffer comes back while the device may still read it, on the stream of whoever used it. So it comes with an
    event recorded there, and whoever fills it next waits for that, on the device.
    """

    KEPT = 64
    """How many are kept; what is over goes back to the device, those unused for longest first."""

    def __init__(self, device: Device, backlog: int) -> None:
        """Begin with none.

        Args:
            device: where they are.
            backlog: while fewer fitting buffers than this are free, but not yet read to the end, one more is
                allocated rather than have the filling wait for the reading.
        """
        self._device = device
        self._backlog = backlog
        self._free: list[Buffer] = []  # the longest unused first

    def take(self, nbytes: int, stream: Stream) -> Buffer:
        """A buffer of at least ``nbytes``, to be filled by what is issued to ``stream`` from now on.

        Raises:
            DeviceError: there is not as much memory, or the device has failed.
        """
        need = size_class(nbytes)
        fitting = [buffer for buffer in self._free if need <= buffer.memory.span.nbytes <= 4 * need]
        chosen = next((buffer for buffer in reversed(fitting) if not buffer.used or buffer.event.query()), None)
        if chosen is None and len(fitting) >= self._backlog:
            chosen = fitting[0]
        if chosen is None:
            return Buffer(self._device.allocate(need), self._device.event())
        self._free.remove(chosen)
        self._wait(stream, chosen)
        return chosen

    def _wait(self, stream: Stream, buffer: Buffer) -> None:
        if buffer.used:
            stream.wait(buffer.event)

    def give_back(self, buffer: Buffer, stream: Stream) -> None:
        """Nobody refers to it any more; what uses it has been issued to ``stream``.

        Raises:
            DeviceError: the device has failed.
        """
        stream.record(buffer.event)
        buffer.used = True
        self._free.append(buffer)
        if len(self._free) > self.KEPT and self._free[0].event.query():
            self._close(self._free.pop(0))

    def close(self, patience: float) -> bool:
        """Give back all that are free, once the device is done with them; whether it was, within so many seconds.

        What the device is not done with stays allocated.
        """
        done = wait_until(lambda: all(not b.used or b.event.query() for b in self._free), patience)
        while done and self._free:
            self._close(self._free.pop())
        return done

    @staticmethod
    def _close(buffer: Buffer) -> None:
        buffer.memory.close()
        buffer.event.close()


def spans_in(span: Span, places: Sequence[int], sizes: Sequence[int]) -> list[Span]:
    """Parts of a span, by where they begin in it and how long they are."""
    return [Span(span.address + place, size) for place, size in zip(places, sizes, strict=True)]
