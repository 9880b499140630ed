"""The simulated device, as a process sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import TypeVar

from async_adag.gpu.interface import DeviceError, Export, NotExportable, Span, Stream
from async_adag.gpu.simulated_clocks import Access, Clock, Misuse, Race
from async_adag.gpu.simulated_memory import (
    HOST,
    Addresses,
    Allocation,
    Part,
    SimulatedHostMemory,
    SimulatedMapping,
    SimulatedMemory,
)
from async_adag.gpu.simulated_schedule import Choose, Schedule
from async_adag.gpu.simulated_streams import SimulatedEvent, SimulatedStream, handle_of, number_of, stream_of
from async_adag.gpu.simulated_words import SimulatedWords, Word
from async_adag.gpu.simulated_work import Copy, Host, Kernel, Notify, Queue, Transform, Work


class World(Schedule):
    """What processes have in common.

    Attributes:
        memory: of each device, in bytes.
        bandwidth: of copies, in bytes per second.
        can_notify: whether `Device.notify` works.
        addresses: where memory is put.
        allocations: all memory, by its number.
        words: those of host memory, by their address.
        numbers: of whatever is made next.
    """

    def __init__(
        self,
        choose: Choose | None,
        memory: int,
        bandwidth: float,
        can_notify: bool,
        reuse_addresses: bool,
        transfers_at_once: int | None,
    ) -> None:
        super().__init__(choose, transfers_at_once)
        self.memory = memory
        self.bandwidth = bandwidth
        self.can_notify = can_notify
        self.addresses = Addresses(reuse_addresses)
        self.allocations: dict[int, Allocation] = {}
        self.words: dict[int, Word] = {}
        self.numbers = count()


Thing = TypeVar("Thing", SimulatedMemory, SimulatedHostMemory, SimulatedMapping, SimulatedEvent, SimulatedWords)


class SimulatedDevice:
    """A device in a simulated process, as `interface.Device`, and what only a simulation can do."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self._streams: dict[int, Queue] = {}
        self._things: list[SimulatedMemory | SimulatedMapping | SimulatedEvent | SimulatedWords] = []
        self._told: dict[int, Clock] = {}
        self._queue(0)

    @property
    def identity(self) -> str:
        return f"GPU-simulated-{self.host.device}"

    @property
    def name(self) -> str:
        return f"simulated device {self.host.device}"

    def enter(self) -> None:
        self.host.check()

    # Streams, events and words

    def _queue(self, handle: int) -> Queue:
        name = f"stream {len(self._streams)}"
        queue = Queue(next(self.world.numbers), handle, self.host, name)
        self._streams[handle] = queue
        self.world.queues.append(queue)
        return queue

    def stream(self) -> SimulatedStream:
        self.host.check()
        handle = 0x1000 * (self.host.number + 1) + 0x10 * len(self._streams)
        return SimulatedStream(self.world, self._queue(handle), own=True)

    def adopt(self, handle: int) -> SimulatedStream:
        """A stream by its handle: any of this process's, or 0, the default stream, which waits for no other here.

        Raises:
            DeviceError: there is none.
        """
        self.host.check()
        if handle not in self._streams:
            raise DeviceError(f"invalid resource handle: {self.host.name} has no stream {handle:#x}")
        return SimulatedStream(self.world, self._streams[handle], own=False)

    def event(self) -> SimulatedEvent:
        self.host.check()
        return self._keep(SimulatedEvent(self.world, self.host, next(self.world.numbers)))

    def timed_event(self) -> SimulatedEvent:
        """See `interface.Device`."""
        return self.event()

    def words(self, memory: memoryview) -> SimulatedWords:
        """See `interface.Device`. The memory of several processes is the same here: by its address."""
        world = self.world
        words = SimulatedWords(self.host, world.words, memory, self._of_mine, lambda: world.now, self._fault)
        return self._keep(words)

    def notify(self, stream: Stream, fd: int) -> None:
        if not self.world.can_notify:
            raise DeviceError("operation not supported: this simulation cannot notify")
        work = Notify(self._of_mine(stream), self.world.now)
        work.fd = fd
        work.told = self._told.setdefault(fd, Clock()).join

    def woken(self, fd: int) -> None:
        """This process has read that eventfd: all has happened that its notifications stood behind."""
        self.host.clock.join(self._told.get(fd, Clock()))

    # Memory

    def allocate(self, nbytes: int) -> SimulatedMemory:
        return self._allocate(nbytes, exportable=True)

    def allocate_private(self, nbytes: int) -> SimulatedMemory:
        """Memory such as allocators make that no other process can open; `export` refuses it."""
        return self._allocate(nbytes, exportable=False)

    def _allocate(self, nbytes: int, *, exportable: bool) -> SimulatedMemory:
        self.host.check()
        world = self.world
        used = sum(
            len(allocation.data)
            for allocation in world.allocations.values()
            if allocation.device == self.host.device
        )
        if nbytes < 1 or used + nbytes > world.memory:
            raise DeviceError(f"out of memory: {nbytes} bytes, of which {world.memory - used} are left")
        number = next(world.numbers)
        made = self._access("its allocation")
        allocation = Allocation(
            number, self.host.number, self.host.name, self.host.device, nbytes, exportable, made
        )
        world.allocations[number] = allocation
        return self._keep(SimulatedMemory(allocation, self.host.space.add(allocation), self._free))

    def allocate_host(self, nbytes: int) -> SimulatedHostMemory:
        self.host.check()
        number = next(self.world.numbers)
        made = self._access("its allocation")
        allocation = Allocation(number, self.host.number, self.host.name, HOST, nbytes, False, made)
        self.world.allocations[number] = allocation
        span = self.host.space.add(allocation)
        return self._keep(SimulatedHostMemory(allocation, span, self._free, self.write, self._look))

    def copy(self, to: Span, source: Span, stream: Stream) -> None:
        self._copy(to, source, stream, from_host=False, to_host=False)

    def to_host(self, to: Span, source: Span, stream: Stream) -> None:
        self._copy(to, source, stream, from_host=False, to_host=True)

    def from_host(self, to: Span, source: Span, stream: Stream) -> None:
        self._copy(to, source, stream, from_host=True, to_host=False)

    def _copy(self, to: Span, source: Span, stream: Stream, *, from_host: bool, to_host: bool) -> None:
        queue = self._of_mine(stream)
        if source.nbytes > to.nbytes:
            raise self._fault(f"{self.host.name} copies {source.nbytes} bytes to where {to.nbytes} are")
        destination = self._find(Span(to.address, source.nbytes))
        origin = self._find(source)
        for part, on_host in ((origin, from_host), (destination, to_host)):
            if (part.allocation.device == HOST) != on_host:
                raise self._fault(f"{self.host.name} copies the wrong way: {part.allocation} is not where it says")
        if (
            destination.allocation is origin.allocation
            and max(destination.begin, origin.begin) < min(destination.end, origin.end)
        ):  # fmt: skip
            raise self._fault(f"{self.host.name} copies {origin.allocation} onto itself")
        seconds = source.nbytes / self.world.bandwidth
        Copy(queue, self.world.now, seconds=seconds, reads=[origin], writes=[destination])

    def kernel(
        self,
        stream: Stream,
        *,
        reads: Sequence[Span] = (),
        writes: Sequence[Span] = (),
        seconds: float = 0.0,
        transform: Transform | None = None,
        what: str = "kernel",
    ) -> None:
        """Issue any other work.

        Args:
            stream: where.
            reads: what it reads.
            writes: what it writes.
            seconds: how long it takes.
            transform: what it does: called with the bytes of ``reads`` and of ``writes``, a memoryview for each.
            what: what it is called in errors and in the history.
        """
        queue = self._of_mine(stream)
        work = Kernel(
            queue,
            self.world.now,
            what=what,
            seconds=seconds,
            reads=[self._find(span) for span in reads],
            writes=[self._find(span) for span in writes],
        )
        work.transform = transform

    def write(self, span: Span, data: bytes) -> None:
        """Have the host itself write there, at once; it has to know that the device is done with it."""
        if len(data) != span.nbytes:
            raise ValueError(f"{len(data)} bytes for {span.nbytes}")
        part = self._find(span)
        try:
            part.write(self._access("a write"), self.host.clock)
        except Race as error:
            raise self.world.fault(error) from None
        part.view[:] = data

    def read(self, span: Span) -> bytes:
        """Have the host itself read there, at once; it has to know that the device has written it."""
        return bytes(self._look(span))

    def _look(self, span: Span) -> memoryview:
        part = self._find(span)
        try:
            part.read(self._access("a read"), self.host.clock)
        except Race as error:
            raise self.world.fault(error) from None
        return part.view

    def peek(self, span: Span) -> bytes:
        """What is there, for tests: no access, and never a race."""
        return bytes(self._find(span).view)

    def export(self, span: Span) -> Export:
        self.host.check()
        part = self._find(span)
        allocation = part.allocation
        if allocation.owner != self.host.number:
            raise NotExportable(f"{allocation} is another process's: only that one can export it")
        if not allocation.exportable:
            raise NotExportable(f"{allocation} was made by an allocator whose memory no other process can open")
        return Export(handle_of("memory", allocation.number), part.begin)

    def open(self, handle: bytes) -> SimulatedMapping:
        self.host.check()
        allocation = self.world.allocations.get(number_of("memory", handle))
        owner = next((host for host in self.world.hosts if allocation and host.number == allocation.owner), None)
        if allocation is None or owner is None or not owner.works or owner is self.host:
            raise DeviceError(
                f"invalid device context: {self.host.name} cannot open {allocation or 'freed memory'}"
            )
        if allocation.device != self.host.device:
            raise DeviceError(f"invalid device context: {allocation} is of another device")
        if self.host.number in allocation.open_in:
            raise self._fault(f"{self.host.name} opens {allocation}, which it has open")
        allocation.open_in.add(self.host.number)
        return self._keep(SimulatedMapping(allocation, self.host.space.add(allocation), self._unmap))

    def _free(self, allocation: Allocation, span: Span) -> None:
        if not self.host.works:
            return
        access = self._access("freeing it")
        names = [host.name for host in self.world.hosts if host.number in allocation.open_in]
        if names:
            raise self._fault(f"{self.host.name} frees {allocation}, which {names[0]} has open")
        self._unused(allocation, access, None)
        self.host.space.remove(span, "freed")
        del self.world.allocations[allocation.number]

    def _unmap(self, allocation: Allocation, span: Span) -> None:
        allocation.open_in.discard(self.host.number)
        if not self.host.works:
            return
        access = self._access("unmapping it")
        self._unused(allocation, access, self.host)
        allocation.touched[self.host.number] = access
        self.host.space.remove(span, "unmapped")
        self._drop_orphans()

    def _unused(self, allocation: Allocation, access: Access, by: Host | None) -> None:
        """Check that all use of memory, by one process or by any, has happened before what this one does now.

        Raises:
            Race: it has not.
        """
        hosts = {host.number: host for host in self.world.hosts if host.alive and by in (None, host)}
        actors = {queue.number for queue in self.world.queues if queue.host.number in hosts} | hosts.keys()
        for work, number in allocation.pending.items():
            if number in hosts and isinstance(work, Work):
                raise self.world.fault(
                    Race(f"{allocation}: {access} comes before {work.what} ({work.queue}), which was issued on it")
                )
        for actor, earlier in allocation.touched.items():
            if actor in actors and not self.host.clock.knows(earlier.epoch):
                raise self.world.fault(
                    Race(f"{allocation}: nothing orders {access} after {earlier}, which used it")
                )

    # Processes

    def tell(self) -> Clock:
        """What this process knows by now, to be heard by whoever gets a message from it: a frame, a word."""
        return self.host.clock.copy()

    def hear(self, told: Clock) -> None:
        """A message that was sent when ``told`` was made has arrived: what had happened then has happened."""
        self.host.clock.join(told)

    def kill(self) -> None:
        """End the process: its streams stop where they are, and whoever waits for them does so for ever.

        Its memory stays readable for those who have it open. Closing its things is harmless from now on.
        """
        self.host.alive = False
        for queue in self._streams.values():
            queue.clear()
        for allocation in self.world.allocations.values():
            allocation.open_in.discard(self.host.number)
        self._drop_orphans()

    def _drop_orphans(self) -> None:
        """Memory ends that dead processes have made and nobody has open."""
        living = {host.number for host in self.world.hosts if host.alive}
        self.world.allocations = {
            number: allocation
            for number, allocation in self.world.allocations.items()
            if allocation.owner in living or allocation.open_in
        }

    def belongings(self) -> Iterator[str]:
        """What this process has made or opened and not closed."""
        for thing in self._things:
            if not thing.closed:
                yield f"{thing}, in {self.host.name}"
        for handle, queue in self._streams.items():
            if handle and not queue.closed:
                yield str(queue)

    def _keep(self, thing: Thing) -> Thing:
        self._things = [kept for kept in self._things if not kept.closed]
        self._things.append(thing)
        return thing

    def _of_mine(self, stream: Stream) -> Queue:
        queue = stream_of(stream).queue()
        if queue.host is not self.host:
            raise self._fault(f"{self.host.name} issues work to {queue}")
        return queue

    def _access(self, what: str) -> Access:
        self.host.check()
        epoch = self.host.clock.tick(self.host.number)
        return Access(what, f"the host of {self.host.name}", self.world.now, epoch)

    def _find(self, span: Span) -> Part:
        self.host.check()
        return self.world.find(self.host, span)

    def _fault(self, message: str) -> Misuse:
        return self.world.fault(Misuse(message))
