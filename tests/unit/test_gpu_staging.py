"""Copies through pinned memory, on the simulated device: right bytes, no race, nothing left."""

from __future__ import annotations

import gc
import threading
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.gpu.interface import DeviceError, Span
from async_adag.gpu.simulated import Misuse, Race, Simulation
from async_adag.gpu.staging import FromHost, PinnedBuffers, ToHost
from tests.gpu_edges import wait_in_virtual_time

SIZES = [1, 100, 5000, 70_000]
seeded = st.integers(0, 1 << 32).map(Random)
few = settings(max_examples=30)


def filled(device, stream, data):
    """Memory of the device that a kernel fills with ``data``."""
    memory = device.allocate(len(data))

    def fill(reads, writes):
        writes[0][:] = data

    device.kernel(stream, writes=[memory.span], seconds=1e-5, transform=fill)
    return memory


def read_on(device, stream, spans, seen):
    """A kernel that notes what it finds there."""

    def look(reads, writes):
        seen.append([bytes(part) for part in reads])

    device.kernel(stream, reads=spans, seconds=1e-5, transform=look)


@few
@given(seeded, st.lists(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), min_size=1, max_size=8))
def test_what_comes_to_the_host_is_what_was_computed(random, executions):
    simulation = Simulation(choose=lambda works: random.randrange(len(works)))
    device = simulation.process()
    stream = device.stream()
    edge = ToHost(device)
    for sizes in executions:
        parts = [random.randbytes(size) for size in sizes]
        memories = [filled(device, stream, part) for part in parts]
        views = edge.fetch([memory.span for memory in memories], stream)
        assert [bytes(view) for view in views] == parts
        edge.release()
        for memory in memories:
            memory.close()
    edge.close()
    edge.close()
    stream.close()
    assert simulation.belongings() == []


@few
@given(seeded, st.lists(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4), min_size=1, max_size=30))
def test_what_comes_to_the_device_is_what_the_host_had(random, executions):
    simulation = Simulation(choose=lambda works: random.randrange(len(works)), reuse_addresses=True)
    device = simulation.process()
    stream = device.stream()
    edge = FromHost(device, backlog=2, pinned=2, overlap=random.random() < 0.5)
    seen, expected, kept = [], [], []
    for sizes in executions:
        parts = [bytearray(random.randbytes(size)) for size in sizes]
        expected.append([bytes(part) for part in parts])
        arrived = edge.place([memoryview(part) for part in parts], stream)
        for part in parts:
            part[:] = b"\0" * len(part)  # the frame's block is another's by now
        read_on(device, stream, [one.span for one in arrived], seen)
        kept.append(arrived)
        if random.random() < 0.6:
            kept.pop(random.randrange(len(kept)))
        for _ in range(random.randrange(4)):
            simulation.step()
    simulation.run()
    assert seen == expected
    with pytest.MonkeyPatch.context() as patch:
        wait_in_virtual_time(patch, simulation)
        edge.close()
        kept.clear()
        del arrived
        gc.collect()
    stream.close()
    assert simulation.belongings() == []


class Hasty(ToHost):
    def _await(self):
        pass


class Careless(PinnedBuffers):
    @staticmethod
    def _is_idle(pinned):
        return True


class Reusing(FromHost):
    @staticmethod
    def _make_pinned(device, kept):
        return Careless(device, kept)


class Unordered(FromHost):
    def _wait(self, stream):
        pass


@pytest.mark.parametrize("edge", [ToHost, Hasty], ids=["guarded", "unguarded"])
def test_bytes_that_are_read_before_the_device_has_brought_them(edge):
    simulation = Simulation()
    device = simulation.process()
    stream = device.stream()
    made = edge(device)
    memory = filled(device, stream, b"x" * 5000)

    def go():
        (view,) = made.fetch([memory.span], stream)
        fetched = bytes(view)
        simulation.run()
        return fetched

    if edge is ToHost:
        assert go() == b"x" * 5000
        return
    with pytest.raises(Race):
        go()


@pytest.mark.parametrize("edge", [FromHost, Reusing, Unordered], ids=["guarded", "reusing", "unordered"])
def test_without_its_guard_a_copy_to_the_device_has_a_race(edge):
    """Pinned memory is filled again while the device reads it; a kernel reads what has not arrived."""
    simulation = Simulation()
    device = simulation.process()
    stream = device.stream()
    made = edge(device, pinned=2)
    seen = []

    def go():
        for number in range(8):
            (arrived,) = made.place([memoryview(bytes([number]) * 70_000)], stream)
            read_on(device, stream, [arrived.span], seen)
        simulation.run()

    if edge is not FromHost:
        with pytest.raises(Race):
            go()
        return
    go()
    assert seen == [[bytes([number]) * 70_000] for number in range(8)]


def test_pinned_memory_is_made_once_for_a_size():
    simulation = Simulation()
    device = simulation.process()
    stream = device.stream()
    memory = filled(device, stream, b"x" * 100_000)
    edge = ToHost(device)
    for size in [100_000, 90_000, 100_000] * 5:
        edge.fetch([Span(memory.span.address, size)], stream)
        edge.release()
    assert sum("memory" in thing for thing in simulation.belongings()) == 2


def test_a_device_that_fails_says_so():
    simulation = Simulation()
    device = simulation.process()
    stream = device.stream()
    edge = ToHost(device)
    memory = filled(device, stream, b"x" * 100)
    simulation.fail(lambda work: work.kind == "copy")
    with pytest.raises(DeviceError):
        edge.fetch([memory.span], stream)
    edge.close()


def test_whoever_drops_something_after_the_end_enters_the_device(monkeypatch):
    simulation = Simulation()
    device = simulation.process()
    wait_in_virtual_time(monkeypatch, simulation)
    stream = device.stream()
    edge = FromHost(device)
    kept = [edge.place([memoryview(b"x" * 100)], stream) for _ in range(3)]
    simulation.run()
    entered: list[int | None] = []
    monkeypatch.setattr(device, "enter", lambda: entered.append(threading.get_ident()))
    kept.pop()
    edge._arrivals.collect()
    assert entered == []
    edge.close()
    thread = threading.Thread(target=kept.pop)
    thread.start()
    thread.join()
    assert entered == [thread.ident]


def test_copies_the_wrong_way_are_misuse():
    simulation = Simulation()
    device = simulation.process()
    stream = device.stream()
    here, there = device.allocate(100), device.allocate_host(100)
    for copy, to, source in [
        (device.copy, here, there),
        (device.to_host, here, there),
        (device.from_host, there, here),
        (device.copy, there, here),
    ]:
        with pytest.raises(Misuse, match="wrong way"):
            copy(to.span, source.span, stream)
