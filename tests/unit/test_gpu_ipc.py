"""Edges between processes on one GPU, one promise at a time; `test_gpu_graphs` has the rest."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from async_adag.gpu import buffers
from async_adag.gpu.acks import CLOSED, HELD, LET_GO, OPEN, Acks, Shared, acks_size
from async_adag.gpu.arrivals import Arrivals
from async_adag.gpu.interface import DeviceError, Span
from async_adag.gpu.ipc import leases_for, slots_for
from async_adag.gpu.simulated import Race, Simulation
from tests.gpu_edges import Page, Pool, SimulatedReceiver, SimulatedSender, wait_in_virtual_time


class HastySender(SimulatedSender):
    """What is ready is told before it is."""

    def _open_part(self, reader, slots):
        part = super()._open_part(reader, slots)
        tell = part.store_ready
        part.store_ready = lambda stream, *rest: tell(self._device.stream(), *rest)
        return part


class Edge:
    """One writer and its readers, in step with one another."""

    def __init__(
        self,
        *,
        window: int = 2,
        readers: int = 1,
        exportable: bool = False,
        beside: Edge | None = None,
        sender=SimulatedSender,
    ) -> None:
        self.simulation = beside.simulation if beside else Simulation()
        self.writer = self.simulation.process()
        self.reader = beside.reader if beside else self.simulation.process()
        self.slots = slots_for(window, readers)
        self.page = Page(acks_size(self.slots, readers))
        self.pool = Pool(self.writer, exportable)
        self.sender = sender(self.writer, self.page, readers, self.slots, self.pool, patience=0.0)
        self.receiver = SimulatedReceiver(self.reader, self.page, 0, self.slots, readers)
        self.compute = self.writer.adopt(0)
        self.use = self.reader.stream() if beside else self.reader.adopt(0)

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
    assert again[0][2] == note[2] != []
    edge.receive(again)
    edge.receive(edge.announce(10))
    edge.simulation.run()
    slot, _, allocations, _ = edge.announce(10)[0]
    assert slot == note[0]
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
        edge.receiver.receive((0, 1, [], []), [], edge.use)


def test_what_is_kept_outlives_the_edge_and_the_memory_goes_with_it(make_edge):
    edge = make_edge()
    arrived = edge.receive(edge.announce(100))
    edge.close()
    assert edge.receiver._page.state == HELD
    edge.reader.kernel(edge.use, reads=[arrived[0].span])
    edge.simulation.run()
    del arrived
    edge.sender.close()
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
    (slot, generation, allocations, [(number, _)]), _, told = edge.announce(100)
    with pytest.raises(DeviceError, match="not in an allocation"):
        edge.receive(((slot, generation, allocations, [(number, 4000)]), [100], told))


@pytest.mark.parametrize("exportable", [True, False], ids=["in place", "copied"])
@pytest.mark.parametrize("sender", [SimulatedSender, HastySender])
def test_a_reader_waits_until_the_slot_is_ready(make_edge, sender, exportable):
    edge = make_edge(sender=sender, exportable=exportable)
    arrived = edge.receive(edge.announce(100))
    edge.reader.kernel(edge.use, reads=[arrived[0].span], what="look")
    if sender is SimulatedSender:
        edge.simulation.run()
    else:
        with pytest.raises(Race, match="look"):
            edge.simulation.run()


@pytest.mark.parametrize("leased", [True, False], ids=["leased", "copied"])
def test_a_follower_gets_there_when_what_arrives_is_whole_and_closing_waits_for_it(make_edge, leased):
    edge = make_edge()
    edge.receiver._linger = 0.0
    if not leased:
        edge.receiver._limit = 0
    follower, event = edge.reader.stream(), edge.reader.event()
    edge.receiver.follower = follower
    edge.reader.kernel(follower, seconds=2.0, what="ahead")
    edge.writer.kernel(edge.compute, seconds=4.0, what="work")
    arrived = edge.receive(edge.announce(100))
    edge.reader.kernel(follower, reads=[arrived[0].span], what="look")
    follower.record(event)
    edge.simulation.advance(3.0)
    assert not event.query()  # the writer is not there yet
    edge.simulation.run()
    assert event.query()
    edge.reader.kernel(follower, seconds=2.0, what="ahead")
    arrived = edge.receive(edge.announce(100))
    del arrived
    edge.receiver._arrivals.collect()
    edge.simulation.advance(1.0)
    edge.receiver.close()
    assert edge.receiver.is_free is (not leased)  # a follower that waits for a word needs it
    edge.simulation.run()
    edge.receiver.close()
    assert edge.receiver.is_free


# When one side has ended.


def killed_with_work_undone(edge: Edge) -> list:
    """The writer, while its last message is still to be made; the first has arrived, and is looked at."""
    first = edge.receive(edge.announce(100))
    edge.simulation.run()
    edge.writer.kernel(edge.compute, seconds=1.0, what="work")
    second = edge.receive(edge.announce(100))
    edge.reader.kernel(edge.use, reads=[second[0].span], what="look")
    edge.simulation.advance(0.5)
    edge.writer.kill()
    assert edge.simulation.settle() == [
        f"stream 0 of {edge.reader.host.name} waits with await #1 for word 6 to be 2"
    ]
    return [*first, *second]


def test_a_reader_that_is_released_goes_on_and_nothing_is_left(make_edge):
    edge = make_edge()
    other = make_edge(beside=edge)
    event = edge.reader.event()
    kept = killed_with_work_undone(edge)
    edge.receiver.release()
    edge.receiver.release()
    edge.simulation.run()
    with pytest.raises(DeviceError, match="its writer has ended before it was ready"):
        edge.receiver.receive((1, 2, [], []), [], edge.use)
    arrived = other.receive(other.announce(10))
    edge.reader.kernel(other.use, reads=[kept[0].span, arrived[0].span], what="look")
    other.use.record(event)
    edge.simulation.run()
    assert event.query()
    event.close()
    del arrived
    other.close()
    other.pool.close()
    other.use.close()
    kept.clear()
    edge.receiver.close()
    assert edge.receiver.is_free
    edge.receiver.release()
    edge.receiver.check_writer()
    assert edge.simulation.belongings() == []


def test_a_reader_gives_up_a_writer_that_has_ended_and_none_that_lives(make_edge):
    edge = make_edge()
    edge.writer.kernel(edge.compute, seconds=1.0, what="work")
    arrived = edge.receive(edge.announce(100))
    edge.receiver.check_writer()
    assert edge.receive(edge.announce(100))
    edge.simulation.advance(0.5)
    edge.writer.kill()
    assert edge.simulation.settle()
    edge.receiver.check_writer()
    edge.simulation.run()
    del arrived
    edge.receiver.close()
    assert edge.simulation.belongings() == []


def test_what_a_dead_writer_had_finished_is_received_all_the_same(make_edge):
    edge = make_edge()
    edge.receive(edge.announce(100))
    edge.receiver._arrivals.collect()
    edge.simulation.run()
    done = edge.announce(100)  # in memory that has been opened
    edge.simulation.run()
    edge.writer.kernel(edge.compute, seconds=1.0, what="work")
    undone = edge.announce(100)
    edge.simulation.advance(0.5)
    edge.writer.kill()
    for _ in range(2):
        edge.receiver.check_writer()
    ((slot, generation, _, places), sizes, told) = done
    edge.reader.hear(told)
    arrived = edge.receiver.receive((slot, generation, [], places), sizes, edge.use)
    edge.reader.kernel(edge.use, reads=[arrived[0].span], what="look")
    edge.simulation.run()
    assert not any(queue.let_go for queue in edge.simulation.queues)
    with pytest.raises(DeviceError, match="before it was ready"):
        edge.receiver.receive(undone[0], sizes, edge.use)


@pytest.mark.parametrize("kept", [True, False])
def test_closing_lets_go_of_a_writer_that_has_ended(make_edge, kept):
    edge = make_edge()
    arrived = killed_with_work_undone(edge)
    if not kept:
        arrived.clear()
    edge.receiver.close()
    edge.simulation.run()
    arrived.clear()
    assert edge.receiver.is_free
    assert edge.simulation.belongings() == []


def test_closing_does_not_let_go_of_a_writer_that_lives_and_is_slow(make_edge):
    edge = make_edge()
    edge.receiver._linger = 0.0
    edge.writer.kernel(edge.compute, seconds=1.0, what="work")
    arrived = edge.receive(edge.announce(100))
    edge.reader.kernel(edge.use, reads=[arrived[0].span], what="look")
    del arrived
    edge.receiver.close()
    assert not edge.receiver.is_free
    assert edge.simulation.history == []
    edge.simulation.run()
    edge.receiver.close()
    assert edge.receiver.is_free


def test_a_writer_that_waits_for_the_acks_of_a_reader_that_has_ended_is_let_go(make_edge):
    edge = make_edge(window=1)
    edge.simulation.stall(lambda work: work.what.startswith("look"), 1.0)
    for _ in range(edge.slots):
        arrived = edge.receive(edge.announce(100))
        edge.reader.kernel(edge.use, reads=[part.span for part in arrived], what="look")
        del arrived
    edge.receiver._arrivals.collect()
    edge.sender._overlap = False
    edge.announce(100)
    edge.simulation.advance(0.5)
    edge.reader.kill()
    assert len(edge.simulation.settle()) == 2  # the sending stream, and the one that computes
    edge.sender.check_readers()
    edge.simulation.run()
    edge.sender.close()
    assert edge.sender.is_free
    edge.sender.check_readers()
    edge.compute.record(event := edge.writer.event())
    event.synchronize()
    event.close()
    edge.pool.close()
    assert edge.simulation.belongings() == []


def test_a_writer_whose_device_has_failed_lets_its_readers_go(make_edge):
    edge = make_edge()
    edge.writer.kernel(edge.compute, what="break")
    arrived = edge.receive(edge.announce(100))
    edge.simulation.fail(lambda work: work.what.startswith("break"))
    assert len(edge.simulation.settle()) == 1
    edge.sender.close()
    edge.simulation.run()
    del arrived
    edge.receiver.close()
    assert edge.receiver.is_free


def test_a_sender_tells_whether_its_device_has_failed(make_edge):
    edge = make_edge()
    edge.writer.kernel(edge.compute, what="break")
    edge.receive(edge.announce(100))
    edge.sender.check()
    edge.simulation.fail(lambda work: work.what.startswith("break"))
    edge.simulation.settle()
    with pytest.raises(DeviceError):
        edge.sender.check()
    edge.sender.close()
    edge.simulation.run()


@pytest.mark.parametrize("keep", [0, None])
def test_a_writer_that_is_given_up_while_its_reader_receives(make_edge, monkeypatch, keep):
    """It went on without having waited: that is no tensor."""
    edge = make_edge(window=1)
    kept = [edge.receive(edge.announce(100)) for _ in range(edge.receiver._limit if keep is None else keep)]
    edge.simulation.run()
    edge.writer.kernel(edge.compute, what="long")
    frame = edge.announce(100)
    wait = edge.receiver._page.wait_until_ready

    def wait_and_give_up(*args):
        edge.receiver.release()
        wait(*args)

    monkeypatch.setattr(edge.receiver._page, "wait_until_ready", wait_and_give_up)
    with pytest.raises(DeviceError, match="is not received"):
        edge.receive(frame)
    edge.simulation.run()
    del kept


def test_a_reader_whose_device_has_failed_lets_its_writer_go(make_edge):
    edge = make_edge(window=1)
    edge.reader.kernel(edge.use, what="break")
    for _ in range(edge.slots + 1):
        edge.receive(edge.announce(100))
        edge.receiver._arrivals.collect()
    edge.simulation.fail(lambda work: work.what.startswith("break"))
    assert len(edge.simulation.settle()) == 1
    edge.receiver.close()
    edge.simulation.run()
    assert edge.receiver._page.state != CLOSED


# The page of acks.


def shared(page) -> Shared:
    return Shared(Simulation().process(), page)


def test_a_page_is_shared_memory_and_can_be_unmapped_afterwards():
    fd = os.memfd_create("acks")
    os.ftruncate(fd, acks_size(3, 2))
    device = Simulation().process()
    stream = device.stream()
    with mmap.mmap(fd, 0) as here, mmap.mmap(fd, 0) as there:
        one, two = Shared(device, here), Shared(device, there)
        writer, reader, other = Acks(one, 1, 3), Acks(two, 1, 3), Acks(one, 0, 3)
        reader.store_ack(stream, 2, 1 << 40)
        reader.state = CLOSED
        assert (writer.issued(2), writer.acked(2), writer.state) == (1 << 40, 0, CLOSED)
        device.world.run()
        assert writer.acked(2) == 1 << 40
        writer.store_ready(stream, 1, 7)
        reader.wait_until_ready(device.stream(), 1, 7)
        reader.let_writer_go()
        assert writer.acked(0) == writer.acked(2) == LET_GO
        writer.let_reader_go()
        assert (other.issued(2), other.acked(2), other.state) == (0, 0, OPEN)
        device.world.run()
        for end in (writer, reader, other, one, two):
            end.close()
            end.close()
        for end in (writer, reader):
            end.let_reader_go()
            end.let_writer_go()
        device.world.words.clear()
    os.close(fd)


def test_no_two_readers_write_to_one_cache_line():
    assert acks_size(1, 1) % 64 == acks_size(7, 3) % 64 == 0
    assert acks_size(7, 3) == 3 * acks_size(7, 1)


def test_a_page_that_is_too_small_is_refused():
    page = shared(mmap.mmap(-1, acks_size(4, 1)))
    with pytest.raises(ValueError, match="too few for 2 readers"):
        Acks(page, 1, 4)


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_a_side_has_ended_when_its_process_has(side):
    acks = Acks(shared(mmap.mmap(-1, acks_size(1, 1))), 0, 1)

    def has_ended() -> bool:
        return getattr(acks, f"{side}_has_ended")

    assert acks.reader_is_gone
    assert not has_ended()
    getattr(acks, f"sign_in_{side}")()
    assert acks.reader_is_gone is (side == "writer")
    assert not has_ended()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        from async_adag.gpu import acks as module

        at = {"reader": 1, "writer": 3}[side]
        acks._words[at] = process.pid
        acks._words[at + 1] = module._started(process.pid)
        assert not has_ended()
        process.kill()
    assert has_ended()
    assert not acks.writer_has_ended or side == "writer"


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


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_process_that_ends_lets_its_own_streams_go(closed):
    """Its device waits for them, and the writer may never fill what they wait for."""
    size = acks_size(2, 1)
    fd = os.memfd_create("page")
    os.ftruncate(fd, size)
    program = f"""
        import mmap
        from async_adag.gpu.ipc_receiver import IpcReceiver
        from async_adag.gpu.simulated import Simulation
        page = mmap.mmap({fd}, {size})
        receiver = IpcReceiver(Simulation().process(), page, 0, 2)
        if {closed}:
            receiver.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, pass_fds=[fd])
    with mmap.mmap(fd, size) as page:
        words = memoryview(page).cast("Q")
        ready = [words[5 + slot] for slot in range(2)]
        words.release()
    os.close(fd)
    assert ready == [0 if closed else LET_GO] * 2
