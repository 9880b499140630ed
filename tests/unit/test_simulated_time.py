"""Virtual time, overlap, links, failures and deadlocks of the simulated device."""

from __future__ import annotations

import gc
import os
import pickle

import pytest

from async_adag.gpu.interface import DeviceError, Span
from async_adag.gpu.simulated import Deadlock, Misuse, Simulation, explore
from tests.simulated import SIZE, Pair, fill, join, look, words


def busy(device, stream, seconds: float, what: str = "kernel") -> None:
    device.kernel(stream, seconds=seconds, what=what)


# Time


def test_nothing_is_done_before_the_simulation_is_stepped():
    pair = Pair()
    fill(pair.writer, pair.sending, pair.memory.span, 1)
    assert pair.writer.peek(pair.memory.span) == b"\xcd" * SIZE
    assert pair.simulation.step()
    assert pair.writer.peek(pair.memory.span) == bytes([1]) * SIZE
    assert not pair.simulation.step()


def test_streams_run_at_the_same_time_and_each_in_its_order():
    simulation = Simulation()
    device = simulation.process()
    one, other = device.stream(), device.stream()
    busy(device, one, 2.0, "a")
    busy(device, one, 1.0, "b")
    busy(device, other, 2.5, "c")
    assert simulation.run() == 3.0
    assert [(done.what, done.begin, done.end) for done in simulation.history] == [
        ("a #0", 0.0, 2.0),
        ("c #0", 0.0, 2.5),
        ("b #1", 2.0, 3.0),
    ]


def test_a_wait_lasts_until_the_event_and_what_is_issued_later_begins_later():
    simulation = Simulation()
    device = simulation.process()
    one, other = device.stream(), device.stream()
    event = device.event()
    busy(device, one, 2.0)
    one.record(event)
    other.wait(event)
    busy(device, other, 1.0)
    assert simulation.run() == 3.0
    simulation.advance(4.0)
    busy(device, other, 1.0)
    assert simulation.run() == 8.0


def test_a_copy_takes_its_bytes_over_the_bandwidth():
    pair = Pair(bandwidth=SIZE / 2)
    target = pair.writer.allocate(SIZE)
    pair.writer.copy(target.span, pair.memory.span, pair.sending)
    assert pair.simulation.run() == 2.0


def test_time_is_advanced_to_a_moment_and_work_under_way_is_not_done_yet():
    pair = Pair()
    event = pair.writer.event()
    fill(pair.writer, pair.sending, pair.memory.span, 1)
    pair.sending.record(event)
    pair.simulation.advance(0.5)
    assert (pair.simulation.now, event.query()) == (0.5, False)
    pair.simulation.advance(0.5)
    assert (pair.simulation.now, event.query()) == (1.0, True)


def test_an_eventfd_is_told_when_its_time_has_come():
    simulation = Simulation()
    device = simulation.process()
    stream = device.stream()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        for _ in range(3):
            busy(device, stream, 1.0)
            device.notify(stream, fd)
        simulation.advance(2.0)
        assert os.eventfd_read(fd) == 2
        simulation.run()
        assert os.eventfd_read(fd) == 1
    finally:
        os.close(fd)


def test_a_machine_may_be_unable_to_notify():
    device = Simulation(can_notify=False).process()
    with pytest.raises(DeviceError, match="cannot notify"):
        device.notify(device.stream(), 0)


def test_a_stall_takes_longer():
    simulation = Simulation()
    device = simulation.process()
    stream = device.stream()
    simulation.stall(lambda work: work.kind == "kernel" and work.number == 1, 5.0)
    busy(device, stream, 1.0)
    busy(device, stream, 1.0)
    assert simulation.run() == 7.0


def test_every_order_is_explored_once():
    seen = []

    def run(choose) -> None:
        simulation = Simulation(choose=choose)
        device = simulation.process()
        for _ in range(2):
            stream = device.stream()
            busy(device, stream, 1.0)
            busy(device, stream, 1.0)
        simulation.run()
        seen.append("".join(done.stream[-1] for done in simulation.history))

    assert explore(run) == 6
    assert sorted(seen) == ["1122", "1212", "1221", "2112", "2121", "2211"]
    with pytest.raises(ValueError, match="more than 5 orders"):
        explore(run, limit=5)
    assert explore(run, limit=6) == 6


# Links


