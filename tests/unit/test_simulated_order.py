"""The simulated device finds what is not ordered, and only that: each rule with its guard, and without."""

from __future__ import annotations

import pytest

from async_adag.gpu.interface import Span
from async_adag.gpu.simulated import Misuse, Race, SimulatedDevice, Simulation

SIZE = 64


class Pair:
    """Two processes on one device; memory of the writer, and the reader's mapping of it."""

    def __init__(self) -> None:
        self.simulation = Simulation()
        self.writer = self.simulation.process(name="writer")
        self.reader = self.simulation.process(name="reader")
        self.memory = self.writer.allocate(SIZE)
        self.reader.hear(self.writer.tell())
        self.mapping = self.reader.open(self.writer.export(self.memory.span).handle)
        self.sending = self.writer.stream()
        self.using = self.reader.stream()

    def produce(self, byte: int = 1) -> None:
        fill(self.writer, self.sending, self.memory.span, byte)

    def consume(self) -> list[bytes]:
        """Issue the reader's use; returns where the bytes will be that it saw."""
        seen: list[bytes] = []
        look(self.reader, self.using, self.mapping.span, seen)
        return seen


def fill(device: SimulatedDevice, stream, span: Span, byte: int) -> None:
    def transform(_: list[memoryview], writes: list[memoryview]) -> None:
        writes[0][:] = bytes([byte]) * span.nbytes

    device.kernel(stream, writes=[span], transform=transform, what="fill", seconds=1.0)


def look(device: SimulatedDevice, stream, span: Span, seen: list[bytes]) -> None:
    def transform(reads: list[memoryview], _: list[memoryview]) -> None:
        seen.append(bytes(reads[0]))

    device.kernel(stream, reads=[span], transform=transform, what="look", seconds=1.0)


def outcome(simulation: Simulation, guarded: bool, error: type[Misuse], match: str) -> None:
    """With its guard the program ends well; without, the fault is found."""
    if guarded:
        simulation.run()
    else:
        with pytest.raises(error, match=match):
            simulation.run()
        with pytest.raises(error, match=match):
            simulation.step()  # whoever swallows it meets it again


guards = pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "bare"])


@guards
def test_a_read_on_another_stream_needs_the_writers_event(guarded):
    pair = Pair()
    event = pair.writer.event()
    other = pair.writer.stream()
    seen: list[bytes] = []
    pair.produce(7)
    pair.sending.record(event)
    if guarded:
        other.wait(event)
    look(pair.writer, other, pair.memory.span, seen)
    outcome(pair.simulation, guarded, Race, r"read by look #.*stream 2 of writer.*fill #0 .*stream 1 of writer")
    assert seen == ([bytes([7]) * SIZE] if guarded else [])
