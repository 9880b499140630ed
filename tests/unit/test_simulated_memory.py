"""Memory, mappings and events of the simulated device: who may use them, and until when."""

from __future__ import annotations

import mmap

import pytest

from async_adag.gpu.interface import DeviceError, NotExportable, Span
from async_adag.gpu.simulated import Misuse, Race, SimulatedPool, Simulation
from tests.simulated import SIZE, Pair, fill, guards, look, words


@pytest.fixture
def alone():
    """A process of its own, its memory, and a stream."""
    device = Simulation().process(name="writer")
    return device, device.allocate(SIZE), device.stream()


# Freeing


@guards
def test_memory_is_freed_when_the_host_knows_that_its_work_is_done(alone, guarded):
    device, memory, stream = alone
    event = device.event()
    fill(device, stream, memory.span, 1)
    stream.record(event)
    device.world.run()
    if guarded:
        assert event.query()
        memory.close()
    else:
        with pytest.raises(Race, match=r"nothing orders freeing it .* after fill #0"):
            memory.close()


def test_memory_is_not_freed_with_work_still_to_be_done(alone):
    device, memory, stream = alone
    look(device, stream, memory.span)
    with pytest.raises(Race, match=r"freeing it .* comes before look #0 \(stream 1 of writer\)"):
        memory.close()


def test_an_event_of_one_stream_does_not_free_what_another_uses(alone):
    device, memory, stream = alone
    event = device.event()
    look(device, stream, memory.span)
    look(device, device.stream(), memory.span)
    stream.record(event)
    device.world.run()
    assert event.query()
    with pytest.raises(Race, match="stream 2 of writer"):
        memory.close()


def test_freed_memory_is_used_no_more_and_freeing_again_is_harmless(alone):
    device, memory, stream = alone
    memory.close()
    memory.close()
    assert not device.world.faults
    with pytest.raises(Misuse, match=r"memory #\d+ of writer \(64 bytes\), which was freed"):
        fill(device, stream, memory.span, 1)


def test_memory_of_no_allocation_or_beyond_one_is_refused(alone):
    device, memory, stream = alone
    with pytest.raises(Misuse, match="reaches beyond the end of"):
        look(device, stream, Span(memory.span.address + 1, SIZE))
    with pytest.raises(Misuse, match="is no memory of writer's"):
        look(device, stream, Span(64, 1))
    with pytest.raises(Misuse, match="is no memory of writer's"):
        look(device, stream, Span(memory.span.address + SIZE, 1))
    look(device, stream, Span(memory.span.address + SIZE - 1, 1))


def test_freed_addresses_are_new_or_used_again_as_was_asked():
    for reuse in (False, True):
        device = Simulation(reuse_addresses=reuse).process()
        first = device.allocate(SIZE)
        first.close()
        second = device.allocate(SIZE - 1)
        assert (second.span.address == first.span.address) == reuse
        device.write(second.span, bytes(SIZE - 1))


def test_the_device_runs_out_of_memory_and_gets_it_back():
    simulation = Simulation(memory=100)
    device, neighbour, elsewhere = simulation.process(), simulation.process(), simulation.process(device=1)
    memory = device.allocate(60)
    with pytest.raises(DeviceError, match="out of memory: 60 bytes, of which 40 are left"):
        neighbour.allocate(60)
    elsewhere.allocate(60)
    memory.close()
    neighbour.allocate(60)
    with pytest.raises(DeviceError, match="out of memory"):
        elsewhere.allocate(0)
    neighbour.kill()
    device.allocate(100)


def test_new_memory_is_not_zero(alone):
    device, memory, _ = alone
    assert device.read(memory.span) == b"\xcd" * SIZE


# Copies


def test_a_copy_fills_the_beginning_and_has_to_fit(alone):
    device, memory, stream = alone
    small = device.allocate(10)
    device.write(small.span, b"0123456789")
    device.copy(memory.span, small.span, stream)
    device.world.run()
    assert device.peek(memory.span) == b"0123456789" + b"\xcd" * (SIZE - 10)
    with pytest.raises(Misuse, match="copies 64 bytes to where 10 are"):
        device.copy(small.span, memory.span, stream)


def test_a_copy_onto_itself_is_found(alone):
    device, memory, stream = alone
    low, high = Span(memory.span.address, 32), Span(memory.span.address + 32, 32)
    device.copy(high, low, stream)
    with pytest.raises(Misuse, match="onto itself"):
        device.copy(Span(low.address + 1, 32), low, stream)