def test_a_transfer_begins_when_both_are_there_and_takes_latency_and_bandwidth():
    pair = Pair()
    sender, receiver = pair.link(latency=1.0, bandwidth=SIZE / 2)
    target = pair.reader.allocate(SIZE)
    pair.writer.write(pair.memory.span, bytes([7]) * SIZE)
    sender.send(pair.memory.span, pair.sending)
    assert pair.simulation.settle() == [
        f"stream 1 of writer waits with send #0 for reader to receive on {sender._pairing}"
    ]
    busy(pair.reader, pair.using, 4.0)
    receiver.receive(target.span, pair.using)
    assert pair.simulation.run() == 7.0
    assert [(done.kind, done.begin, done.end) for done in pair.simulation.history[1:]] == [
        ("send", 4.0, 7.0),
        ("receive", 4.0, 7.0),
    ]
    assert pair.reader.peek(target.span) == bytes([7]) * SIZE
    sender.check()
    receiver.check()


def test_transfers_of_one_link_come_one_after_the_other_in_their_order():
    pair = Pair()
    sender, receiver = pair.link(latency=1.0, bandwidth=1e30)
    target = pair.reader.allocate(SIZE)
    one = Span(pair.memory.span.address, 8)
    for stream in (pair.writer.stream(), pair.writer.stream()):
        sender.send(one, stream)
    for at in (0, 8):
        receiver.receive(Span(target.span.address + at, 8), pair.reader.stream())
    assert pair.simulation.run() == 2.0


def test_a_transfer_does_not_overtake_another_that_was_issued_before_it():
    pair = Pair()
    sender, receiver = pair.link()
    first, second = (Span(pair.memory.span.address + at, 8) for at in (0, 8))
    target = pair.reader.allocate(SIZE)
    pair.writer.write(pair.memory.span, bytes(range(SIZE)))
    late = pair.writer.stream()
    busy(pair.writer, late, 5.0)
    sender.send(first, late)
    sender.send(second, pair.sending)
    for at in (0, 8):
        receiver.receive(Span(target.span.address + at, 8), pair.using)
    pair.simulation.run()
    assert pair.reader.peek(Span(target.span.address, 16)) == bytes(range(16))


def test_a_stall_of_either_end_delays_both():
    for kind in ("send", "receive"):
        pair = Pair()
        sender, receiver = pair.link(latency=1.0, bandwidth=1e30)
        pair.simulation.stall(lambda work, kind=kind: work.kind == kind, 3.0)
        sender.send(pair.memory.span, pair.sending)
        receiver.receive(pair.reader.allocate(SIZE).span, pair.using)
        assert pair.simulation.run() == 4.0


def test_lengths_that_differ_are_found():
    pair = Pair()
    sender, receiver = pair.link()
    sender.send(pair.memory.span, pair.sending)
    receiver.receive(pair.reader.allocate(SIZE + 1).span, pair.using)
    with pytest.raises(Misuse, match=r"receive #0 .* takes 65 bytes where send #0 .* sends 64"):
        pair.simulation.run()


def test_a_link_has_two_ranks_that_each_do_their_part():
    pair = Pair()
    link = pair.simulation.link()
    with pytest.raises(DeviceError, match="not initialized"):
        link.send(pair.memory.span, pair.sending)
    with pytest.raises(DeviceError, match="not initialized"):
        link.check()
    link.initialize(0)
    for end, rank in ((link, 1), (pickle.loads(pickle.dumps(link)), 0), (pickle.loads(pickle.dumps(link)), 2)):
        with pytest.raises(DeviceError, match="two ranks"):
            end.initialize(rank)
    with pytest.raises(Misuse, match="rank 0 cannot do that"):
        link.receive(pair.memory.span, pair.sending)
    other = pickle.loads(pickle.dumps(link))
    other.initialize(1)
    link.send(pair.memory.span, pair.sending)
    with pytest.raises(Misuse, match="which is another's"):
        link.send(pair.mapping.span, pair.using)


def test_a_pickled_link_needs_its_simulation():
    pickled = pickle.dumps(Pair().simulation.link())
    gc.collect()
    with pytest.raises(DeviceError, match="is not in this Python process"):
        pickle.loads(pickled)


@pytest.mark.parametrize("orders", ["same", "opposite"])
def test_two_links_on_one_stream_deadlock_in_opposite_orders(orders):
    def run(choose) -> None:
        pair = Pair(choose=choose)
        target = pair.reader.allocate(SIZE)
        ends = [pair.link(), pair.link()]
        for sender, _ in ends:
            sender.send(pair.memory.span, pair.sending)
        for _, receiver in ends if orders == "same" else reversed(ends):
            receiver.receive(target.span, pair.using)
        pair.simulation.run()

    if orders == "same":
        explore(run)
    else:
        with pytest.raises(Deadlock, match=r"receive #0 for writer to send|send #0 for reader to receive"):
            explore(run)


