"""The few calls of a device that GPU edges need, so that one code runs on CUDA and on the simulated device.

Work is issued to streams and done later, in the order of each stream. Nothing here waits for the device, but for
`Event.synchronize`, which belongs to threads that have nothing else to do.

Memory is named by `Span`, which owns nothing: whoever issues work on a span keeps its memory until an event
recorded behind that work has fired, on the device and not just on the stream of whoever frees it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


class DeviceError(Exception):
    """The device, or a library that works on it, has failed; says which call, and what it said."""


class NotExportable(DeviceError):
    """This memory cannot be opened by another process; says why, and what would help."""


class CannotNotify(DeviceError):
    """This machine lacks what `Device.notify` needs; says what. Whoever waits does so in another way."""


class Span(NamedTuple):
    """Memory of a device.

    Attributes:
        address: where it begins.
        nbytes: how long it is, in bytes.
    """

    address: int
    nbytes: int


class Event(Protocol):
    """A place in a stream, once it was recorded there; recorded again, it is another place."""

    def query(self) -> bool:
        """Whether the device has passed it; true for one that was never recorded.

        Raises:
            DeviceError: the device has failed, and it may never be passed.
        """

    def synchronize(self) -> None:
        """Block this thread, without the GIL, until the device has passed it.

        Raises:
            DeviceError: the device has failed.
        """

    def close(self) -> None:
        """Let go of it; again is harmless."""


class TimedEvent(Event, Protocol):
    """An event that tells when it was passed; it costs the device more than one that does not."""

    def since(self, earlier: TimedEvent) -> int:
        """How much later than another it was passed, in nanoseconds; both have been. Negative if it was before.

        Raises:
            DeviceError: the device has failed.
        """


class Stream(Protocol):
    """A queue of work of a device.

    Attributes:
        handle: the number by which the libraries of the device know it.
    """

    @property
    def handle(self) -> int: ...

    def record(self, event: Event) -> None:
        """Record ``event`` behind what was issued to this stream so far."""

    def wait(self, event: Event) -> None:
        """Have what is issued to this stream from now on wait for ``event``, as it is recorded now."""

    def close(self) -> None:
        """Let go of it, which does not wait for its work; harmless for one that was adopted, and again."""


class Memory(Protocol):
    """Memory of the device. Owns it."""

    @property
    def span(self) -> Span: ...

    def close(self) -> None:
        """Give it back at once: all work on it has been done. Again is harmless."""


class HostMemory(Protocol):
    """Memory of the host that the device reads and writes by itself (pinned). Owns it."""

    @property
    def span(self) -> Span: ...

    def write(self, place: int, data: memoryview) -> None:
        """Put ``data``, of bytes, at that offset; the device is done with what is there."""

    def read(self, place: int, nbytes: int) -> memoryview:
        """What is at that offset, which the device has written; no copy of it."""

    def close(self) -> None:
        """Give it back at once: all work on it has been done, and nobody looks at it. Again is harmless."""


class Mapping(Protocol):
    """Another process's memory, in this one. Owns the mapping.

    Attributes:
        span: the whole of the allocation, in this process.
    """

    @property
    def span(self) -> Span: ...

    def close(self) -> None:
        """Unmap it: all work on it has been done. Again is harmless."""


class Words(Protocol):
    """Words of host memory that several processes have mapped, and by which their streams wait for one another.

    A host may store them too, and so let go a stream that waits for a process that has died. An event could not be
    let go.
    """

    def store(self, stream: Stream, index: int, value: int) -> None:
        """Have ``stream`` store a word, behind all that was issued to it so far; whoever sees it sees that too.

        Raises:
            DeviceError: it cannot be issued.
        """

    def wait(self, stream: Stream, index: int, value: int) -> None:
        """Have what is issued to ``stream`` from now on wait until a word is at least ``value``.

        Raises:
            DeviceError: it cannot be issued.
        """

    def close(self) -> None:
        """Let go of them: all work that stores them or waits for them has been done. Again is harmless."""


class Export(NamedTuple):
    """Memory, as another process opens it.

    Attributes:
        handle: the allocation in which it lies, for `Device.open`; equal for all memory of one allocation.
        offset: where it begins in that, in bytes.
    """

    handle: bytes
    offset: int


class Device(Protocol):
    """A device, in this process.

    Attributes:
        identity: equal in all processes for one and the same device: "GPU-…", as CUDA names it.
        name: what it is called.
    """

    @property
    def identity(self) -> str: ...

    @property
    def name(self) -> str: ...

    def enter(self) -> None:
        """Make it this thread's current device: the first call of every thread that makes any."""

    def stream(self) -> Stream:
        """A new stream, which waits for no other unless told to."""

    def adopt(self, handle: int) -> Stream:
        """A stream of a library's (`Stream.handle`), which stays the library's."""

    def event(self) -> Event:
        """A new event, for this process."""

    def timed_event(self) -> TimedEvent:
        """A new one that tells when."""

    def allocate(self, nbytes: int) -> Memory:
        """Memory that other processes may open: whole, and from no pool. May wait for the device.

        Raises:
            DeviceError: there is not as much.
        """

    def copy(self, to: Span, source: Span, stream: Stream) -> None:
        """Issue a copy of all of ``source`` to the beginning of ``to``, in this device."""

    def allocate_host(self, nbytes: int) -> HostMemory:
        """Pinned memory of the host. May wait for the device.

        Raises:
            DeviceError: there is not as much.
        """

    def to_host(self, to: Span, source: Span, stream: Stream) -> None:
        """Issue a copy of all of ``source``, in this device, to the beginning of ``to``, in pinned memory."""

    def from_host(self, to: Span, source: Span, stream: Stream) -> None:
        """Issue a copy of all of ``source``, in pinned memory, to the beginning of ``to``, in this device."""

    def export(self, span: Span) -> Export:
        """What other processes open the allocation of ``span`` by.

        The allocation must not be freed as long as one of them has it open.

        Raises:
            NotExportable: its allocator makes memory that no process can open so.
        """

    def open(self, handle: bytes) -> Mapping:
        """Another process's allocation. Only one mapping of an allocation may be open in a process.

        Raises:
            DeviceError: it cannot be opened: its process has ended, or this process made it itself.
        """

    def words(self, memory: memoryview) -> Words:
        """Have streams reach words of host memory.

        Args:
            memory: writable, begins at a multiple of the page size, and is a whole number of 64-bit words. Keep it
                mapped until they are closed.

        Raises:
            DeviceError: the device cannot reach it.
        """

    def notify(self, stream: Stream, fd: int) -> None:
        """Add 1 to the eventfd ``fd`` when all that was issued to ``stream`` so far is done.

        Keep ``fd`` open until then. Nothing is added if the device fails before.

        Raises:
            CannotNotify: this machine lacks what is needed.
            DeviceError: it cannot be issued.
        """


class Link(Protocol):
    """A communicator of two ranks that carries memory one way: rank 0 sends, rank 1 receives.

    Made by the driver, and pickled to both processes before it is initialized there.
    """

    def initialize(self, rank: int) -> None:
        """Meet the other rank, which is in `initialize` too. Blocks.

        Raises:
            DeviceError: they cannot meet.
        """

    def group(self) -> AbstractContextManager[None]:
        """What is issued within goes together, in one piece of work; nothing else is to be issued within."""

    def send(self, span: Span, stream: Stream) -> None:
        """Issue sending this memory; it is not to change until the device has done so.

        Raises:
            DeviceError: it cannot be issued.
        """

    def receive(self, span: Span, stream: Stream) -> None:
        """Issue receiving into this memory, of the length that is sent.

        Raises:
            DeviceError: it cannot be issued.
        """

    def check(self) -> None:
        """See whether what was issued has failed.

        Raises:
            DeviceError: it has, and the link is of no more use: the other rank has died, for one.
        """

    def destroy(self) -> None:
        """Abort what was issued, so that its streams go on, and let go of the link. Again is harmless.

        May be called from any thread, also while another is in a call of the link.
        """
