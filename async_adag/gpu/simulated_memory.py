"""The memory of the simulated device: real bytes, who has used them, and where processes see them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from async_adag.gpu.interface import Span
from async_adag.gpu.simulated_clocks import Access, Clock, Misuse, Race

FRESH = 0xCD  # what memory is full of before anything was written
ALIGNMENT = 512  # of allocations, in bytes
HOST = -1  # in place of a device's number: pinned memory
GAP = 1 << 20  # between allocations: no span reaches from one into the next


@dataclass(slots=True)
class Segment:
    """Neighbouring bytes with one history.

    Attributes:
        begin: the offset of the first.
        end: behind the last.
        write: what wrote them last.
        reads: what has read them since; those that happened before another of them are left out.
    """

    begin: int
    end: int
    write: Access
    reads: list[Access] = field(default_factory=list)


class Shadow:
    """Who wrote each byte of an allocation last, and who has read it since."""

    def __init__(self, name: str, nbytes: int, made: Access) -> None:
        self._name = name
        self._segments = [Segment(0, nbytes, made)]

    def read(self, begin: int, end: int, access: Access, clock: Clock) -> None:
        """Note a read, by somebody with that clock.

        Raises:
            Race: it need not have happened after the last write.
        """
        for segment in self._between(begin, end):
            self._in_order(segment.write, "written", access, "read", segment, clock)
            segment.reads = [earlier for earlier in segment.reads if not clock.knows(earlier.epoch)]
            segment.reads.append(access)

    def write(self, begin: int, end: int, access: Access, clock: Clock | None) -> None:
        """Note a write, by somebody with that clock (None: it is not checked).

        Raises:
            Race: it need not have happened after the last write and all reads since.
        """
        for segment in self._between(begin, end):
            if clock is None:
                continue
            self._in_order(segment.write, "written", access, "written", segment, clock)
            for earlier in segment.reads:
                self._in_order(earlier, "read", access, "written", segment, clock)
        if begin < end:
            first = self._index(begin)
            self._segments[first : self._index(end - 1) + 1] = [Segment(begin, end, access)]

    def _index(self, offset: int) -> int:
        return bisect_right(self._segments, offset, key=_begin) - 1

    def _between(self, begin: int, end: int) -> Iterator[Segment]:
        """The segments of a range, which are cut so that they end with it."""
        if begin < end:
            self._cut(begin)
            self._cut(end)
            yield from self._segments[self._index(begin) : self._index(end - 1) + 1]

    def _cut(self, offset: int) -> None:
        index = self._index(offset)
        segment = self._segments[index]
        if segment.begin < offset < segment.end:
            self._segments.insert(index + 1, replace(segment, begin=offset, reads=[*segment.reads]))
            segment.end = offset

    def _in_order(
        self, earlier: Access, did: str, later: Access, does: str, segment: Segment, clock: Clock
    ) -> None:
        if not clock.knows(earlier.epoch):
            raise Race(
                f"bytes {segment.begin} to {segment.end} of {self._name} are {does} by {later}, "
                f"which nothing orders after {earlier}, by which they were {did}"
            )


def _begin(segment: Segment) -> int:
    return segment.begin


class Allocation:
    """Memory of a device, whoever sees it.

    Attributes:
        number: which of the simulation's.
        owner: the number of the process that made it.
        owner_name: what that is called.
        device: the number of the device.
        exportable: whether other processes may open it.
        data: the bytes.
        shadow: who has used which of them.
        touched: the last access of each actor, by its number.
        pending: for each piece of issued work that will use it, the number of the process that issued it.
        open_in: the numbers of the processes that have it mapped.
    """

    def __init__(
        self, number: int, owner: int, owner_name: str, device: int, nbytes: int, exportable: bool, made: Access
    ) -> None:
        self.number = number
        self.owner = owner
        self.owner_name = owner_name
        self.device = device
        self.exportable = exportable
        self.data = bytearray([FRESH]) * nbytes
        self.shadow = Shadow(str(self), nbytes, made)
        self.touched = {made.epoch.actor: made}
        self.pending: dict[object, int] = {}
        self.open_in: set[int] = set()

    def __str__(self) -> str:
        return f"memory #{self.number} of {self.owner_name} ({len(self.data)} bytes)"


class Part(NamedTuple):
    """A range of an allocation.

    Attributes:
        allocation: in which it lies.
        begin: its first byte.
        end: behind its last.
    """

    allocation: Allocation
    begin: int
    end: int

    @property
    def view(self) -> memoryview:
        """Its bytes, to be read and written."""
        return memoryview(self.allocation.data)[self.begin : self.end]

    def read(self, access: Access, clock: Clock | None) -> None:
        """Note a read; raises Race. Without a clock it is not checked, and nobody need wait for it."""
        self.allocation.touched[access.epoch.actor] = access
        if clock is not None:
            self.allocation.shadow.read(self.begin, self.end, access, clock)

    def write(self, access: Access, clock: Clock | None) -> None:
        """Note a write; raises Race. Without a clock it is not checked."""
        self.allocation.touched[access.epoch.actor] = access
        self.allocation.shadow.write(self.begin, self.end, access, clock)


class SimulatedMemory:
    """Memory that its process made."""

    def __init__(self, allocation: Allocation, span: Span, end: Callable[[Allocation, Span], None]) -> None:
        self.allocation = allocation
        self.closed = False
        self._span = span
        self._end = end

    @property
    def span(self) -> Span:
        return self._span

    def close(self) -> None:
        """Give it back, or unmap it.

        Raises:
            Misuse: another process has it open.
            Race: work on it need not be done.
        """
        if not self.closed:
            self.closed = True
            self._end(self.allocation, self._span)

    def __str__(self) -> str:
        return str(self.allocation)


class SimulatedHostMemory(SimulatedMemory):
    """Pinned memory of the host that its process made."""

    def __init__(
        self,
        allocation: Allocation,
        span: Span,
        end: Callable[[Allocation, Span], None],
        write: Callable[[Span, bytes], None],
        look: Callable[[Span], memoryview],
    ) -> None:
        super().__init__(allocation, span, end)
        self._write = write
        self._look = look

    def write(self, place: int, data: memoryview) -> None:
        """See `interface.HostMemory`.

        Raises:
            Race: the device need not be done with what is there.
        """
        self._write(Span(self._span.address + place, data.nbytes), bytes(data))

    def read(self, place: int, nbytes: int) -> memoryview:
        """See `interface.HostMemory`.

        Raises:
            Race: the device need not have written it.
        """
        return self._look(Span(self._span.address + place, nbytes))


class SimulatedMapping(SimulatedMemory):
    """Another process's memory, in this one."""

    def __str__(self) -> str:
        return f"the mapping of {self.allocation}"