def test_a_device_without_room_for_another_transfer_has_it_wait():
    found = []

    def run(choose) -> None:
        simulation = Simulation(choose=choose, transfers_at_once=1)
        here, there = simulation.process(device=0), simulation.process(device=1)
        memory = [here.allocate(8), here.allocate(8), there.allocate(8), there.allocate(8)]
        for at in range(2):
            sender, receiver = join(simulation, here, there)
            sender.send(memory[at].span, here.stream())
            receiver.receive(memory[2 + at].span, there.stream())
        found.append(bool(simulation.settle()))

    explore(run)
    assert set(found) == {True, False}, "it depends on which of them the two devices begin with"
    simulation = Simulation(transfers_at_once=2)
    here, there = simulation.process(device=0), simulation.process(device=1)
    for _ in range(2):
        sender, receiver = join(simulation, here, there)
        sender.send(here.allocate(8).span, here.stream())
        receiver.receive(there.allocate(8).span, there.stream())
    simulation.run()
    assert simulation.transfers == {0: 0, 1: 0}


# Failures


def test_work_left_undone_is_told_with_what_it_waits_for():
    pair = Pair()
    event = pair.writer.event()
    there, here = words(pair)
    sender, _ = pair.link()
    sender.send(pair.memory.span, pair.sending)
    sender.send(pair.memory.span, pair.writer.stream())
    there.store(pair.sending, 0, 1)
    pair.sending.record(event)
    here.wait(pair.using, 0, 1)
    with pytest.raises(Deadlock) as caught:
        pair.simulation.run()
    link = sender._pairing
    assert str(caught.value) == (
        f"nothing can go on: stream 1 of writer waits with send #0 for reader to receive on {link}; "
        f"stream 1 of reader waits with await #0 for word 0 to be 1; "
        f"stream 2 of writer waits with send #0 for send #0 (stream 1 of writer), which is before it on {link}"
    )
    with pytest.raises(Deadlock, match=r"writer waits for event #7 of writer, and nothing can go on"):
        event.synchronize()
    assert not pair.simulation.faults


@pytest.mark.parametrize("transfers_at_once", [None, 1])
def test_a_dead_process_leaves_its_peer_waiting_until_the_link_is_destroyed(transfers_at_once):
    pair = Pair(transfers_at_once=transfers_at_once)
    sender, receiver = pair.link()
    target = pair.reader.allocate(SIZE)
    sender.send(pair.memory.span, pair.sending)
    receiver.receive(target.span, pair.using)
    seen = look(pair.reader, pair.using, target.span)
    pair.writer.kill()
    assert len(pair.simulation.settle()) == 1
    with pytest.raises(DeviceError, match="rank 0, writer, was killed"):
        receiver.check()
    receiver.destroy()
    receiver.destroy()
    pair.simulation.run()
    assert not +pair.simulation.transfers
    assert seen == [b"\xee" * SIZE]  # nobody may take it for what was sent
    with pytest.raises(DeviceError, match="was destroyed"):
        receiver.receive(target.span, pair.using)
    with pytest.raises(DeviceError, match="was destroyed"):
        receiver.check()
    with pytest.raises(RuntimeError, match="writer was killed"):
        pair.writer.allocate(1)
    with pytest.raises(RuntimeError, match="writer was killed"):
        sender.send(pair.memory.span, pair.sending)
    sender.destroy()
    pair.memory.close()


def test_a_dead_process_leaves_others_waiting_for_its_words_until_a_host_stores_them():
    pair = Pair()
    there, here = words(pair)
    other = pair.reader.stream()
    look(pair.writer, pair.sending, pair.memory.span)
    there.store(pair.sending, 0, 1)
    here.wait(pair.using, 0, 1)
    pair.writer.kill()
    assert pair.simulation.settle() == ["stream 1 of reader waits with await #0 for word 0 to be 1"]
    fill(pair.reader, other, pair.mapping.span, 1)
    page = here._array
    page[:8] = (1 << 62).to_bytes(8, "little")
    seen = look(pair.reader, pair.using, pair.mapping.span)  # which nothing orders, and nobody minds any more
    pair.simulation.run()
    assert len(seen) == 1


def test_a_peer_that_is_dead_cannot_be_met():
    pair = Pair()
    link = pair.simulation.link(pair.writer, pair.reader)
    pair.writer.kill()
    with pytest.raises(DeviceError, match="rank 0, writer, was killed"):
        link.initialize(1)


