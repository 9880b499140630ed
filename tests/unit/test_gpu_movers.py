"""Movers of arrays of several libraries, each with a stream of its own, on the simulated device.

One of them is like jax: its stream is hidden, and is told of and waited for through DLPack alone.
"""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest

from async_adag.actor import gpu_edges
from async_adag.actor.gpu_edges import Incoming, _Gate, _Outgoing
from async_adag.gpu import ipc_receiver, links
from async_adag.gpu.acks import acks_size
from async_adag.gpu.interface import Span
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.simulated import Race, Simulation
from tests.gpu_edges import Page, SimulatedReceiver, SimulatedSender, contents, filling, wait_in_virtual_time

WINDOW = 2
SIZE = 3000
LIBRARIES = ("torch", "cupy", "jax")


class Process:
    """A process with three libraries: the streams of torch and cupy are told, that of jax is not."""

    def __init__(self, simulation, number, guards):
        self.device = simulation.process()
        self.device.ordinal = number
        self.guards = guards
        self.streams = {"torch": self.device.stream(), "cupy": self.device.stream()}
        self.hidden = self.device.stream()
        self.gate = _Gate(self.device)
        self.memory = []
        self.wrong = 0

    def stream_of(self, library):
        return self.hidden if library == "jax" else self.streams[library]

    def join(self, later, earlier):
        event = self.device.event()
        earlier.record(event)
        later.wait(event)
        event.close()

    def make(self, library, data):
        memory = self.device.allocate_private(SIZE)
        self.memory.append(memory)
        self.device.kernel(self.stream_of(library), writes=[memory.span], seconds=1e-3, transform=filling(data))
        return SimpleNamespace(package=library, span=memory.span, process=self)

    def use(self, array, expected):
        """Read an array in its own library, which takes a while."""

        def check(reads, _):
            self.wrong += bytes(reads[0]) != expected[:SIZE]

        self.device.kernel(self.stream_of(array.package), reads=[array.span], seconds=1e-3, transform=check)

    # What `gpu_edges` has of the libraries

    def expose(self, array, stream):
        if array.package == "jax" and "export" in self.guards:
            self.join(self.device.adopt(stream), self.hidden)
        return array.span, array

    def wrap(self, arrived, library):
        if library != "jax":
            return SimpleNamespace(package=library, span=arrived.span, keeps=arrived)
        if "import" in self.guards:
            self.join(self.hidden, self.streams["cupy"])
        memory = self.device.allocate_private(SIZE)
        self.memory.append(memory)
        self.device.copy(memory.span, Span(arrived.span.address, SIZE), self.hidden)
        if "copy" in self.guards:
            self.join(self.streams["cupy"], self.hidden)
        return SimpleNamespace(package="jax", span=memory.span)


def header_of(library):
    return SimpleNamespace(package=library, dtype="", shape=(SIZE,), strides=(), nbytes=lambda: SIZE)


def make_ends(kind, simulation, writer, reader):
    if kind == "ipc":
        slots = slots_for(WINDOW, 1)
        page = Page(acks_size(slots, 1))
        sender = SimulatedSender(writer.device, page, 1, slots)
        return sender, SimulatedReceiver(reader.device, page, 0, slots, 1)
    sending = simulation.link(writer.device, reader.device)
    receiving = type(sending)(sending._pairing)
    sending.initialize(0)
    receiving.initialize(1)
    return LinkSender(writer.device, [sending]), LinkReceiver(reader.device, receiving, backlog=1)


def run(monkeypatch, kind, libraries, guards, seed=1, executions=30):
    random = Random(seed)
    simulation = Simulation(choose=lambda works: random.randrange(len(works)))
    wait_in_virtual_time(monkeypatch, simulation)
    processes = [Process(simulation, number, guards) for number in range(2)]
    writer, reader = processes
    monkeypatch.setattr(gpu_edges, "library_of", lambda array: array.package)
    monkeypatch.setattr(gpu_edges, "expose", lambda array, stream: array.process.expose(array, stream))

    def current_stream(library, ordinal):
        return processes[ordinal].streams["cupy" if library == "jax" else library].handle

    def wrap(arrived, library, dtype, shape, ordinal, strides):
        return processes[ordinal].wrap(arrived, library)

    monkeypatch.setattr(gpu_edges, "current_stream", current_stream)
    monkeypatch.setattr(gpu_edges, "wrap", wrap)
    if "all" not in guards:
        for module in (ipc_receiver, links):
            monkeypatch.setattr(module, "behind_all", lambda streams, joining, event: streams[0])
    sender, receiver = make_ends(kind, simulation, writer, reader)
    outgoing = _Outgoing("a to b", writer.gate, sender)
    incoming = Incoming("a to b", reader.gate, receiver)
    headers = [header_of(library) for library in libraries]
    for execution in range(executions):
        data = [contents(place, execution, 0, SIZE) for place in range(len(libraries))]
        arrays = [writer.make(*made) for made in zip(libraries, data, strict=True)]
        note = outgoing.announce(arrays)
        outgoing.send(arrays)
        del arrays
        reader.device.hear(writer.device.tell())
        arrived = incoming.receive(headers, note)
        for array, expected in zip(arrived, data, strict=True):
            reader.use(array, expected)
        del arrived, array
        for _ in range(random.randrange(12)):
            simulation.step()
    simulation.run()
    incoming.close()
    outgoing.close()
    assert reader.wrong == 0
    for process in processes:
        own = len(process.memory) + len(process.streams) + 1
        assert len(list(process.device.belongings())) == own, "the ends of the edge have left something"


each_kind = pytest.mark.parametrize("kind", ["ipc", "link"])
GUARDS = frozenset({"export", "import", "copy", "all"})


@each_kind
@pytest.mark.parametrize(
    "libraries",
    [("torch",), ("cupy",), ("jax",), ("torch", "cupy"), ("jax", "torch"), LIBRARIES],
    ids=" and ".join,
)
def test_arrays_of_several_libraries_arrive_without_a_race(monkeypatch, kind, libraries):
    for seed in range(3):
        run(monkeypatch, kind, libraries, GUARDS, seed)


UNGUARDED = {
    "an array of jax is sent before it is computed": ("export", ("jax",)),
    "jax reads what has not arrived": ("import", ("jax",)),
    "memory is used again while jax copies from it": ("copy", ("jax",)),
    "memory is used again while the second library reads it": ("all", ("torch", "cupy")),
}


@each_kind
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
@pytest.mark.parametrize("race", UNGUARDED)
def test_without_its_guard_a_border_has_a_race(monkeypatch, race, guarded, kind):
    guard, libraries = UNGUARDED[race]
    if guarded:
        run(monkeypatch, kind, libraries, GUARDS)
        return
    with pytest.raises(Race):
        run(monkeypatch, kind, libraries, GUARDS - {guard})