# Other processes


def test_exported_memory_is_the_same_bytes_at_another_address():
    pair = Pair()
    part = Span(pair.memory.span.address + 24, 8)
    export = pair.writer.export(part)
    assert export.offset == 24
    assert export.handle == pair.writer.export(pair.memory.span).handle
    assert len(export.handle) == 64
    assert pair.mapping.span != pair.memory.span
    assert pair.mapping.span.nbytes == SIZE
    pair.writer.write(part, b"8 bytes.")
    pair.reader.hear(pair.writer.tell())
    assert pair.reader.read(Span(pair.mapping.span.address + export.offset, 8)) == b"8 bytes."
    with pytest.raises(Misuse, match="is no memory of reader's"):
        pair.reader.peek(part)


@guards
def test_memory_that_another_process_has_open_is_not_freed(guarded):
    pair = Pair()
    if guarded:
        pair.mapping.close()
        pair.writer.hear(pair.reader.tell())
        pair.memory.close()
    else:
        with pytest.raises(Misuse, match=r"writer frees memory .*, which reader has open"):
            pair.memory.close()


def test_memory_is_freed_when_its_owner_was_told_that_it_was_unmapped():
    pair = Pair()
    pair.mapping.close()
    with pytest.raises(Race, match=r"nothing orders freeing it .* after unmapping it .the host of reader"):
        pair.memory.close()


@guards
def test_a_mapping_is_closed_when_its_process_knows_that_its_work_is_done(guarded):
    pair = Pair()
    event = pair.reader.event()
    look(pair.reader, pair.using, pair.mapping.span)
    pair.using.record(event)
    if guarded:
        event.synchronize()
        pair.mapping.close()
        pair.mapping.close()
    else:
        with pytest.raises(Race, match=r"unmapping it .* comes before look"):
            pair.mapping.close()


def test_a_mapping_may_be_closed_while_its_owner_works_on():
    pair = Pair()
    look(pair.writer, pair.sending, pair.memory.span)
    pair.mapping.close()
    pair.simulation.run()
    with pytest.raises(Misuse, match="which was unmapped"):
        look(pair.reader, pair.using, pair.mapping.span)


def test_what_cannot_be_opened():
    pair = Pair()
    handle = pair.writer.export(pair.memory.span).handle
    with pytest.raises(DeviceError, match="invalid device context: writer cannot open memory"):
        pair.writer.open(handle)
    with pytest.raises(DeviceError, match="another device"):
        pair.simulation.process(device=1).open(handle)
    with pytest.raises(DeviceError, match="no handle of simulated memory"):
        pair.reader.open(bytes(64))
    spare = pair.writer.allocate(SIZE)
    handle_of_spare = pair.writer.export(spare.span).handle
    spare.close()
    with pytest.raises(DeviceError, match="cannot open freed memory"):
        pair.reader.open(handle_of_spare)
    assert not pair.simulation.faults
    with pytest.raises(Misuse, match="which it has open"):
        pair.reader.open(handle)


def test_memory_of_a_dead_process_cannot_be_opened_but_what_is_open_stays():
    pair = Pair()
    third = pair.simulation.process()
    handle = pair.writer.export(pair.memory.span).handle
    pair.writer.write(pair.memory.span, bytes(SIZE))
    pair.reader.hear(pair.writer.tell())
    pair.writer.kill()
    with pytest.raises(DeviceError, match="cannot open memory"):
        third.open(handle)
    assert pair.reader.read(pair.mapping.span) == bytes(SIZE)
    pair.mapping.close()
    with pytest.raises(DeviceError, match="cannot open freed memory"):
        third.open(handle)


def test_memory_that_a_dead_process_had_open_may_be_freed():
    pair = Pair()
    look(pair.reader, pair.using, pair.mapping.span)
    pair.reader.kill()
    pair.memory.close()
    pair.mapping.close()
    pair.simulation.run()


def test_what_cannot_be_exported():
    pair = Pair()
    with pytest.raises(NotExportable, match="another process's"):
        pair.reader.export(pair.mapping.span)
    with pytest.raises(NotExportable, match="made by an allocator"):
        pair.writer.export(pair.writer.allocate_private(SIZE).span)
    for exportable in (True, False):
        block = SimulatedPool(pair.writer, 4096, exportable=exportable).take(SIZE, pair.sending)
        if exportable:
            pair.writer.export(block.span)
        else:
            with pytest.raises(NotExportable):
                pair.writer.export(block.span)


