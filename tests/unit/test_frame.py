"""Frames: what is packed comes back, and what is no frame is refused."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.protocol.frame import (
    ALIGNMENT,
    BARE,
    BLOCK,
    HEADER_SIZE,
    INLINE,
    MAX_BUFFERS,
    FrameError,
    Header,
    Kind,
    align,
    layout,
    pack_bare,
    pack_eight,
    pack_header,
    split,
    unpack_bare,
    unpack_header,
)

CAPACITY = 960
SLOT = HEADER_SIZE + CAPACITY
BLOCKS = 100
HOLDS = 10
U64 = 2**64 - 1

NUMBERS = (Kind.INT, Kind.FLOAT)  # always bare, and of 8 bytes
KINDS = st.sampled_from([int(kind) for kind in Kind if kind not in NUMBERS])
BARE_KINDS = KINDS.filter(lambda kind: kind not in (Kind.REFS, Kind.ARRAY))
SEQS = st.integers(0, U64)


@st.composite
def headers(draw):
    """Any header that a writer may write."""
    place = draw(st.sampled_from([INLINE, BLOCK]))
    length = draw(st.integers(0, CAPACITY if place == INLINE else U64))
    buffers = draw(st.integers(0, min(MAX_BUFFERS, length // 8)))
    body = draw(st.integers(0, length - 8 * buffers))
    where = (0, 0, 0)
    if place == BLOCK:
        where = (draw(st.integers(0, BLOCKS - 1)), draw(st.integers(0, U64)), draw(st.integers(1, U64)))
    hold = (draw(st.integers(0, HOLDS - 1)), draw(SEQS))
    kinds = KINDS if buffers == 1 else KINDS.filter(lambda kind: kind != Kind.ARRAY)
    return Header(draw(kinds), place, buffers, draw(SEQS), body, length, *where, *hold)


@given(headers(), st.integers(0, 3))
def test_a_header_comes_back_as_it_was_packed(header, slot):
    memory = bytearray(b"\xff" * 5 * HEADER_SIZE)
    at = slot * HEADER_SIZE
    pack_header(memoryview(memory), at, header)
    assert unpack_header(memoryview(memory), at, header.seq, CAPACITY, BLOCKS, HOLDS) == header


@given(headers())
def test_a_header_stays_within_its_bytes(header):
    memory = bytearray(b"\xff" * 3 * HEADER_SIZE)
    pack_header(memoryview(memory), HEADER_SIZE, header)
    pack_bare(memoryview(memory), HEADER_SIZE, header.kind, header.seq, 0)
    assert memory[:HEADER_SIZE] == b"\xff" * HEADER_SIZE
    assert memory[2 * HEADER_SIZE :] == b"\xff" * HEADER_SIZE


@given(
    st.one_of(st.tuples(BARE_KINDS, st.integers(0, CAPACITY)), st.tuples(st.sampled_from(NUMBERS), st.just(8))),
    SEQS,
)
def test_a_bare_header_comes_back_as_it_was_packed(kind_and_body, seq):
    kind, body = kind_and_body
    memory = memoryview(bytearray(SLOT))
    pack_bare(memory, 0, kind, seq, body)
    assert unpack_bare(memory, 0, seq, CAPACITY) == (kind, body, 0)


@given(st.sampled_from(NUMBERS), SEQS, st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_bare_frame_of_eight_bytes_is_packed_with_its_body(kind, seq, number):
    memory = memoryview(bytearray(b"\xff" * 3 * SLOT))
    body = number.to_bytes(8, sys.byteorder, signed=True)
    pack_eight(memory, SLOT, kind, seq, body)
    assert unpack_bare(memory, SLOT, seq, CAPACITY) == (kind, 8, number)
    apart = memoryview(bytearray(b"\xff" * 3 * SLOT))
    pack_bare(apart, SLOT, kind, seq, 8)
    apart[SLOT + HEADER_SIZE : SLOT + HEADER_SIZE + 8] = body
    bare = struct.calcsize("=IBBHQQ")  # the rest of the header is nobody's
    for begin, end in ((0, SLOT + bare), (SLOT + HEADER_SIZE, 3 * SLOT)):
        assert memory[begin:end] == apart[begin:end]


@given(headers())
def test_a_full_header_is_not_taken_for_a_bare_one(header):
    memory = memoryview(bytearray(SLOT))
    pack_header(memory, 0, header)
    assert unpack_bare(memory, 0, header.seq, CAPACITY) is None


GOOD_INLINE = Header(0, INLINE, 2, 7, 40, 200, 0, 0, 0)
GOOD_BLOCK = Header(0, BLOCK, 2, 7, 40, 5000, 3, 65536, 9)
GOOD_REFS = Header(int(Kind.REFS), INLINE, 0, 7, 40, 40, 0, 0, 0, HOLDS - 1, 5)
GOOD_ARRAY = Header(int(Kind.ARRAY), INLINE, 1, 7, 40, 200, 0, 0, 0)


@pytest.mark.parametrize(
    ("good", "changes"),
    [
        (GOOD_INLINE, {"kind": len(Kind)}),
        (GOOD_INLINE, {"kind": 255}),
        (GOOD_INLINE, {"place": 3}),
        (GOOD_INLINE, {"seq": 6}),
        (GOOD_INLINE, {"seq": 8}),
        (GOOD_INLINE, {"length": CAPACITY + 1}),
        (GOOD_INLINE, {"length": U64}),
        (GOOD_INLINE, {"body": 200 - 16 + 1}),
        (GOOD_INLINE, {"body": U64}),
        (GOOD_INLINE, {"buffers": 21}),
        (GOOD_BLOCK, {"block": BLOCKS}),
        (GOOD_BLOCK, {"block": 2**32 - 1}),
        (GOOD_BLOCK, {"generation": 0}),
        (GOOD_BLOCK, {"length": U64, "buffers": MAX_BUFFERS + 1}),
        (GOOD_BLOCK, {"body": 5001}),
        (GOOD_REFS, {"hold": HOLDS}),
        (GOOD_ARRAY, {"buffers": 0}),
        (GOOD_ARRAY, {"buffers": 2}),
    ],
    ids=lambda value: (
        ("inline" if value.place == INLINE else "block")
        if isinstance(value, Header)
        else "-".join(f"{name}={number}" for name, number in value.items())
    ),
)
def test_a_header_that_breaks_a_rule_is_refused(good, changes):
    memory = memoryview(bytearray(SLOT))
    pack_header(memory, 0, good)
    assert unpack_header(memory, 0, 7, CAPACITY, BLOCKS, HOLDS) == good
    pack_header(memory, 0, good._replace(**changes))
    with pytest.raises(FrameError):
        unpack_header(memory, 0, 7, CAPACITY, BLOCKS, HOLDS)


def test_a_bare_frame_that_breaks_a_rule_is_refused():
    memory = memoryview(bytearray(SLOT))
    for kind, seq, body in [
        (len(Kind), 7, 8),
        (int(Kind.INT), 6, 8),
        (int(Kind.STR), 7, CAPACITY + 1),
        (int(Kind.REFS), 7, 8),
        (int(Kind.ARRAY), 7, 8),
    ]:
        pack_bare(memory, 0, kind, seq, body)
        assert unpack_bare(memory, 0, 7, CAPACITY) is None
        with pytest.raises(FrameError):
            unpack_header(memory, 0, 7, CAPACITY, BLOCKS, HOLDS)


def test_memory_that_was_never_written_is_no_frame():
    memory = memoryview(bytearray(SLOT))
    assert unpack_bare(memory, 0, 0, CAPACITY) is None
    with pytest.raises(FrameError, match="no frame here"):
        unpack_header(memory, 0, 0, CAPACITY, BLOCKS, HOLDS)


def test_the_refusal_says_which_execution_was_next():
    memory = memoryview(bytearray(SLOT))
    pack_header(memory, 0, GOOD_INLINE)
    with pytest.raises(FrameError, match="execution 7 where 8 is next"):
        unpack_header(memory, 0, 8, CAPACITY, BLOCKS, HOLDS)


@settings(max_examples=300)
@given(
    st.sampled_from([GOOD_INLINE, GOOD_BLOCK, GOOD_REFS, GOOD_ARRAY, None]),
    st.lists(st.tuples(st.integers(0, HEADER_SIZE - 1), st.integers(0, 255)), max_size=12),
    st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE),
)
def test_whatever_bytes_lie_there_a_header_either_fits_its_memory_or_is_refused(good, changes, noise):
    memory = bytearray(noise) + bytearray(8)
    if good is not None:
        pack_header(memoryview(memory), 0, good)
    for at, value in changes:
        memory[at] = value
    bare = unpack_bare(memoryview(memory), 0, 7, CAPACITY)
    if bare is not None:
        kind, body, _ = bare
        assert kind in set(Kind)
        assert body <= CAPACITY
        return
    try:
        header = unpack_header(memoryview(memory), 0, 7, CAPACITY, BLOCKS, HOLDS)
    except FrameError:
        return
    assert header.seq == 7
    assert header.kind in set(Kind)
    assert header.place in (INLINE, BLOCK)
    assert header.place != BARE
    assert 8 * header.buffers + header.body <= header.length
    assert header.buffers <= MAX_BUFFERS
    assert header.hold < HOLDS or header.kind != Kind.REFS
    if header.place == INLINE:
        assert header.length <= CAPACITY
    else:
        assert header.block < BLOCKS
        assert header.generation > 0


@given(st.integers(0, 2**62))
def test_align_gives_the_first_aligned_byte(position):
    aligned = align(position)
    assert aligned % ALIGNMENT == 0
    assert 0 <= aligned - position < ALIGNMENT


@given(st.integers(0, 10_000), st.lists(st.integers(0, 10_000), max_size=20))
def test_a_layout_is_in_order_aligned_and_without_overlap(body, sizes):
    starts, length = layout(body, sizes)
    end = 8 * len(sizes) + body
    for start, size in zip(starts, sizes, strict=True):
        assert start >= end
        assert start % ALIGNMENT == 0
        end = start + size
    assert length == end


@given(st.binary(max_size=300), st.lists(st.binary(max_size=300), max_size=10), st.integers(0, 100))
def test_split_gives_back_what_was_laid_out(body, buffers, slack):
    payload = lay_out(body, buffers) + b"\xee" * slack
    got, views = split(memoryview(payload), len(body), len(buffers))
    assert bytes(got) == body
    assert [bytes(view) for view in views] == buffers


@given(
    st.binary(max_size=100),
    st.lists(st.binary(max_size=100), min_size=1, max_size=5),
    st.lists(st.one_of(st.integers(0, 200), st.integers(0, U64)), min_size=1, max_size=5),
)
def test_lengths_that_do_not_fit_their_payload_are_refused(body, buffers, lengths):
    payload = bytearray(lay_out(body, buffers))
    lengths = (lengths * len(buffers))[: len(buffers)]
    struct.pack_into(f"={len(lengths)}Q", payload, 0, *lengths)
    _, needed = layout(len(body), lengths)
    if needed > len(payload):
        with pytest.raises(FrameError, match="do not fit"):
            split(memoryview(payload), len(body), len(lengths))
    else:
        got, views = split(memoryview(payload), len(body), len(lengths))
        assert bytes(got) == body
        assert [len(view) for view in views] == lengths


def lay_out(body: bytes, buffers: list[bytes]) -> bytes:
    """A payload, as a writer would write it."""
    starts, length = layout(len(body), [len(buffer) for buffer in buffers])
    payload = bytearray(length)
    struct.pack_into(f"={len(buffers)}Q", payload, 0, *map(len, buffers))
    payload[8 * len(buffers) : 8 * len(buffers) + len(body)] = body
    for start, buffer in zip(starts, buffers, strict=True):
        payload[start : start + len(buffer)] = buffer
    return bytes(payload)
