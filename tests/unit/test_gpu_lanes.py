"""When the GPU did what, by events of the simulated device, whose virtual time is exact; and the records of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from async_adag.actor import gpu_lanes
from async_adag.actor.gpu_lanes import GpuLanes
from async_adag.actor.records import Activity, Recorder, read_records, records_here
from async_adag.gpu.acks import acks_size
from async_adag.gpu.interface import DeviceError
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.simulated import Misuse, Simulation
from async_adag.gpu.staging import FromHost, ToHost
from async_adag.gpu.stopwatch import PATIENCE, Lap, Stopwatch
from tests.gpu_edges import Page, SimulatedReceiver, SimulatedSender, wait_in_virtual_time

MS = 1_000_000
SIZE = 4_000_000


class Clock:
    """The host's: virtual time, in which the device goes on whenever somebody looks at it, unless it `stands`."""

    def __init__(self, simulation):
        self.simulation = simulation
        self.stands = False

    def __call__(self):
        if not self.stands:
            self.simulation.step()
        return round(self.simulation.now * 1e9)


def timed(watch, device, stream, seconds, what):
    began = watch.begin(stream)
    device.kernel(stream, seconds=seconds)
    watch.end(stream, began, what)


@pytest.fixture
def simulation():
    return Simulation(bandwidth=1e9)


@pytest.fixture
def device(simulation):
    return simulation.process()


@pytest.fixture
def clock(simulation):
    return Clock(simulation)


@pytest.fixture
def watch(device, clock):
    return Stopwatch(device, clock)


def test_laps_are_told_when_the_device_is_done_and_once(simulation, device, watch):
    stream = device.stream()
    timed(watch, device, stream, 2e-3, "first")
    timed(watch, device, stream, 3e-3, "second")
    assert watch.collect() == []
    simulation.run()
    assert watch.collect() == [Lap("first", 0, 2 * MS), Lap("second", 2 * MS, 5 * MS)]
    assert watch.collect() == []
    assert watch.is_idle


def test_laps_of_several_streams_overlap(simulation, device, watch):
    timed(watch, device, device.stream(), 2e-3, "one")
    timed(watch, device, device.stream(), 3e-3, "other")
    simulation.run()
    assert watch.collect() == [Lap("one", 0, 2 * MS), Lap("other", 0, 3 * MS)]


def test_what_is_not_over_is_told_later(simulation, device, clock, watch):
    short, long = device.stream(), device.stream()
    timed(watch, device, short, 1e-3, "first")
    simulation.run()
    assert len(watch.collect()) == 1
    timed(watch, device, short, 1e-3, "short")
    timed(watch, device, long, 1.0, "long")
    timed(watch, device, short, 1e-3, "after it")
    while simulation.now < 3e-3 or simulation.history[-1].kind != "record":
        simulation.step()
    clock.stands = True
    assert [lap.what for lap in watch.collect()] == ["short", "after it"]
    assert not watch.is_idle
    simulation.run()
    assert [lap.what for lap in watch.collect()] == ["long"]


def test_clocks_are_compared_again_after_a_second(simulation, device, clock, watch):
    def records():
        return sum(done.kind == "record" for done in simulation.history)

    stream = device.stream()
    recorded = []
    for seconds in (0.1, 0.1, 1.5):
        device.kernel(stream, seconds=seconds)
        timed(watch, device, stream, 1e-3, "")
        simulation.run()
        recorded.append(-records())
        (lap,) = watch.collect()
        recorded[-1] += records()
        assert lap.ended - lap.began == MS
        assert lap.ended == round(simulation.now * 1e9)
    assert [number > 0 for number in recorded] == [True, False, True]


def test_on_a_device_with_much_to_do_laps_wait_for_a_comparison(simulation, device):
    """One whose idle streams get nowhere for a while, as on a GPU that another process has."""
    crowded = [False]
    ticks = [0]

    def now():
        ticks[0] += 1
        if not crowded[0]:
            simulation.step()
            return round(simulation.now * 1e9)
        return round(simulation.now * 1e9) + ticks[0] * PATIENCE

    watch = Stopwatch(device, now)
    timed(watch, device, device.stream(), 1e-3, "done")
    simulation.run()
    crowded[0] = True
    assert watch.collect() == []
    assert not watch.is_idle
    crowded[0] = False
    assert [lap.what for lap in watch.collect()] == ["done"]


def test_a_device_that_fails(simulation, device, watch):
    stream = device.stream()
    began = watch.begin(stream)
    simulation.fail(lambda work: True)
    device.kernel(stream)
    watch.end(stream, began, "never")
    simulation.run()
    with pytest.raises(DeviceError):
        watch.collect()
    watch.close()


def test_closing_leaves_nothing(simulation, device, watch):
    stream = device.stream()
    timed(watch, device, stream, 1e-3, "told")
    simulation.run()
    watch.collect()
    timed(watch, device, stream, 1e-3, "not told")
    simulation.run()
    watch.close()
    watch.close()
    stream.close()
    assert list(device.belongings()) == []


def test_an_event_that_was_not_passed_tells_no_time(device):
    stream, first, second = device.stream(), device.timed_event(), device.timed_event()
    device.kernel(stream, seconds=1.0)
    stream.record(second)
    with pytest.raises(Misuse, match="has not been passed"):
        second.since(first)


