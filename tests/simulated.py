"""What tests of the simulated device share: two processes on one device, and kernels that show what they saw."""

from __future__ import annotations

import mmap
import pickle

import pytest

from async_adag.gpu.interface import Span
from async_adag.gpu.simulated import (
    Misuse,
    SimulatedDevice,
    SimulatedLink,
    SimulatedStream,
    SimulatedWords,
    Simulation,
)

SIZE = 64

guards = pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "bare"])


class Pair:
    """A writer with memory and a stream, and a reader that has it mapped, and a stream too."""

    def __init__(self, **options) -> None:
        self.simulation = Simulation(**options)
        self.writer = self.simulation.process(name="writer")
        self.reader = self.simulation.process(name="reader")
        self.memory = self.writer.allocate(SIZE)
        self.reader.hear(self.writer.tell())
        self.mapping = self.reader.open(self.writer.export(self.memory.span).handle)
        self.sending = self.writer.stream()
        self.using = self.reader.stream()

    def link(self, **options) -> tuple[SimulatedLink, SimulatedLink]:
        """Both ends of a link from the writer to the reader."""
        return join(self.simulation, self.writer, self.reader, **options)


def words(pair: Pair) -> tuple[SimulatedWords, SimulatedWords]:
    """Words of host memory, as the writer has them and as the reader does."""
    page = mmap.mmap(-1, mmap.PAGESIZE)
    return pair.writer.words(memoryview(page)), pair.reader.words(memoryview(page))


def join(
    simulation: Simulation, sender: SimulatedDevice, receiver: SimulatedDevice, **options
) -> tuple[SimulatedLink, SimulatedLink]:
    link = simulation.link(sender, receiver, **options)
    ends = pickle.loads(pickle.dumps(link)), pickle.loads(pickle.dumps(link))
    for rank, end in enumerate(ends):
        end.initialize(rank)
    return ends


def fill(device: SimulatedDevice, stream: SimulatedStream, span: Span, byte: int) -> None:
    """Issue writing there."""

    def transform(_: list[memoryview], writes: list[memoryview]) -> None:
        writes[0][:] = bytes([byte]) * span.nbytes

    device.kernel(stream, writes=[span], transform=transform, what="fill", seconds=1.0)


def look(device: SimulatedDevice, stream: SimulatedStream, span: Span) -> list[bytes]:
    """Issue reading there; what was read stands in the list when it is done."""
    seen: list[bytes] = []

    def transform(reads: list[memoryview], _: list[memoryview]) -> None:
        seen.append(bytes(reads[0]))

    device.kernel(stream, reads=[span], transform=transform, what="look", seconds=1.0)
    return seen


def found(simulation: Simulation, guarded: bool, error: type[Misuse], match: str) -> None:
    """Run: all is well with its guard, and the fault is found without."""
    if guarded:
        simulation.run()
        assert not simulation.faults
    else:
        with pytest.raises(error, match=match):
            simulation.run()
