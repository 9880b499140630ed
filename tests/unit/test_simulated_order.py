"""What the simulated device takes for ordered: each rule with its guard, and found when that is left out."""

from __future__ import annotations

import os

import pytest

from async_adag.gpu.interface import Span
from async_adag.gpu.simulated import Misuse, Race, SimulatedPool, Simulation
from tests.simulated import SIZE, Pair, fill, found, guards, look, words


@guards
def test_a_read_on_another_stream_needs_the_writers_event(guarded):
    pair = Pair()
    event, other = pair.writer.event(), pair.writer.stream()
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    pair.sending.record(event)
    if guarded:
        other.wait(event)
    seen = look(pair.writer, other, pair.memory.span)
    found(pair.simulation, guarded, Race, r"read by look #0 \(stream 2 of writer, at 1 s\).*after fill #0")
    assert seen == ([bytes([7]) * SIZE] if guarded else [])


@guards
def test_a_write_needs_the_event_of_each_reader(guarded):
    pair = Pair()
    others = [pair.writer.stream(), pair.writer.stream()]
    events = [pair.writer.event(), pair.writer.event()]
    fill(pair.writer, pair.sending, pair.memory.span, 1)
    written = pair.writer.event()
    pair.sending.record(written)
    for stream, event in zip(others, events, strict=True):
        stream.wait(written)
        look(pair.writer, stream, pair.memory.span)
        stream.record(event)
    pair.sending.wait(events[0])
    if guarded:
        pair.sending.wait(events[1])
    fill(pair.writer, pair.sending, pair.memory.span, 2)
    found(pair.simulation, guarded, Race, r"written by fill .* after look .*stream 3 of writer.*they were read")


@guards
def test_a_write_needs_the_event_of_the_last_writer(guarded):
    pair = Pair()
    event, other = pair.writer.event(), pair.writer.stream()
    fill(pair.writer, pair.sending, pair.memory.span, 1)
    pair.sending.record(event)
    if guarded:
        other.wait(event)
    fill(pair.writer, other, pair.memory.span, 2)
    found(pair.simulation, guarded, Race, "written by fill .* after fill .* they were written")


def test_a_race_is_found_though_it_went_well_this_time():
    pair = Pair()
    other = pair.writer.stream()
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    pair.simulation.advance(100.0)
    look(pair.writer, other, pair.memory.span)
    with pytest.raises(Race, match=r"at 101 s\)"):
        pair.simulation.run()


def test_reads_do_not_race_with_reads_nor_neighbouring_bytes_with_each_other():
    pair = Pair()
    other = pair.writer.stream()
    low, high = Span(pair.memory.span.address, 10), Span(pair.memory.span.address + 10, SIZE - 10)
    look(pair.writer, pair.sending, pair.memory.span)
    look(pair.writer, other, pair.memory.span)
    pair.simulation.run()
    event = pair.writer.event()
    other.record(event)
    event.synchronize()
    pair.sending.record(event)
    event.synchronize()
    fill(pair.writer, pair.sending, low, 1)
    fill(pair.writer, other, high, 2)
    pair.simulation.run()
    assert pair.writer.peek(pair.memory.span) == bytes([1]) * 10 + bytes([2]) * (SIZE - 10)


def test_one_shared_byte_is_a_race():
    pair = Pair()
    other = pair.writer.stream()
    fill(pair.writer, pair.sending, Span(pair.memory.span.address, 10), 1)
    fill(pair.writer, other, Span(pair.memory.span.address + 9, 10), 2)
    with pytest.raises(Race, match="bytes 9 to 10"):
        pair.simulation.run()


def test_bytes_remember_their_readers_when_their_neighbours_get_a_history_of_their_own():
    pair = Pair()
    other = pair.writer.stream()
    look(pair.writer, pair.sending, pair.memory.span)
    fill(pair.writer, pair.sending, Span(pair.memory.span.address, 10), 1)
    pair.simulation.advance(10.0)
    fill(pair.writer, other, Span(pair.memory.span.address + 10, 10), 2)
    with pytest.raises(Race, match=r"bytes 10 to 20 .* after look #0"):
        pair.simulation.run()


def test_a_fault_that_is_swallowed_is_raised_again():
    pair = Pair()
    spare = pair.writer.allocate(SIZE)
    fill(pair.writer, pair.sending, spare.span, 1)
    with pytest.raises(Race, match="freeing it"):
        spare.close()
    for again in (pair.simulation.run, pair.simulation.step, lambda: pair.simulation.advance(1.0)):
        with pytest.raises(Race, match="freeing it"):
            again()


def test_a_copy_is_a_read_and_a_write():
    for span in ("source", "to"):
        pair = Pair()
        target = pair.writer.allocate(SIZE)
        other = pair.writer.stream()
        pair.writer.copy(target.span, pair.memory.span, pair.sending)
        fill(pair.writer, other, pair.memory.span if span == "source" else target.span, 1)
        with pytest.raises(
            Race, match=r"after copy #0 .* they were " + ("read" if span == "source" else "written")
        ):
            pair.simulation.run()