class Actor:
    """A process with a stream that its methods use, ends of edges, and the records of its GPU."""

    def __init__(self, simulation, monkeypatch):
        self.simulation = simulation
        self.device = simulation.process()
        self.device.ordinal = 0
        self.stream = self.device.stream()
        self.memory = self.device.allocate(SIZE)
        self.words = records_here()
        self.recorder = Recorder(self.words)
        monkeypatch.setattr(gpu_lanes, "current_streams", lambda ordinal: [self.stream.handle])

    def watch(self, *ends):
        gate = SimpleNamespace(device=self.device, streams=lambda packages: [])
        self.lanes = GpuLanes(gate, ends, Clock(self.simulation))
        self.lanes.start(self.recorder)

    def compute(self, task, seconds, span):
        self.lanes.begin()
        self.device.kernel(self.stream, writes=[span], seconds=seconds)
        self.lanes.end(task)

    def recorded(self):
        records, lost = read_records(self.words, 0)
        assert lost == 0
        return {
            (record.activity, record.number, record.execution): (record.began, record.ended) for record in records
        }


def ends_of(kind, simulation, writer, reader):
    if kind == "nccl":
        sending = simulation.link(writer.device, reader.device)
        receiving = type(sending)(sending._pairing)
        sending.initialize(0)
        receiving.initialize(1)
        return LinkSender(writer.device, [sending]), LinkReceiver(reader.device, receiving)
    slots = slots_for(2, 1)
    page = Page(acks_size(slots, 1))
    sender = SimulatedSender(writer.device, page, 1, slots)
    return sender, SimulatedReceiver(reader.device, page, 0, slots)


@pytest.mark.parametrize("kind", ["ipc", "nccl"])
def test_three_lanes(kind, simulation, monkeypatch):
    wait_in_virtual_time(monkeypatch, simulation)
    writer, reader = Actor(simulation, monkeypatch), Actor(simulation, monkeypatch)
    sender, receiver = ends_of(kind, simulation, writer, reader)
    writer.watch((Activity.SEND, 4, sender))
    reader.watch((Activity.RECEIVE, 4, receiver))
    for execution in range(3):
        writer.recorder.execution = reader.recorder.execution = execution
        monkeypatch.setattr(gpu_lanes, "current_streams", lambda ordinal: [writer.stream.handle])
        made = writer.device.allocate(SIZE)
        writer.compute(0, 1e-3, made.span)
        note = sender.announce([made.span], [made], writer.stream)
        sender.send()
        reader.device.hear(writer.device.tell())
        (arrived,) = receiver.receive(note, [SIZE], reader.stream)
        monkeypatch.setattr(gpu_lanes, "current_streams", lambda ordinal: [reader.stream.handle])
        reader.lanes.begin()
        reader.device.kernel(reader.stream, reads=[arrived.span], seconds=2e-3)
        reader.lanes.end(1)
        del arrived
        simulation.run()
        writer.device.hear(reader.device.tell())
    writer.lanes.stop()
    reader.lanes.stop()
    sent, received = writer.recorded(), reader.recorded()
    assert len(sent) == len(received) == 2 * 3
    took = next(
        round((done.end - done.begin) * 1e9) for done in simulation.history if done.kind in ("copy", "send")
    )
    for execution in range(3):
        made, sending = sent[Activity.DEVICE, 0, execution], sent[Activity.SEND, 4, execution]
        receiving, used = received[Activity.RECEIVE, 4, execution], received[Activity.DEVICE, 1, execution]
        assert made[1] - made[0] == MS
        assert sending[0] == made[1], "it is sent once it is made"
        assert sending[1] - sending[0] == took
        assert receiving[1] == sending[1]
        assert used == (receiving[1], receiving[1] + 2 * MS), "it is used once it has arrived"
    assert sender.marks is None
    assert receiver.marks is None


def test_copies_from_and_to_the_host(simulation, monkeypatch):
    wait_in_virtual_time(monkeypatch, simulation)
    actor = Actor(simulation, monkeypatch)
    arriving, leaving = FromHost(actor.device), ToHost(actor.device)
    actor.watch((Activity.RECEIVE, 1, arriving), (Activity.SEND, 2, leaving))
    (arrived,) = arriving.place([memoryview(bytes(SIZE))], actor.stream)
    actor.compute(0, 1e-3, arrived.span)
    leaving.fetch([arrived.span], actor.stream)
    actor.lanes.stop()
    assert actor.recorded() == {
        (Activity.RECEIVE, 1, 0): (0, SIZE),
        (Activity.DEVICE, 0, 0): (SIZE, SIZE + MS),
        (Activity.SEND, 2, 0): (SIZE + MS, 2 * SIZE + MS),
    }


def test_nothing_is_recorded_before_and_after(simulation, monkeypatch):
    wait_in_virtual_time(monkeypatch, simulation)
    actor = Actor(simulation, monkeypatch)
    actor.watch()
    actor.lanes.stop()
    actor.compute(0, 1e-3, actor.memory.span)
    simulation.run()
    assert actor.lanes.collect()
    assert actor.recorded() == {}
    actor.lanes.start(actor.recorder)
    actor.compute(1, 1e-3, actor.memory.span)
    actor.lanes.stop()
    assert list(actor.recorded()) == [(Activity.DEVICE, 1, 0)]
    actor.stream.close()
    actor.memory.close()
    assert list(actor.device.belongings()) == []


def test_a_device_that_never_gets_there_holds_up_stopping_no_longer_than_that(simulation, monkeypatch):
    wait_in_virtual_time(monkeypatch, simulation)
    actor = Actor(simulation, monkeypatch)
    actor.watch()
    simulation.stall(lambda work: True, 1e9)
    waiting, never = actor.device.stream(), actor.device.event()
    actor.device.kernel(waiting, seconds=1e9)
    waiting.record(never)
    actor.stream.wait(never)
    actor.compute(0, 1e-3, actor.memory.span)
    simulation.fail(lambda work: True)
    actor.lanes.stop()
    assert actor.recorded() == {}
