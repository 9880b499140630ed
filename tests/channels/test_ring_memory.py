"""What a ring costs: memory that stays flat, one copy for all readers, nothing left when it is closed."""

from __future__ import annotations

import fcntl
import gc
import os

import numpy as np
import pytest

from async_adag.channels.memory import PAGE, create_file, is_sealed
from async_adag.channels.ring import LEASE_FROM, LEASES, RingSpec, create_ring

MB = 1 << 20


def resident(ring):
    """Bytes that the memory file really takes."""
    return os.fstat(ring.memory).st_blocks * 512


def big(megabytes):
    return np.ones(megabytes * MB, np.uint8)


# -- flat


def test_the_same_payload_over_and_over_takes_one_block(ring):
    array = big(1)
    ring.pass_on(array)
    backed, taken = ring.writer.backed_bytes(), resident(ring)
    for _ in range(1000):
        ring.pass_on(array)
    assert (ring.writer.backed_bytes(), resident(ring)) == (backed, taken)
    assert backed <= 2 * MB


def test_a_full_ring_takes_a_block_for_each_slot(ring):
    for _ in range(20):
        for _ in range(ring.slots):
            ring.send(big(1))
        for _ in range(ring.slots):
            ring.reader.discard()
    assert ring.writer.backed_bytes() <= ring.slots * (MB + PAGE)


def burst(ring):
    """As many big payloads as the ring holds."""
    for _ in range(ring.slots):
        ring.send(big(8))
    for _ in range(ring.slots):
        ring.reader.discard()
    assert ring.writer.backed_bytes() >= ring.slots * 8 * MB


def test_memory_comes_back_when_payloads_are_middling_again(ring):
    burst(ring)
    for _ in range(2000):
        ring.pass_on(b"x" * 50_000)
    assert ring.writer.backed_bytes() <= 2 * MB
    assert resident(ring) <= 3 * MB


def test_memory_comes_back_when_payloads_are_small_again(ring):
    burst(ring)
    for number in range(20_000):
        ring.send(number)
        assert ring.reader.read() == number
    assert ring.writer.backed_bytes() <= 2 * MB
    assert resident(ring) <= 3 * MB


def test_what_is_kept_warm_is_kept(make_ring):
    ring = make_ring(keep=MB)
    array = np.ones(MB - 10_000, np.uint8)
    ring.pass_on(array)
    for _ in range(2000):
        ring.pass_on(b"x" * 50_000)
    assert ring.writer.backed_bytes() >= MB - 10_000


def test_memory_that_came_back_can_be_used_again(ring):
    for round_ in range(3):
        burst(ring)
        for _ in range(1000):
            ring.pass_on(b"x" * 50_000)
        array = np.full(MB, round_, np.int64)
        assert np.array_equal(ring.pass_on(array), array)


def test_payloads_that_grow_for_long_leave_memory_flat(make_ring):
    ring = make_ring(keep=64 * 1024)
    size = 40_000
    while size < 4 * MB:
        ring.pass_on(np.ones(size, np.uint8))
        size += 4000
    for _ in range(600):
        ring.pass_on(b"x" * 50_000)
    assert ring.writer.backed_bytes() <= 2 * MB
    assert resident(ring) <= 3 * MB


def test_sizes_in_any_order_stay_within_a_few_of_the_largest(ring):
    random = np.random.default_rng(0)
    largest = 4 * MB
    for size in random.integers(1000, largest, 1500):
        ring.pass_on(np.empty(size, np.uint8))
    assert ring.writer.backed_bytes() <= 4 * largest


def test_what_was_taken_back_takes_no_more_memory_than_one_frame(ring):
    for _ in range(100):
        ring.writer.stage(ring.writer.encode(big(1)))
        ring.writer.unstage()
    assert ring.writer.backed_bytes() <= MB + PAGE


def test_when_all_blocks_are_taken_one_moves_to_where_there_is_more_room(ring):
    blocks = ring.spec.layout().blocks
    # Blocks that are too large for what comes next, and then small ones for all that are left.
    roomy = [ring.pass_on(np.ones(MB - 5000, np.uint8)) for _ in range(blocks - LEASES)]
    roomy.clear()
    held = [ring.pass_on(np.full(LEASE_FROM, number, np.uint8)) for number in range(LEASES)]
    for megabytes in (3, 6, 12):
        assert ring.pass_on(big(megabytes)).all()
        # What the moved block had is given back.
        assert resident(ring) <= ring.writer.backed_bytes() + ring.spec.size() + blocks * PAGE
    assert all((array == number).all() for number, array in enumerate(held))


# -- one copy


@pytest.mark.parametrize("readers", [1, 3, 8])
def test_a_payload_is_written_once_however_many_read_it(make_ring, readers):
    ring = make_ring(readers)
    ring.send(big(4))
    held = ring.read_all()
    assert ring.writer.backed_bytes() < 4 * MB + 2 * PAGE
    assert resident(ring) < 5 * MB
    assert all(reader.leased() == 1 for reader in ring.readers)
    del held


def test_a_ring_that_is_not_used_takes_hardly_anything(make_ring):
    ring = make_ring(3, slots=1000)
    assert resident(ring) <= 16 * PAGE


# -- sealed


def test_the_memory_file_cannot_shrink():
    fd = create_ring(RingSpec(4, 1, MB))
    try:
        assert is_sealed(fd)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        os.ftruncate(fd, 64 * MB)
        assert os.fstat(fd).st_size == 64 * MB
    finally:
        os.close(fd)


def test_the_descriptor_is_not_inherited():
    fd = create_file("test", PAGE)
    try:
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_the_file_has_no_name_in_any_file_system(ring):
    assert os.readlink(f"/proc/self/fd/{ring.memory}") == "/memfd:async-adag (deleted)"
    assert not [name for name in os.listdir("/dev/shm") if "adag" in name]


def test_other_descriptors_do_not_pass_for_sealed_memory():
    plain = os.memfd_create("plain", os.MFD_ALLOW_SEALING)
    read, write = os.pipe()
    event = os.eventfd(0)
    try:
        assert not any(map(is_sealed, (plain, read, write, event)))
        fcntl.fcntl(plain, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        assert is_sealed(plain)
    finally:
        for fd in (plain, read, write, event):
            os.close(fd)


# -- nothing left


def open_fds():
    return set(os.listdir("/proc/self/fd"))


def mapped(inode):
    with open("/proc/self/maps") as file:
        return sum(f" {inode} " in line for line in file)


@pytest.mark.parametrize("readers", [1, 3])
def test_no_descriptor_and_no_mapping_is_left_after_closing(make_ring, readers):
    gc.collect()
    before = open_fds()
    for _ in range(10):
        ring = make_ring(readers)
        inode = os.fstat(ring.memory).st_ino
        ring.pass_on(big(1))
        ring.pass_on("small")
        ring.send(big(2))
        assert mapped(inode)
        ring.close()
        assert open_fds() == before
        assert not mapped(inode)


def test_many_blocks_take_no_descriptors(ring):
    before = open_fds()
    held = [ring.pass_on(big(1)) for _ in range(20)]
    assert open_fds() == before
    assert ring.reader.leased() == 20
    del held


def test_a_mapping_of_a_block_that_has_moved_goes(ring):
    inode = os.fstat(ring.memory).st_ino
    for power in range(14, 24):
        ring.pass_on(np.empty(2**power, np.uint8))
    few = mapped(inode)
    for _ in range(20):
        for power in range(14, 24):
            ring.pass_on(np.empty(2**power, np.uint8))
    assert mapped(inode) <= few