def test_a_pool_hands_out_first_what_came_back_last_for_the_same_stream(alone):
    device, _, stream = alone
    pool = SimulatedPool(device, 3 * 512)
    first, second = pool.take(100, stream), pool.take(100, stream)
    second.close()
    second.close()
    first.close()
    with pytest.raises(DeviceError, match="out of memory"):
        pool.take(513, device.stream())
    elsewhere = pool.take(100, device.stream())
    assert elsewhere.span.address not in (first.span.address, second.span.address)
    assert [pool.take(200, stream).span.address for _ in range(1)] == [first.span.address]
    pool.close()


# Events and streams


def test_what_cannot_be_done_with_an_event_that_was_closed():
    for doing in ("record", "wait", "query", "synchronize"):
        pair = Pair()
        event = pair.writer.event()
        event.close()
        event.close()
        with pytest.raises(Misuse, match=r"event #\d+ of writer, which it has closed"):
            getattr(pair.sending, doing)(event) if doing in ("record", "wait") else getattr(event, doing)()


def test_an_event_is_of_one_process():
    for doing in ("record", "wait"):
        pair = Pair()
        with pytest.raises(Misuse, match=r"reader (records|waits for) event #\d+ of writer"):
            getattr(pair.using, doing)(pair.writer.event())


def test_words_lie_in_whole_words_of_whole_pages():
    device = Simulation().process()
    page = memoryview(mmap.mmap(-1, 2 * mmap.PAGESIZE))
    for memory in (page[8:], page[: mmap.PAGESIZE - 1]):
        with pytest.raises(DeviceError, match="begins with a page"):
            device.words(memory)


@guards
def test_words_are_not_closed_while_a_stream_needs_them(guarded):
    pair = Pair()
    there, here = words(pair)
    there.store(pair.sending, 0, 1)
    here.wait(pair.using, 0, 1)
    if guarded:
        pair.simulation.run()
        here.close()
        here.close()
        there.close()
        with pytest.raises(Misuse, match="which it has closed"):
            there.store(pair.sending, 0, 2)
    else:
        with pytest.raises(Misuse, match=r"reader closes 512 words, which await #0 .stream 1 of reader. needs"):
            here.close()


def test_an_adopted_stream_is_the_same_stream_and_stays_open(alone):
    device, memory, stream = alone
    adopted = device.adopt(stream.handle)
    fill(device, stream, memory.span, 1)
    look(device, adopted, memory.span)
    adopted.close()
    fill(device, stream, memory.span, 2)
    device.world.run()
    default = device.adopt(0)
    assert default.handle == 0
    with pytest.raises(DeviceError, match="has no stream 0x7"):
        device.adopt(7)
    stream.close()
    stream.close()
    with pytest.raises(Misuse, match="stream 1 of writer, which is closed"):
        look(device, adopted, memory.span)


def test_a_stream_that_is_closed_does_its_work(alone):
    device, memory, stream = alone
    fill(device, stream, memory.span, 1)
    stream.close()
    device.world.run()
    assert device.peek(memory.span) == bytes([1]) * SIZE


def test_processes_know_their_device():
    simulation = Simulation()
    one, two, other = simulation.process(), simulation.process(), simulation.process(device=1)
    assert one.identity == two.identity != other.identity
    assert one.name == two.name != other.name
    one.enter()


def test_what_is_left_open_is_told():
    pair = Pair()
    sender, receiver = pair.link()
    pair.writer.event()
    _, there = words(pair)
    assert pair.simulation.belongings() == [
        "memory #4 of writer (64 bytes), in writer",
        "event #7 of writer, in writer",
        "512 words, in writer",
        "stream 1 of writer",
        "the mapping of memory #4 of writer (64 bytes), in reader",
        "512 words, in reader",
        "stream 1 of reader",
        f"{sender._pairing} at rank 0",
        f"{sender._pairing} at rank 1",
    ]
    for thing in (there, pair.mapping, pair.using):
        thing.close()
    pair.writer.hear(pair.reader.tell())
    receiver.destroy()
    assert len(pair.simulation.belongings()) == 5
    sender.destroy()
    pair.memory.close()
    pair.writer.kill()
    assert pair.simulation.belongings() == []
