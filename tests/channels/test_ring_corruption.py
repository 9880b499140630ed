"""Corrupt frames: refused with `FrameError`, whatever bytes a broken peer has left; nothing faults."""

from __future__ import annotations

import contextlib
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.channels.ring import INLINE_CAPACITY, SLOT
from async_adag.protocol.frame import (
    BLOCK,
    HEADER_SIZE,
    INLINE,
    FrameError,
    Header,
    Kind,
    pack_bare,
    pack_header,
    unpack_bare,
    unpack_header,
)

VALUES = {
    "bare": 7,
    "text": "some text",
    "inline": [1, "two", np.arange(3)],
    "block": [1, np.arange(1000)],
    "leased": [1, np.arange(100_000)],
}


@pytest.fixture(scope="module")
def opened(open_one_ring):
    """Makes rings in which a value is the first frame and a good one is behind it."""

    @contextlib.contextmanager
    def opened(value):
        ring = open_one_ring()
        try:
            ring.send(value)
            ring.send("behind")
            yield ring
        finally:
            ring.close()

    return opened


def header_at(ring, slot):
    """Where the header of a slot lies in the memory file."""
    return ring.spec.slots_begin() + slot * SLOT


def header_of(ring, slot):
    """A slot's header, and the eight bytes behind it."""
    return memoryview(os.pread(ring.memory, HEADER_SIZE + 8, header_at(ring, slot)))


def spoil(ring, slot, header):
    """Put other bytes, or another header, in the place of a slot's header."""
    if isinstance(header, Header):
        packed = memoryview(bytearray(HEADER_SIZE))
        pack_header(packed, 0, header)
        header = packed
    os.pwrite(ring.memory, header, header_at(ring, slot))


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@settings(max_examples=30)
@given(noise=st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_random_bytes_over_a_header(opened, value, noise):
    with opened(value) as ring:
        spoil(ring, 0, noise)
        for take in (ring.reader.read, ring.reader.discard):
            with pytest.raises(FrameError):
                take()


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@settings(max_examples=60)
@given(changes=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), min_size=1, max_size=4))
def test_some_wrong_bytes_in_a_header(opened, value, changes):
    with opened(value) as ring:
        header = bytearray(header_of(ring, 0))
        for at, byte in changes:
            header[at] = byte
        spoil(ring, 0, header)
        read_spoiled(ring)


u64 = st.one_of(st.integers(0, 2**17), st.integers(0, 2**64 - 1), st.integers(0, 600).map(lambda n: n * 4096))


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(VALUES)),
    st.builds(
        Header,
        kind=st.sampled_from([int(kind) for kind in Kind]),
        place=st.sampled_from([INLINE, BLOCK]),
        buffers=st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
        seq=st.just(0),
        body=u64,
        length=u64,
        block=st.one_of(st.integers(0, 100), st.integers(0, 2**32 - 1)),
        offset=u64,
        generation=u64,
        hold=st.integers(0, 2**16 - 1),
        held=u64,
    ),
)
def test_a_header_whose_fields_are_anything(opened, name, header):
    with opened(VALUES[name]) as ring:
        spoil(ring, 0, header)
        read_spoiled(ring)


def unpacked(ring, header):
    layout = ring.spec.layout()
    return unpack_header(header, 0, 0, INLINE_CAPACITY, layout.blocks, layout.holds)


def read_spoiled(ring):
    """Read a frame with a spoiled header: refused, or else taken for what it says it is."""
    header = header_of(ring, 0)
    if unpack_bare(header, 0, 0, INLINE_CAPACITY) is None:
        try:
            unpacked(ring, header)
        except FrameError:
            with pytest.raises(FrameError):
                ring.reader.read()
            return
    try:
        ring.reader.read()
    except FrameError:
        return  # its payload does not fit it, or lies nowhere
    except struct.error as error:
        raise AssertionError("a number of another size than 8 bytes is no frame") from error
    except Exception:
        pass  # another kind of body than it says: whatever the decoder says to it
    assert ring.reader.read() == "behind"


def block_header(**fields):
    """The header of a frame in a block, as a writer would write the first one."""
    good = {
        "kind": int(Kind.BYTES),
        "place": BLOCK,
        "buffers": 0,
        "seq": 0,
        "body": 5000,
        "length": 5000,
        "block": 0,
        "offset": 0,
        "generation": 1,
    }
    return Header(**good | fields)


@pytest.mark.parametrize(
    "where",
    [
        {"offset": 1 << 40},
        {"offset": (1 << 64) - 4096},
        {"offset": (1 << 64) - 1},
        {"length": 1 << 40},
        {"length": (1 << 64) - 1},
    ],
    ids=str,
)
def test_a_block_outside_the_memory_file_is_refused(ring, where):
    ring.send(b"x" * 5000)
    spoil(ring, 0, block_header(**{"offset": ring.spec.size()} | where))
    with pytest.raises(FrameError):
        ring.reader.read()


def test_a_block_that_does_not_begin_with_a_page_is_refused(ring):
    ring.send(b"x" * 5000)
    spoil(ring, 0, block_header(offset=ring.spec.size() + 8))
    with pytest.raises(FrameError):
        ring.reader.read()


def test_a_block_among_the_words_and_slots_is_refused(ring):
    ring.send(b"x" * 5000)
    spoil(ring, 0, block_header(offset=0))
    with pytest.raises(FrameError):
        ring.reader.read()


@pytest.mark.parametrize("size", [100, 1000, 100_000], ids=["inline", "copied", "leased"])
@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**7])
def test_buffer_lengths_that_do_not_fit_their_payload_are_refused(ring, size, length):
    ring.send(np.zeros(size, np.uint64))
    at = header_at(ring, 0) + HEADER_SIZE
    if size > 100:
        at = unpacked(ring, header_of(ring, 0)).offset
    assert os.pread(ring.memory, 8, at) == struct.pack("=Q", 8 * size)
    os.pwrite(ring.memory, struct.pack("=Q", length), at)
    with pytest.raises(FrameError):
        ring.reader.read()


@pytest.mark.parametrize("kind", [Kind.INT, Kind.FLOAT])
def test_a_number_of_another_size_than_8_bytes_is_refused(ring, kind):
    ring.send(1)
    header = memoryview(bytearray(HEADER_SIZE))
    pack_bare(header, 0, int(kind), 0, 3)
    spoil(ring, 0, header)
    with pytest.raises(FrameError):
        ring.reader.read()


def test_a_frame_out_of_its_turn_is_refused(ring):
    ring.send("first")
    ring.send("second")
    spoil(ring, 0, header_of(ring, 1))
    with pytest.raises(FrameError, match="execution 1 where 0 is next"):
        ring.reader.read()


def test_a_refused_frame_is_still_refused_when_asked_again(ring):
    ring.send("x")
    spoil(ring, 0, bytes(HEADER_SIZE))
    for take in (ring.reader.read, ring.reader.read, ring.reader.discard):
        with pytest.raises(FrameError, match="no frame here"):
            take()
