"""Leases: arrays that point straight into the ring's memory, for as long as somebody holds them."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import numpy as np
import pytest

from async_adag.channels.ring import LEASE_FROM, LEASES

BIG = 2 * LEASE_FROM // 8  # elements of 8 bytes: certainly leased


def numbered(number, size=BIG):
    return np.full(size, number, dtype=np.int64)


def lies_in_shared_memory(array):
    """Whether the array's bytes are in a mapped memory file."""
    address = array.ctypes.data
    for line in maps():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            return "memfd:async-adag" in line
    return False


def maps():
    with open("/proc/self/maps") as file:
        return file.readlines()


def test_a_big_array_is_not_copied(ring):
    arrived = ring.pass_on(numbered(1))
    assert lies_in_shared_memory(arrived)
    assert ring.reader.leased() == 1


def test_a_small_array_is_copied(ring):
    arrived = ring.pass_on(numbered(1, 100))
    assert not lies_in_shared_memory(arrived)
    assert ring.reader.leased() == 0


def test_a_lease_ends_with_the_array(ring):
    arrived = ring.pass_on(numbered(1))
    del arrived
    assert ring.reader.leased() == 0


def test_a_lease_ends_with_the_last_of_the_arrays_and_their_views(ring):
    arrived = ring.pass_on({"a": numbered(1), "b": [numbered(2)]})
    assert ring.reader.leased() == 1
    view = arrived["b"][0][10:20].reshape(2, 5)
    del arrived
    assert ring.reader.leased() == 1
    assert (view == 2).all()
    del view
    assert ring.reader.leased() == 0


def test_a_lease_in_a_circle_ends_when_the_collector_finds_it(ring):
    arrived = [ring.pass_on(numbered(1))]
    arrived.append(arrived)
    del arrived
    gc.collect()
    assert ring.reader.leased() == 0


def test_a_lease_may_end_on_any_thread(ring):
    box = [ring.pass_on(numbered(1))]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert ring.reader.leased() == 0


def test_a_lease_may_end_while_the_reader_reads(ring):
    # An object that dies while another is unpickled, on the same thread: the collector may run at any time.
    class Holder:
        def __init__(self, array):
            self.array = array
            self.itself = self

    for number in range(50):
        Holder(ring.pass_on(numbered(number)))
        if number % 25 == 0:
            gc.collect()
    gc.collect()
    assert ring.reader.leased() == 0


def test_a_held_array_keeps_its_content_while_thousands_of_frames_pass(make_ring):
    ring = make_ring(keep=1)  # so that idle memory is given back as early as can be
    held = [ring.pass_on(numbered(number)) for number in range(10)]
    for number in range(3000):
        passed = ring.pass_on(numbered(100 + number, BIG + number % 5 * 1000))
        assert passed[0] == passed[-1] == 100 + number
    for number, array in enumerate(held):
        assert lies_in_shared_memory(array)
        assert (array == number).all()


def test_the_memory_comes_back_when_the_array_is_gone(ring):
    ring.pass_on(numbered(0))
    one = ring.writer.backed_bytes()
    held = ring.pass_on(numbered(1))
    second = ring.pass_on(numbered(2))
    assert ring.writer.backed_bytes() == 2 * one
    del held, second
    for number in range(100):
        assert ring.pass_on(numbered(number))[0] == number
    assert ring.writer.backed_bytes() == 2 * one


@pytest.mark.parametrize("size", [BIG, 10 * BIG])
def test_holding_more_arrays_than_leases_copies_the_others_and_stops_nothing(ring, size):
    count = 3 * LEASES
    held = [ring.pass_on(numbered(number, size)) for number in range(count)]
    assert ring.reader.leased() == LEASES
    assert sum(map(lies_in_shared_memory, held)) == LEASES
    for number, array in enumerate(held):
        assert (array == number).all()
        assert not array.flags.writeable
    del held[: count // 2]
    again = ring.pass_on(numbered(-1, size))
    assert lies_in_shared_memory(again)
    assert (again == -1).all()


def test_every_reader_has_leases_of_its_own(make_ring):
    ring = make_ring(3)
    first, second, third = ring.readers
    held = []
    for number in range(2 * LEASES):
        ring.send(numbered(number))
        held.append(first.read())
        assert second.read()[0] == number
        third.discard()
    assert [reader.leased() for reader in ring.readers] == [LEASES, 0, 0]
    assert all((array == number).all() for number, array in enumerate(held))


def test_a_block_is_used_again_only_when_every_reader_has_let_go(make_ring):
    ring = make_ring(3)

    def use_blocks(count):
        together = []
        for number in range(count):
            ring.send(numbered(100 + number))
            together.append(ring.read_all())
        return ring.writer.backed_bytes()

    ring.send(numbered(1))
    held = ring.read_all()
    count = 5
    while held:
        # Each time one block more than there are: one that wrongly passes for free is written over.
        backed = use_blocks(count)
        count += 1
        assert all((array == 1).all() for array in held)
        held.pop()
    assert use_blocks(count) == backed  # the one that was held is there again
    assert all(reader.leased() == 0 for reader in ring.readers)


def test_a_copied_array_does_not_hold_its_block(make_ring):
    # Small enough to be copied, too big to lie inline.
    ring = make_ring()
    held = [ring.pass_on(numbered(number, 1000)) for number in range(500)]
    assert ring.writer.backed_bytes() <= 2 * 1000 * 8 + 10_000
    assert all((array == number).all() for number, array in enumerate(held))


def test_an_array_outlives_both_ends_and_its_mapping_goes_with_it(make_ring):
    ring = make_ring()
    arrived = ring.pass_on(numbered(5))
    inode = f" {os.fstat(ring.memory).st_ino} "
    ring.close()
    gc.collect()
    assert (arrived == 5).all()
    assert any(inode in line for line in maps())
    del arrived
    assert not any(inode in line for line in maps())


@pytest.mark.interpreted(reason="it takes a weak reference to a reader")
def test_a_held_array_keeps_only_its_own_memory_and_not_the_reader(make_ring):
    ring = make_ring()
    arrived = ring.pass_on(numbered(5))
    fd = ring.reader._fd
    reader = weakref.ref(ring.readers.pop())
    gc.collect()
    assert reader() is None
    assert (arrived == 5).all()
    os.close(fd)  # which it would have done, had it been closed
