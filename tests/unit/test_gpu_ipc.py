"""Edges between processes on one GPU, one promise at a time; `test_gpu_graphs` has the rest."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading

import pytest

from async_adag.gpu import buffers
from async_adag.gpu.acks import CLOSED, HELD, Acks, acks_size
from async_adag.gpu.arrivals import Arrivals
from async_adag.gpu.interface import DeviceError, Span
from async_adag.gpu.ipc import leases_for, slots_for
from async_adag.gpu.simulated import Simulation
from tests.gpu_edges import Page, Pool, SimulatedReceiver, SimulatedSender, wait_in_virtual_time


class Edge:
    """One writer and its readers, in step with one another."""

    def __init__(self, *, window: int = 2, readers: int = 1, exportable: bool = False) -> None:
        self.simulation = Simulation()
        self.writer = self.simulation.process()
        self.reader = self.simulation.process()
        self.slots = slots_for(window, readers)
        self.page = Page(acks_size(self.slots, readers))
        self.pool = Pool(self.writer, exportable)
        self.sender = SimulatedSender(self.writer, self.page, readers, self.slots, self.pool, patience=0.0)
        self.receiver = SimulatedReceiver(self.reader, self.page, 0, self.slots, readers)
        self.compute = self.writer.adopt(0)
        self.use = self.reader.adopt(0)

    def announce(self, *sizes: int):
        tensors = [self.pool.make(size) for size in sizes]
        self.writer.kernel(self.compute, writes=[tensor.span for tensor in tensors], what="make")
        note = self.sender.announce([tensor.span for tensor in tensors], tensors, self.compute)
        return note, sizes, self.writer.tell()

    def receive(self, frame):
        note, sizes, told = frame
        self.reader.hear(told)
        self.sender.send()
        return self.receiver.receive(note, sizes, self.use)

    def copies(self) -> int:
        self.simulation.run()
        return sum(done.kind == "copy" for done in self.simulation.history)

    def close(self) -> None:
        self.simulation.run()
        self.receiver.close()
        self.sender.close()
        self.receiver.close()


@pytest.fixture
def make_edge(monkeypatch):
    def make(**options) -> Edge:
        edge = Edge(**options)
        wait_in_virtual_time(monkeypatch, edge.simulation)
        return edge

    return make


def test_what_no_other_process_can_open_is_copied_once_and_used_where_it_is(make_edge):
    edge = make_edge()
    first, second = edge.receive(edge.announce(1000, 3000))
    assert edge.copies() == 1 + 1
    assert second.span.address - first.span.address == 1024
    assert (first.span.nbytes, second.span.nbytes) == (1000, 3000)


def test_what_lies_in_the_pool_is_not_copied_and_not_used_again_before_its_reader_is_done_with_it(make_edge):
    edge = make_edge(exportable=True)
    arrived = edge.receive(edge.announce(1000))
    edge.announce(1000)
    assert edge.copies() == 0
    assert edge.pool.free == []
    edge.reader.kernel(edge.use, reads=[part.span for part in arrived], seconds=1.0)
    del arrived
    edge.receive(edge.announce(1000))  # takes in what is gone, and tells
    edge.announce(1000)
    assert edge.pool.free == []  # told, but the device still reads
    edge.simulation.run()
    edge.announce(1000)
    assert len(edge.pool.free) >= 1


def test_handles_travel_until_every_reader_has_them(make_edge):
    edge = make_edge()
    note, *_ = edge.announce(10)
    edge.sender.withdraw()
    again = edge.announce(10)
    assert again[0][0] == note[0]
    assert again[0][2]
    assert again[0][3] == note[3] != []
    edge.receive(again)
    edge.receive(edge.announce(10))
    edge.simulation.run()
    slot, _, ready, allocations, _ = edge.announce(10)[0]
    assert slot == note[0]
    assert ready == b""
    assert allocations == []


@pytest.mark.parametrize("readers", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 10])
def test_leases_leave_slots_for_the_ring_one_being_received_and_one_being_filled(window, readers):
    slots = slots_for(window, readers)
    assert leases_for(slots, readers) >= 1
    assert slots - readers * leases_for(slots, readers) >= window + 2


def test_what_is_kept_beyond_the_leases_is_copied_and_the_writer_goes_on(make_edge):
    edge = make_edge(window=1)
    kept = [edge.receive(edge.announce(100)) for _ in range(30)]
    assert edge.copies() == 30 + 30 - leases_for(edge.slots, 1)
    assert len({part.span.address for (part,) in kept}) == 30


def test_a_writer_without_a_free_slot_says_who_is_not_done(make_edge):
    edge = make_edge(window=1)
    for _ in range(edge.slots):
        edge.announce(10)
        edge.sender.send()
    with pytest.raises(DeviceError, match=rf"no slot of {edge.slots} .* 0 is not done with {edge.slots}"):
        edge.announce(10)


def test_a_writer_waits_for_a_late_ack(make_edge, monkeypatch):
    edge = make_edge(window=1)
    edge.sender._patience = 1.0
    frames = [edge.announce(10) for _ in range(edge.slots)]
    edge.sender.send()
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        edge.receive(frames.pop(0))

    monkeypatch.setattr(buffers, "sleep", sleep)
    edge.announce(10)
    assert waits


def test_memory_of_many_sizes_is_used_again(make_edge):
    edge = make_edge()
    for size in [10, 5000, 20_000, 300, 20_000, 10, 90_000, 7, 80_000] * 20:
        edge.receive(edge.announce(size))
        edge.simulation.run()
    assert len(edge.sender._ours) <= 8


def test_closing_gives_everything_back(make_edge):
    edge = make_edge()
    for _ in range(5):
        edge.receive(edge.announce(100))
    edge.close()
    with pytest.raises(DeviceError, match="closed"):
        edge.announce(1)
    edge.simulation.run()
    edge.compute.record(event := edge.writer.event())
    event.synchronize()
    event.close()
    edge.pool.close()
    assert edge.simulation.belongings() == []
    with pytest.raises(DeviceError, match="closed"):
        edge.receiver.receive((0, 1, b"", [], []), [], edge.use)


def test_what_is_kept_outlives_the_edge_and_the_memory_goes_with_it(make_edge):
    edge = make_edge()
    arrived = edge.receive(edge.announce(100))
    edge.close()
    assert edge.receiver._page.state == HELD
    edge.reader.kernel(edge.use, reads=[arrived[0].span])
    edge.simulation.run()
    del arrived
    edge.sender.close()
    edge.receiver.close()
    edge.pool.close()
    assert edge.simulation.belongings() == []


def test_a_dead_reader_is_not_waited_for_and_a_living_one_keeps_the_memory(make_edge):
    edge = make_edge()
    edge.receive(edge.announce(100))
    edge.simulation.run()
    edge.sender.close()
    assert any("memory" in thing for thing in edge.simulation.belongings())
    edge.reader.kill()
    edge.sender.close()
    edge.pool.close()
    assert edge.simulation.belongings() == []


def test_a_writer_does_not_go_on_with_a_reader_that_has_closed(make_edge):
    edge = make_edge()
    edge.receive(edge.announce(100))
    edge.receiver.close()
    with pytest.raises(DeviceError, match="reader 0 has closed"):
        edge.announce(100)


def test_a_note_that_points_outside_of_its_memory_is_refused(make_edge):
    edge = make_edge()
    (slot, generation, ready, allocations, [(number, _)]), _, told = edge.announce(100)
    with pytest.raises(DeviceError, match="not in an allocation"):
        edge.receive(((slot, generation, ready, allocations, [(number, 4000)]), [100], told))


# The page of acks.


def test_a_page_is_shared_memory_and_can_be_unmapped_afterwards():
    fd = os.memfd_create("acks")
    os.ftruncate(fd, acks_size(3, 2))
    with mmap.mmap(fd, 0) as here, mmap.mmap(fd, 0) as there:
        writer, reader = Acks(here, 1, 3), Acks(there, 1, 3)
        other = Acks(here, 0, 3)
        assert (writer.event(2), writer.done_with(2)) == (None, 0)
        reader.set_event(2, b"\x01" * 64)
        reader.set_done_with(2, 1 << 40)
        reader.state = CLOSED
        writer.close_writer()
        assert (writer.event(2), writer.done_with(2), writer.state) == (b"\x01" * 64, 1 << 40, CLOSED)
        assert reader.writer_has_closed
        assert (other.event(2), other.done_with(2), other.state, other.writer_has_closed) == (None, 0, 0, False)
        for acks in (writer, reader, other):
            acks.close()
            acks.close()
    os.close(fd)


def test_half_a_handle_is_none():
    page = bytearray(acks_size(1, 1))
    acks = Acks(page, 0, 1)
    acks.set_event(0, b"abcdefgh")
    page[page.index(b"abcdefgh")] ^= 1
    assert acks.event(0) is None
    with pytest.raises(DeviceError, match="200 bytes"):
        acks.set_event(0, bytes(200))


def test_a_page_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="too few for 2 readers"):
        Acks(bytearray(acks_size(4, 1)), 1, 4)


def test_a_reader_is_gone_when_its_process_is():
    acks = Acks(bytearray(acks_size(1, 1)), 0, 1)
    assert acks.reader_is_gone
    acks.sign_in()
    assert not acks.reader_is_gone
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        from async_adag.gpu import acks as module

        acks._words[2] = process.pid
        acks._words[3] = module._started(process.pid)
        assert not acks.reader_is_gone
        process.kill()
    assert acks.reader_is_gone


# What nobody refers to any more.


def test_a_drop_amid_another_is_taken_in_too():
    later: list = []
    gone: list[str] = []

    def take_in(kept: str) -> None:
        gone.append(kept)
        later.clear()  # as a garbage collection may, in the midst of this

    arrivals: Arrivals[str] = Arrivals(take_in, lambda: gone.append("end"))
    later += arrivals.hand_out("second", [Span(0, 1)])
    first = arrivals.hand_out("first", [Span(0, 1), Span(1, 1)])
    first.pop()
    arrivals.collect()
    assert gone == []
    first.pop()
    assert gone == []
    arrivals.collect()
    assert gone == ["first", "second"]
    arrivals.close()
    arrivals.close()
    assert gone == ["first", "second", "end"]


def test_after_the_end_whoever_drops_the_last_finishes():
    done = threading.Event()
    where: list[threading.Thread] = []

    def finish() -> None:
        where.append(threading.current_thread())
        done.set()

    arrivals: Arrivals[None] = Arrivals(lambda kept: None, finish)
    kept = [arrivals.hand_out(None, [Span(0, 1)])]
    arrivals.close()
    assert not done.is_set()
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    assert done.is_set()
    assert where == [thread]
