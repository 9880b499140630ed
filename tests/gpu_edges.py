"""Edges of GPU tensors between simulated processes: pages that carry what is known, allocators, graphs that run.

Hosts are generators that yield at each step, so that a test decides who goes on next, the device included.
"""

from __future__ import annotations

import contextlib
import mmap
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from async_adag.gpu import buffers
from async_adag.gpu.acks import Acks, Shared, acks_size
from async_adag.gpu.interface import DeviceError, Span
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.mappings import Mappings
from async_adag.gpu.simulated import SimulatedDevice, Simulation


class Page(mmap.mmap):
    """A page of acks, and what each host that wrote a word knew when it did so."""

    def __new__(cls, size: int):
        return super().__new__(cls, -1, size)

    def __init__(self, size: int) -> None:
        self.told: dict[tuple[Any, ...], Any] = {}
        self.writer_device: SimulatedDevice | None = None
        self.reader_devices: dict[int, SimulatedDevice] = {}


class ToldAcks(Acks):
    """Acks in a simulation: whoever reads a word learns what its writer knew."""

    def __init__(self, shared: Shared, page: Page, reader: int, slots: int, device: SimulatedDevice) -> None:
        super().__init__(shared, reader, slots)
        self._page = page
        self._told = page.told
        self._reader = reader
        self._device = device

    def _tell(self, *word: Any) -> None:
        self._told[(self._reader, *word)] = self._device.tell()

    def _hear(self, *word: Any) -> None:
        told = self._told.get((self._reader, *word))
        if told is not None:
            self._device.hear(told)

    @property
    def state(self) -> int:
        self._hear("state")
        return super().state

    @state.setter
    def state(self, state: int) -> None:
        self._tell("state")
        Acks.state.fset(self, state)

    def sign_in_reader(self) -> None:
        self._page.reader_devices[self._reader] = self._device

    def sign_in_writer(self) -> None:
        self._page.writer_device = self._device

    @property
    def reader_is_gone(self) -> bool:
        return self.reader_has_ended

    @property
    def reader_has_ended(self) -> bool:
        self._words[0]  # raises as the real one, where this end is closed
        return not self._page.reader_devices[self._reader].host.alive

    @property
    def writer_has_ended(self) -> bool:
        self._words[0]
        assert self._page.writer_device is not None
        return not self._page.writer_device.host.alive

    def issued(self, slot: int) -> int:
        self._hear("issued", slot)
        return super().issued(slot)

    def store_ack(self, stream: Any, slot: int, generation: int) -> None:
        self._tell("issued", slot)
        super().store_ack(stream, slot, generation)

    def acked(self, slot: int) -> int:
        return self._device_words.load(self._first + self._acked(slot))


class SimulatedSender(IpcSender):
    SMALLEST = 4096

    def __init__(self, device: SimulatedDevice, page: Page, *args: Any, **options: Any) -> None:
        self.page = page
        super().__init__(device, page, *args, **options)

    def _open_part(self, reader, slots):
        return ToldAcks(self._shared, self.page, reader, slots, self._device)


class SimulatedReceiver(IpcReceiver):
    def __init__(self, device: SimulatedDevice, page: Page, *args: Any, **options: Any) -> None:
        self.page = page
        super().__init__(device, page, *args, **options)
        self._letting_go.detach()  # by way of the page, it would keep the whole simulation until the end

    def _open_part(self, reader, slots):
        return ToldAcks(self._shared, self.page, reader, slots, self._device)


def wait_in_virtual_time(monkeypatch, simulation: Simulation) -> None:
    """Have the waits of edges let the device go on instead of sleeping."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        for _ in range(20):
            simulation.step()

    monkeypatch.setattr(buffers, "sleep", sleep)
    monkeypatch.setattr(buffers, "monotonic", lambda: now[0])


class Tensor:
    """A tensor of a library: when nobody refers to it any more, its allocator hands its memory out again."""

    def __init__(self, pool: Pool, memory: Any, nbytes: int) -> None:
        self._pool = pool
        self._memory = memory
        self.span = Span(memory.span.address, nbytes)

    def __del__(self) -> None:
        self._pool.free.append(self._memory)


class Pool:
    """As torch's caching allocator: freed memory is used again at once, in the order of the compute stream."""

    def __init__(self, device: SimulatedDevice, exportable: bool = False) -> None:
        """Begin with nothing.

        Args:
            device: where.
            exportable: whether other processes may open the memory, which then need not be copied.
        """
        self._device = device
        self._exportable = exportable
        self._made: list[Any] = []
        self.free: list[Any] = []

    def make(self, nbytes: int) -> Tensor:
        fitting = [memory for memory in self.free if memory.span.nbytes >= nbytes]
        if fitting:
            self.free.remove(fitting[-1])
            return Tensor(self, fitting[-1], nbytes)
        allocate = self._device.allocate if self._exportable else self._device.allocate_private
        self._made.append(allocate(max(nbytes, 4096)))
        return Tensor(self, self._made[-1], nbytes)

    def find(self, span: Span) -> tuple[int, int] | None:
        for number, memory in enumerate(self._made):
            offset = span.address - memory.span.address
            if 0 <= offset < memory.span.nbytes and self._exportable:
                return number, offset
        return None

    def memory(self, number: int) -> Any:
        return self._made[number]

    def close(self) -> None:
        for memory in self._made:
            memory.close()