def test_a_peer_that_destroys_the_link_breaks_it_for_what_is_left():
    pair = Pair()
    sender, receiver = pair.link()
    target = pair.reader.allocate(SIZE)
    sender.send(pair.memory.span, pair.sending)
    receiver.receive(target.span, pair.using)
    pair.simulation.run()
    sender.destroy()
    receiver.check()
    receiver.receive(target.span, pair.using)
    with pytest.raises(DeviceError, match="rank 0 has destroyed it"):
        receiver.check()
    assert len(pair.simulation.settle()) == 1
    receiver.destroy()
    pair.simulation.run()


def test_a_device_error_ends_its_process_s_use_of_the_device_and_nobody_elses():
    pair = Pair()
    sender, receiver = pair.link()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        event = pair.writer.event()
        pair.simulation.fail(lambda work: work.kind == "kernel" and work.process == "writer", "misaligned address")
        fill(pair.writer, pair.sending, pair.memory.span, 7)
        pair.sending.record(event)
        pair.writer.notify(pair.sending, fd)
        busy(pair.reader, pair.using, 2.0)
        assert not event.query()
        assert pair.simulation.run() == 2.0
        for call in (
            event.query,
            event.synchronize,
            pair.writer.stream,
            pair.writer.enter,
            lambda: pair.sending.record(event),
            lambda: pair.writer.allocate(1),
            lambda: sender.send(pair.memory.span, pair.sending),
            lambda: pair.writer.read(pair.memory.span),
            lambda: pair.writer.notify(pair.sending, fd),
        ):
            with pytest.raises(DeviceError, match=r"writer: misaligned address, in fill #0 of stream 1"):
                call()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
    finally:
        os.close(fd)
    with pytest.raises(DeviceError, match="rank 0, writer, has a failed device"):
        receiver.check()
    pair.reader.stream()
    pair.memory.close()
    event.close()
    pair.sending.close()
    assert not pair.simulation.faults


def test_a_device_that_fails_in_a_transfer_leaves_the_peer_waiting():
    for kind in ("send", "receive"):
        pair = Pair()
        ends = pair.link()
        pair.simulation.fail(lambda work, kind=kind: work.kind == kind)
        ends[0].send(pair.memory.span, pair.sending)
        ends[1].receive(pair.reader.allocate(SIZE).span, pair.using)
        assert len(pair.simulation.settle()) == 1
        for end in ends:
            with pytest.raises(DeviceError, match="has a failed device"):
                end.check()
        ends[kind == "send"].destroy()
        pair.simulation.run()


def test_synchronize_raises_when_the_device_fails_meanwhile():
    pair = Pair()
    event = pair.writer.event()
    pair.simulation.fail(lambda work: work.kind == "kernel")
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    pair.sending.record(event)
    with pytest.raises(DeviceError, match="an illegal memory access"):
        event.synchronize()


# Pipelines


@pytest.mark.parametrize("overlap", [True, False])
def test_a_pipeline_overlaps_compute_with_communication(overlap):
    """Compute takes 3 s, a transfer 2 s, the reader's use 1 s: with overlap, compute alone counts."""
    count = 5
    pair = Pair()
    sender, receiver = pair.link(latency=2.0, bandwidth=1e30)
    slots = [pair.writer.allocate(SIZE) for _ in range(2)]
    targets = [pair.reader.allocate(SIZE) for _ in range(2)]
    compute = pair.writer.stream() if overlap else pair.sending
    use = pair.reader.stream() if overlap else pair.using
    written, sent = pair.writer.event(), [pair.writer.event() for _ in slots]
    received, used = pair.reader.event(), [pair.reader.event() for _ in targets]
    seen = []
    for number in range(count):
        slot = number % 2
        compute.wait(sent[slot])
        fill(pair.writer, compute, slots[slot].span, number)
        busy(pair.writer, compute, 2.0)
        compute.record(written)
        pair.sending.wait(written)
        sender.send(slots[slot].span, pair.sending)
        pair.sending.record(sent[slot])
        pair.using.wait(used[slot])
        receiver.receive(targets[slot].span, pair.using)
        pair.using.record(received)
        use.wait(received)
        seen.append(look(pair.reader, use, targets[slot].span))
        use.record(used[slot])
    assert pair.simulation.run() == pytest.approx(3.0 * count + 3.0 if overlap else 5.0 * count + 1.0)
    assert [each[0][0] for each in seen] == [*range(count)]