@guards
def test_the_host_reads_what_it_knows_to_be_written(guarded):
    pair = Pair()
    event = pair.writer.event()
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    pair.sending.record(event)
    assert not event.query()
    pair.simulation.run()
    if guarded:
        assert event.query()
        assert pair.writer.read(pair.memory.span) == bytes([7]) * SIZE
    else:
        with pytest.raises(Race, match=r"a read .the host of writer"):
            pair.writer.read(pair.memory.span)


@guards
def test_the_host_writes_where_it_knows_the_device_to_be_done(guarded):
    pair = Pair()
    event = pair.writer.event()
    look(pair.writer, pair.sending, pair.memory.span)
    pair.sending.record(event)
    if guarded:
        event.synchronize()
    pair.writer.write(pair.memory.span, bytes(SIZE))
    found(pair.simulation, guarded, Race, r"read by look .* after a write \(the host of writer")


def test_synchronize_waits_and_an_event_that_was_never_recorded_has_passed():
    pair = Pair()
    event = pair.writer.event()
    assert event.query()
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    pair.sending.record(event)
    event.synchronize()
    assert pair.writer.read(pair.memory.span) == bytes([7]) * SIZE
    assert pair.simulation.now == 1.0


@guards
def test_an_eventfd_tells_that_all_before_it_is_done(guarded):
    pair = Pair()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        fill(pair.writer, pair.sending, pair.memory.span, 7)
        pair.writer.notify(pair.sending, fd)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
        pair.simulation.run()
        assert os.eventfd_read(fd) == 1
    finally:
        os.close(fd)
    if guarded:
        pair.writer.woken(fd)
        pair.writer.read(pair.memory.span)
    else:
        with pytest.raises(Race):
            pair.writer.read(pair.memory.span)


def test_an_eventfd_that_was_closed_too_early_is_found():
    pair = Pair()
    fd = os.eventfd(0)
    pair.writer.notify(pair.sending, fd)
    os.close(fd)
    with pytest.raises(Misuse, match="no open eventfd"):
        pair.simulation.run()


def test_what_an_event_was_recorded_behind_counts_when_it_was_waited_for():
    """Recorded again later, it is another place; recorded again before, the first place says nothing."""
    pair = Pair()
    event, other = pair.writer.event(), pair.writer.stream()
    fill(pair.writer, pair.sending, pair.memory.span, 1)
    pair.sending.record(event)
    other.wait(event)
    fill(pair.writer, pair.sending, pair.memory.span, 2)
    pair.sending.record(event)
    look(pair.writer, other, pair.memory.span)
    with pytest.raises(Race):
        pair.simulation.run()


# Between processes


@guards
def test_another_process_waits_for_a_word(guarded):
    pair = Pair()
    there, here = words(pair)
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    there.store(pair.sending, 3, 5)
    if guarded:
        here.wait(pair.using, 3, 5)
    seen = look(pair.reader, pair.using, pair.mapping.span)
    found(pair.simulation, guarded, Race, "look .*stream 1 of reader.* fill .*stream 1 of writer|fill .* look")
    assert seen == ([bytes([7]) * SIZE] if guarded else [])


@guards
def test_a_word_must_be_stored_behind_what_it_tells(guarded):
    pair = Pair()
    there, here = words(pair)
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    there.store(pair.sending if guarded else pair.writer.stream(), 0, 1)
    here.wait(pair.using, 0, 1)
    look(pair.reader, pair.using, pair.mapping.span)
    found(pair.simulation, guarded, Race, "(look|fill) .* nothing orders|nothing orders")


def test_a_word_that_has_come_further_proves_no_more_than_the_first_that_would_do():
    pair = Pair()
    there, here = words(pair)
    there.store(pair.sending, 0, 1)
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    there.store(pair.sending, 0, 2)
    pair.simulation.run()
    here.wait(pair.using, 0, 1)
    look(pair.reader, pair.using, pair.mapping.span)
    with pytest.raises(Race):
        pair.simulation.run()


def test_what_a_word_began_with_proves_nothing():
    pair = Pair()
    there, here = words(pair)
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    there.store(pair.sending, 0, 1)
    pair.simulation.run()
    here.wait(pair.using, 0, 0)
    look(pair.reader, pair.using, pair.mapping.span)
    with pytest.raises(Race):
        pair.simulation.run()


@guards
def test_a_host_that_sees_a_word_knows_what_came_before(guarded):
    pair = Pair()
    there, here = words(pair)
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    there.store(pair.sending, 0, 1)
    assert here.load(0) == 0
    pair.simulation.run()
    if guarded:
        assert here.load(0) == 1
        assert pair.reader.read(pair.mapping.span) == bytes([7]) * SIZE
    else:
        with pytest.raises(Race):
            pair.reader.read(pair.mapping.span)


@guards
def test_a_message_from_process_to_process_says_nothing_of_the_device(guarded):
    pair = Pair()
    event = pair.writer.event()
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    pair.sending.record(event)
    pair.simulation.run()
    if guarded:
        assert event.query()
    pair.reader.hear(pair.writer.tell())
    look(pair.reader, pair.using, pair.mapping.span)
    found(pair.simulation, guarded, Race, "look .* after fill")