class Addresses:
    """Where allocations begin: each at an address of its own in each process, unless freed ones are reused."""

    def __init__(self, reuse: bool) -> None:
        self._next = 0x7F00_0000_0000
        self._reuse = reuse
        self._free: dict[int, list[int]] = {}

    def take(self, nbytes: int) -> int:
        """An address for so many bytes."""
        length = self._length(nbytes)
        if self._free.get(length):
            return self._free[length].pop()
        address = self._next
        self._next += length + GAP
        return address

    def give(self, address: int, nbytes: int) -> None:
        """It is free."""
        if self._reuse:
            self._free.setdefault(self._length(nbytes), []).append(address)

    def _length(self, nbytes: int) -> int:
        return max(1, -(-nbytes // ALIGNMENT)) * ALIGNMENT


class AddressSpace:
    """What a process sees of the memory of its device."""

    def __init__(self, process: str, addresses: Addresses) -> None:
        self._process = process
        self._addresses = addresses
        self._seen: dict[int, Allocation] = {}
        self._bases: list[int] = []
        self._gone: dict[int, tuple[int, str]] = {}

    def add(self, allocation: Allocation) -> Span:
        """Where it is seen from now on."""
        base = self._addresses.take(len(allocation.data))
        self._gone.pop(base, None)
        self._seen[base] = allocation
        self._bases.insert(bisect_right(self._bases, base), base)
        return Span(base, len(allocation.data))

    def remove(self, span: Span, why: str) -> None:
        """It is seen no longer, because it was freed, or unmapped."""
        allocation = self._seen.pop(span.address)
        self._bases.remove(span.address)
        self._gone[span.address] = (span.nbytes, f"{allocation}, which was {why}")
        self._addresses.give(span.address, span.nbytes)

    def find(self, span: Span) -> Part:
        """What lies there.

        Raises:
            Misuse: nothing that this process may use, or not as much.
        """
        index = bisect_right(self._bases, span.address) - 1
        if index >= 0 and span.nbytes >= 0:
            base = self._bases[index]
            allocation = self._seen[base]
            begin = span.address - base
            if begin + span.nbytes <= len(allocation.data) and (span.nbytes or begin <= len(allocation.data)):
                return Part(allocation, begin, begin + span.nbytes)
            if begin < len(allocation.data):
                raise Misuse(f"{_hex(span)} reaches beyond the end of {allocation} in {self._process}")
        for base, (nbytes, what) in self._gone.items():
            if base <= span.address < base + max(nbytes, 1):
                raise Misuse(f"{_hex(span)} in {self._process} is {what}")
        raise Misuse(f"{_hex(span)} is no memory of {self._process}'s")


def _hex(span: Span) -> str:
    return f"{span.nbytes} bytes at {span.address:#x}"