def contents(node: int, execution: int, number: int, nbytes: int) -> bytes:
    """What is in a tensor."""
    start = node * 89 + execution * 31 + number * 7
    return bytes((start + at) % 251 for at in range(min(nbytes, 251))) * (nbytes // 251 + 1)


def filling(*expected: bytes) -> Callable[[list[memoryview], list[memoryview]], None]:
    def fill(_: list[memoryview], writes: list[memoryview]) -> None:
        for view, data in zip(writes, expected, strict=True):
            view[:] = data[: len(view)]

    return fill


@dataclass
class Node:
    """A node of a graph: where it runs, and which earlier ones it reads."""

    process: int
    inputs: list[int]


@dataclass
class Graph:
    """Nodes in the order of the plan.

    Attributes:
        nodes: them.
        window: of each ring, in frames.
        kinds: for each node, "ipc" or "link".
        devices: the device of each process.
    """

    nodes: list[Node]
    window: int
    kinds: list[str]
    devices: list[int]

    def readers(self, node: int) -> list[int]:
        """The processes to which a node's result is sent."""
        mine = self.nodes[node].process
        return sorted({other.process for other in self.nodes if node in other.inputs} - {mine})


@dataclass
class Frame:
    note: Any
    sizes: list[int]
    told: Any


class Stopped(Exception):
    """The graph is broken, or being torn down."""


@dataclass
class Process:
    device: SimulatedDevice
    compute: Any
    pool: Pool
    senders: dict[int, Any] = field(default_factory=dict)
    receivers: dict[int, Any] = field(default_factory=dict)
    links: list[Any] = field(default_factory=list)
    kept: list[tuple[int, Sequence[Any], tuple[bytes, ...]]] = field(default_factory=list)
    dead: bool = False


Step = Iterator[None]


class Run:
    """A graph that runs in a simulation."""

    def __init__(
        self,
        graph: Graph,
        simulation: Simulation,
        random: Random,
        *,
        executions: int,
        sizes: Callable[[int, int], list[int]],
        withdrawing: float = 0.0,
        keeping: float = 0.0,
        in_order: bool = True,
        serial: bool = False,
        blocking: bool = False,
        pools: Sequence[int] = (),
        sender: type[IpcSender] = SimulatedSender,
        receiver: type[IpcReceiver] = SimulatedReceiver,
        link_sender: type[LinkSender] = LinkSender,
        link_receiver: type[LinkReceiver] = LinkReceiver,
    ) -> None:
        """Make its processes and edges.

        Args:
            graph: it.
            simulation: where.
            random: what decides about everything else.
            executions: how many.
            sizes: of the tensors of a node in an execution.
            withdrawing: how probable it is that a node fails after its tensors were announced.
            keeping: how probable it is that a reader keeps what it has received.
            in_order: whether processes receive in the order of the plan; else where something is needed.
            serial: whether all streams of a process are one, as if the device had but one queue.
            blocking: whether hosts wait for the device after each step, as a call that allocates may.
            pools: the processes whose tensors lie where other processes can open them.
            sender: the writer's end of IPC edges.
            receiver: the reader's.
            link_sender: the writer's end of links.
            link_receiver: the reader's.
        """
        self.graph = graph
        self.simulation = simulation
        self.random = random
        self.executions = executions
        self.sizes = sizes
        self.withdrawing = withdrawing
        self.keeping = keeping
        self.in_order = in_order
        self.blocking = blocking
        self.stopped = False
        self.errors: list[str] = []
        self.refused = 0  # how often a host was asked to go on and could not
        self.rings: dict[tuple[int, int], deque[Frame]] = {}
        self.processes: list[Process] = []
        for process, number in enumerate(graph.devices):
            device = simulation.process(number)
            if serial:
                device.stream = lambda device=device: device.adopt(0)  # type: ignore[method-assign]
            self.processes.append(Process(device, device.adopt(0), Pool(device, process in pools)))
        mappings = [Mappings(process.device) for process in self.processes]
        for node, kind in enumerate(graph.kinds):
            readers = graph.readers(node)
            if not readers:
                continue
            writer = self.processes[graph.nodes[node].process]
            if kind == "ipc":
                slots = slots_for(graph.window, len(readers))
                page = Page(acks_size(slots, len(readers)))
                writer.senders[node] = sender(writer.device, page, len(readers), slots, writer.pool)
                for index, reader in enumerate(readers):
                    process = self.processes[reader]
                    process.receivers[node] = receiver(
                        process.device, page, index, slots, len(readers), mappings[reader]
                    )
            else:
                links = []
                for reader in readers:
                    process = self.processes[reader]
                    pair = [simulation.link(writer.device, process.device)]
                    pair.append(type(pair[0])(pair[0]._pairing))
                    pair[0].initialize(0)
                    pair[1].initialize(1)
                    links.append(pair[0])
                    process.links.append(pair[1])
                    process.receivers[node] = link_receiver(process.device, pair[1])
                writer.links += links
                writer.senders[node] = link_sender(writer.device, links)
            self.rings |= {(node, reader): deque() for reader in readers}

    def host(self, number: int) -> Step:
        """What a process does; a step at a time."""
        process = self.processes[number]
        try:
            for execution in range(self.executions):
                yield from self._execute(number, process, execution)
                self._look_at_kept(process, execution)
        except Stopped:
            pass
        except DeviceError as error:
            self.stopped = True
            self.errors.append(str(error))  # the error itself would keep what the host has

    def _execute(self, number: int, process: Process, execution: int) -> Step:
        held: dict[int, Sequence[Any] | None] = {}  # what this process has of this execution; None: an error
        waiting: list[int] = []
        for index, node in enumerate(self.graph.nodes):
            if node.process == number:
                if not self.in_order:
                    for earlier in [at for at in waiting if at in node.inputs]:
                        waiting.remove(earlier)
                        yield from self._receive(number, process, earlier, execution, held)
                yield from self._compute(process, index, execution, held)
            elif number in self.graph.readers(index):
                waiting.append(index)
                if self.in_order:
                    waiting.pop()
                    yield from self._receive(number, process, index, execution, held)
        for earlier in waiting:
            yield from self._receive(number, process, earlier, execution, held)

    def _compute(self, process: Process, index: int, execution: int, held: dict[int, Any]) -> Step:
        inputs = [held[at] for at in self.graph.nodes[index].inputs]
        failed = any(value is None for value in inputs)
        tensors = None
        sizes = self.sizes(index, execution)
        if not failed:
            reads = [tensor.span for value in inputs for tensor in value]
            expected = [
                contents(at, execution, place, tensor.span.nbytes)
                for at in self.graph.nodes[index].inputs
                for place, tensor in enumerate(held[at])
            ]
            made = [contents(index, execution, place, size) for place, size in enumerate(sizes)]
            tensors = [process.pool.make(size) for size in sizes]
            seconds = self.random.choice([0.0, 1e-6, 1e-3])
            process.device.kernel(
                process.compute, reads=reads, seconds=seconds, transform=self._checking(*expected), what="use"
            )
            process.device.kernel(
                process.compute, writes=[tensor.span for tensor in tensors], transform=filling(*made), what="make"
            )
        held[index] = tensors
        del inputs
        yield from self._pause(process)
        if index in process.senders:
            yield from self._publish(process, index, tensors, held)
        if self.random.random() < 0.5:
            held[index] = held[index] and list(held[index])  # kept until the execution is over
        for at in [at for at in held if not self._is_read_later(process, at, index)]:
            held[at] = () if held[at] is not None else None

    def _is_read_later(self, process: Process, at: int, index: int) -> bool:
        later = self.graph.nodes[index + 1 :]
        return any(at in node.inputs and self.processes[node.process] is process for node in later)

    def _publish(self, process: Process, index: int, tensors: Any, held: dict[int, Any]) -> Step:
        sender = process.senders[index]
        rings = [self.rings[index, reader] for reader in self.graph.readers(index)]
        ahead = self.random.random() < 0.5
        note = None
        if not ahead:
            yield from self._until(process, lambda: all(len(ring) < self.graph.window for ring in rings))
        if tensors is not None:
            note = sender.announce([tensor.span for tensor in tensors], tensors, process.compute)
        yield from self._until(process, lambda: all(len(ring) < self.graph.window for ring in rings))
        if tensors is not None and self.random.random() < self.withdrawing:
            sender.withdraw()
            note = tensors = None
        sizes = [tensor.span.nbytes for tensor in tensors or ()]
        for ring in rings:
            ring.append(Frame(note, sizes, process.device.tell()))
        yield from self._pause(process)
        if tensors is not None:
            sender.send()
        yield from self._pause(process)

    def _receive(self, number: int, process: Process, index: int, execution: int, held: dict[int, Any]) -> Step:
        ring = self.rings[index, number]
        yield from self._until(process, lambda: bool(ring))
        frame = ring.popleft()
        yield  # the writer may have the place in the ring already
        process.device.hear(frame.told)
        if frame.note is None:
            held[index] = None
            return
        arrived = process.receivers[index].receive(frame.note, frame.sizes, process.compute)
        held[index] = arrived
        if self.random.random() < self.keeping:
            expected = tuple(contents(index, execution, place, size) for place, size in enumerate(frame.sizes))
            process.kept.append((execution + self.random.randrange(1, 8), arrived, expected))
        yield from self._pause(process)

    def _look_at_kept(self, process: Process, execution: int) -> None:
        for _, arrived, expected in process.kept:
            spans = [part.span for part in arrived]
            process.device.kernel(
                process.compute, reads=spans, transform=self._checking(*expected), what="look again"
            )
        process.kept = [entry for entry in process.kept if entry[0] > execution]

    def _checking(self, *expected: bytes) -> Callable[[list[memoryview], list[memoryview]], None]:
        def check(reads: list[memoryview], _: list[memoryview]) -> None:
            if self.stopped:
                return  # what was still to be received when its link was destroyed was not
            for view, data in zip(reads, expected, strict=True):
                assert bytes(view) == data[: len(view)], "these are not the bytes that were sent"

        return check

    def _pause(self, process: Process) -> Step:
        if not self.blocking:
            yield
            return
        event = process.device.event()
        process.compute.record(event)
        yield from self._until(process, event.query)
        event.close()

    def _until(self, process: Process, condition: Callable[[], bool]) -> Step:
        while True:
            yield
            if self.stopped:
                raise Stopped
            if condition():
                return
            self.refused += 1

    def kill(self, number: int) -> None:
        """End a process; nobody else knows as yet."""
        self.processes[number].dead = True
        self.processes[number].device.kill()

    def stop(self) -> None:
        """Somebody has found out that the graph is broken: every host stops at its next step."""
        self.stopped = True

    def close(self) -> None:
        """Tear it down as processes do: receivers, then senders; then drop what is kept, and again."""
        living = [process for process in self.processes if not process.dead]
        for process in living:
            for link in process.links if self.stopped else ():
                link.destroy()
        for turn in range(3):
            self.simulation.settle()
            for process in living if turn == 2 else ():
                if process.device.host.failure:
                    self.kill(self.processes.index(process))  # a process whose device has failed ends in the end
            living = [process for process in living if not process.dead]
            for process in living:
                for receiver in process.receivers.values():
                    receiver.close()
            for process in living:
                for sender in process.senders.values():
                    sender.close()
            for process in living:
                process.kept.clear()
        if not self.simulation.settle():
            for process in living:
                with contextlib.suppress(DeviceError):
                    know_all(process.device)
                process.pool.close()

    def belongings(self) -> list[str]:
        """What is left of living processes."""
        return self.simulation.belongings()


def know_all(device: SimulatedDevice) -> None:
    """As a process that waits for its whole device."""
    event = device.event()
    try:
        device.adopt(0).record(event)
        event.synchronize()
    finally:
        event.close()


def run_hosts(run: Run, random: Random, *, events: Sequence[Callable[[], None]] = ()) -> None:
    """Let hosts and device go on, in an order that ``random`` chooses, until the hosts are done.

    Args:
        run: of what.
        random: chooses.
        events: things that happen on the way, at random moments, in this order.

    Raises:
        AssertionError: nobody goes on.
    """
    hosts = {number: run.host(number) for number in range(len(run.processes))}
    left = list(events)
    idle = 0
    while True:
        hosts = {number: host for number, host in hosts.items() if not run.processes[number].dead}
        if not hosts:
            return
        if left and random.random() < 0.01:
            left.pop(0)()
            idle = 0
            continue
        choice = random.randrange(len(hosts) + 1)
        if choice == len(hosts):
            went_on = run.simulation.step()
        else:
            number = list(hosts)[choice]
            refused = run.refused
            if next(hosts[number], StopIteration) is StopIteration:
                del hosts[number]
            went_on = run.refused == refused
        idle = 0 if went_on else idle + 1
        # Each is asked many times over, whoever may go on included.
        assert idle < 200 or left, f"nobody goes on: {run.simulation.waiting()}"