def test_a_message_tells_what_was_known_when_it_was_sent():
    pair = Pair()
    told = pair.writer.tell()
    pair.writer.write(pair.memory.span, bytes(SIZE))
    pair.reader.hear(told)
    with pytest.raises(Race, match=r"a read .* after a write"):
        pair.reader.read(pair.mapping.span)


# Links


@guards
def test_what_is_sent_must_be_written_before(guarded):
    pair = Pair()
    sender, receiver = pair.link()
    target = pair.reader.allocate(SIZE)
    event, other = pair.writer.event(), pair.writer.stream()
    fill(pair.writer, other, pair.memory.span, 7)
    other.record(event)
    if guarded:
        pair.sending.wait(event)
    sender.send(pair.memory.span, pair.sending)
    receiver.receive(target.span, pair.using)
    found(pair.simulation, guarded, Race, "(send .* after fill|fill .* after send)")
    assert guarded == (pair.reader.peek(target.span) == bytes([7]) * SIZE)


@guards
def test_what_is_received_is_used_behind_the_receive(guarded):
    pair = Pair()
    sender, receiver = pair.link()
    target = pair.reader.allocate(SIZE)
    event, other = pair.reader.event(), pair.reader.stream()
    fill(pair.writer, pair.sending, pair.memory.span, 7)
    sender.send(pair.memory.span, pair.sending)
    receiver.receive(target.span, pair.using)
    pair.using.record(event)
    if guarded:
        other.wait(event)
    seen = look(pair.reader, other, target.span)
    found(pair.simulation, guarded, Race, "(look .* after receive|receive .* after look)")
    assert seen == [bytes([7]) * SIZE] or not guarded


def test_received_is_sent_but_sent_says_nothing_of_the_receiver():
    pair = Pair()
    sender, receiver = pair.link()
    target = pair.reader.allocate(SIZE)
    sender.send(pair.memory.span, pair.sending)
    receiver.receive(target.span, pair.using)
    fill(pair.reader, pair.using, pair.mapping.span, 1)  # the memory that was sent
    pair.simulation.run()
    pair = Pair()
    sender, receiver = pair.link()
    other = pair.writer.allocate(SIZE)
    pair.reader.hear(pair.writer.tell())
    fill(pair.reader, pair.using, pair.mapping.span, 1)
    sender.send(other.span, pair.sending)
    receiver.receive(pair.reader.allocate(SIZE).span, pair.using)
    look(pair.writer, pair.sending, pair.memory.span)
    with pytest.raises(Race, match=r"look .* after fill"):
        pair.simulation.run()


def test_a_sender_that_drops_its_tensor_is_found():
    """The allocator hands the memory out again for the compute stream, while the send still reads it."""
    for keeps in (True, False):
        pair = Pair()
        sender, receiver = pair.link()
        pool = SimulatedPool(pair.writer, 4096)
        compute = pair.writer.stream()
        event = pair.writer.event()
        tensor = pool.take(SIZE, compute)
        fill(pair.writer, compute, tensor.span, 1)
        compute.record(event)
        pair.sending.wait(event)
        sender.send(tensor.span, pair.sending)
        receiver.receive(pair.reader.allocate(SIZE).span, pair.using)
        kept = [tensor] if keeps else []
        address = tensor.span.address
        del tensor
        following = pool.take(SIZE, compute)
        assert keeps == (following.span.address != address)
        fill(pair.writer, compute, following.span, 2)
        found(pair.simulation, keeps, Race, "(send .* after fill|fill .* after send)")
        del kept


def test_a_receive_buffer_that_is_handed_out_again_is_found():
    """Given back when the host is done with it, though another stream still reads it."""
    for waits in (True, False):
        pair = Pair()
        sender, receiver = pair.link()
        pool = SimulatedPool(pair.reader, 4096)
        compute = pair.reader.stream()
        received, read = pair.reader.event(), pair.reader.event()
        for byte in (1, 2):
            fill(pair.writer, pair.sending, pair.memory.span, byte)
            sender.send(pair.memory.span, pair.sending)
            buffer = pool.take(SIZE, pair.using)
            if waits:
                pair.using.wait(read)
            receiver.receive(buffer.span, pair.using)
            pair.using.record(received)
            compute.wait(received)
            look(pair.reader, compute, buffer.span)
            compute.record(read)
            buffer.close()
        found(pair.simulation, waits, Race, "(receive .* after look|look .* after receive)")


def test_streams_and_events_belong_to_their_process():
    pair = Pair()
    event = pair.writer.event()
    with pytest.raises(Misuse, match="reader waits for event"):
        pair.using.wait(event)
    pair = Pair()
    with pytest.raises(Misuse, match="writer issues work to stream 1 of reader"):
        pair.writer.copy(pair.memory.span, pair.memory.span, pair.using)
    with pytest.raises(TypeError, match="takes simulated streams"):
        Simulation().process().notify(object(), 0)
