"""Channels over TCP: what they promise beyond what every channel does."""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.channels.interface import STOP
from async_adag.channels.landing import BUFFER, FAR, WHOLE
from async_adag.channels.ring import INLINE_CAPACITY, LEASES
from async_adag.protocol.wire import HEADER_SIZE
from tests.tcp import PATIENCE, Link, link

BORDERS = [0, 1, INLINE_CAPACITY, WHOLE, BUFFER - HEADER_SIZE, BUFFER, FAR, 1 << 20]
SIZES = sorted({max(0, border + by) for border in BORDERS for by in (-1, 0, 1)} | {48 << 20})


@pytest.mark.parametrize("size", SIZES)
def test_bytes_of_any_size_arrive(open_link, size):
    channel = open_link()
    value = np.random.default_rng(size).bytes(size)
    for _ in range(2 if size < 1 << 20 else 1):
        assert channel.pass_on(value) == value
        array = np.frombuffer(value, np.uint8)
        assert np.array_equal(channel.pass_on([array, "and", array])[2], array)


values = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=5000),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
arrays = st.integers(0, 300_000).map(lambda size: np.arange(size, dtype=np.uint8))


@settings(max_examples=40)
@given(st.lists(st.lists(values | arrays, max_size=6), max_size=12))
def test_any_payloads_arrive_in_order(bursts):
    channel = link(slots=6)
    try:
        for burst in bursts:
            for value in burst:
                if not channel.writer.may_write():
                    channel.settle()  # there is room, and the credit is on its way
                channel.send(value)
            channel.settle()
            for value in burst:
                arrived = channel.reader.read()
                assert type(arrived) is type(value)
                assert np.array_equal(arrived, value) if isinstance(value, np.ndarray) else arrived == value
            channel.settle()
    finally:
        channel.close()


def test_many_buffers_arrive(open_link):
    channel = open_link()
    arrays = [np.full(number % 5, number) for number in range(3000)]  # more than the kernel takes at once
    arrived = channel.pass_on(arrays)
    assert len(arrived) == 3000
    assert all(np.array_equal(one, other) for one, other in zip(arrays, arrived, strict=True))


def test_an_array_lies_where_it_has_landed_for_as_long_as_it_is_held(open_link):
    channel = open_link(keep=1)
    held = [channel.pass_on(np.full(20_000, number)) for number in range(10)]
    assert channel.reader.leased() == 10
    for number in range(300):
        assert channel.pass_on(np.full(20_000 + number % 7 * 1000, 100 + number))[-1] == 100 + number
    for number, array in enumerate(held):
        assert not array.flags.writeable
        assert (array == number).all()
    more = [channel.pass_on(np.full(20_000, number)) for number in range(2 * LEASES)]
    assert channel.reader.leased() == LEASES
    assert all((array == number).all() for number, array in enumerate(more))
    del held, more, array
    assert channel.reader.leased() == 0


def test_credits_come_in_halves_while_there_is_room(open_link):
    """A credit for each frame would cost a message for each frame."""
    channel = open_link(slots=8)
    for number in range(3):
        assert channel.pass_on(number) == number
    channel.settle()
    assert channel.writer.credited == 0
    channel.pass_on(3)
    channel.settle()
    assert channel.writer.credited == 4


def test_frames_that_are_sent_together_land_together(open_link):
    channel = open_link(slots=64)
    for number in range(50):
        channel.send(number)
    wait_for(lambda: bytes_there(channel.far) == 50 * (HEADER_SIZE + 8))
    channel.there.network.turn()
    assert channel.landing.landed == 50


def test_the_loops_own_turn_rings_nobody_here_and_everybody_else(open_link, rung):
    channel = open_link(readers=3)
    for reader in channel.readers:
        reader.arm()
    channel.send(1)
    channel.settle()
    assert [rung(bell) for bell in channel.bells] == [True] * 3
    alone = open_link()
    alone.reader.arm()
    alone.send(1)
    select.select([alone.there.network.fileno()], [], [], PATIENCE)
    alone.there.network.turn(ring_own=False)
    assert alone.reader.may_read()
    assert not rung(alone.bells[0])


def test_a_large_frame_lands_while_the_loop_does_something_else(open_link, rung):
    channel = open_link()
    assert not channel.reader.arm()
    channel.send(np.zeros(4 << 20))
    select.select([channel.there.network.fileno()], [], [], PATIENCE)
    channel.there.network.turn()  # sees its beginning; then the loop goes away
    select.select([channel.bells[0].fd], [], [], PATIENCE)
    assert channel.reader.may_read()
    assert channel.reader.read().shape == (4 << 20,)
    assert channel.pass_on("and the next") == "and the next"


def test_readers_of_other_processes_get_frames_and_give_credits_without_the_loop(open_link):
    """Nobody takes a turn on the readers' side: its loop computes."""
    channel = open_link(readers=2, slots=2)
    first, other = channel.readers
    channel.send(0)
    channel.send(1)
    wait_for(lambda: channel.landing.landed == 2)
    first.read()
    first.read()
    other.read()
    channel.here.wait(channel.writer.may_write)


def test_several_landings_of_one_process_wait_by_its_one_doorbell(open_link):
    """Each is told of what other processes take, also once one of them need not know any more."""
    one = open_link(readers=2, slots=2)
    more = [open_link(readers=2, slots=2, there=one.there, landing_bell=one.landing_bell) for _ in range(2)]
    channels = [one, *more]
    for channel in channels:
        channel.send(0)
        channel.send(1)
    wait_for(lambda: all(channel.landing.landed == 2 for channel in channels))
    for channel in channels:
        for _ in range(2):
            channel.readers[0].read()
    for channel in channels:
        assert not channel.writer.may_write()
        for _ in range(2):
            channel.readers[1].read()
        channel.here.wait(channel.writer.may_write)


def wait_for(condition):
    event = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if condition():
            return
        event.wait(0.001)
    raise AssertionError("it has not come about")


def bytes_there(sock):
    """How many bytes have arrived that nobody has received."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


FRAMES = 3000


@pytest.mark.parametrize("readers", [1, 3])
def test_threads_that_wait_by_descriptors_lose_no_frame_and_no_wake_up(open_link, readers):
    channel = open_link(readers=readers)
    got = [[] for _ in channel.readers]

    def write():
        network = channel.here.network
        for number in range(FRAMES):
            while not channel.writer.may_write():
                if not channel.writer.arm():
                    assert select.select([network.fileno()], [], [], PATIENCE)[0]
                network.turn()
            channel.send(number)

    def read(number):
        reader, network = channel.readers[number], channel.there.network
        fds = [channel.bells[number].fd, *([network.fileno()] if number == 0 else [])]
        for _ in range(FRAMES):
            while not reader.may_read():
                if not reader.arm():
                    assert select.select(fds, [], [], PATIENCE)[0]
                    try:
                        os.eventfd_read(channel.bells[number].fd)
                    except BlockingIOError:
                        pass
                if number == 0:
                    network.turn()
            got[number].append(reader.read())

    threads = [threading.Thread(target=write, daemon=True)]
    threads += [threading.Thread(target=read, args=[number], daemon=True) for number in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [list(range(FRAMES))] * readers


def test_nothing_is_left_behind():
    def stock():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = stock()
    for _ in range(3):
        made: Link = link()
        made.pass_on(np.zeros(1 << 20))
        made.send(STOP)
        made.close()
        made.close()
    assert stock() == before
