"""What goes over an edge's connection: every message is refused unless it is exactly right."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_adag.protocol.frame import MAX_BUFFERS, FrameError, Kind
from async_adag.protocol.wire import (
    CREDIT,
    FRAME,
    HEADER_SIZE,
    PING,
    PING_BYTES,
    RELEASE,
    Message,
    check_credit,
    check_frame,
    pack,
    pack_credit,
    pack_frame,
    pack_release,
    unpack,
    unpack_small,
)

words = st.integers(0, 2**64 - 1)


def parse(data):
    return unpack(memoryview(data), 0)


@st.composite
def frames(draw):
    kind = draw(st.sampled_from([int(kind) for kind in Kind if kind not in (Kind.INT, Kind.FLOAT)]))
    body = draw(st.integers(0, 2**40))
    buffers = draw(st.integers(0, 100))
    length = body if not buffers else body + 8 * buffers + draw(st.integers(0, 2**40))
    return Message(FRAME, kind, draw(st.integers(0, 2**16 - 1)), draw(words), body, length, draw(words), buffers)


@given(frames())
def test_frames_come_as_they_were_sent(frame):
    assert parse(pack(frame)) == frame
    _, kind, hold, seq, body, length, held, buffers = frame
    assert pack_frame(kind, hold, seq, body, length, held, buffers) == pack(frame)


MOST = 900


def small(kind, body, seq):
    """What goes over the wire for a frame that is nothing but a body."""
    return pack_frame(kind, 0, seq, len(body), len(body), 0, 0) + body


@given(st.sampled_from([kind for kind in Kind if kind < Kind.STOP]), st.binary(max_size=MOST + 20), words)
def test_a_small_frame_is_known_at_once(kind, body, seq):
    if kind in (Kind.INT, Kind.FLOAT):
        body = body[:8].ljust(8)
    data = small(kind, body, seq)
    found = unpack_small(memoryview(data), len(data), seq, MOST)
    assert found == ((kind, len(body)) if len(body) <= MOST else None)


@pytest.mark.parametrize("at", range(HEADER_SIZE))
def test_a_small_frame_with_a_byte_spoiled_is_left_to_whoever_says_why(at):
    data = bytearray(small(Kind.BYTES, b"body", 7))
    data[at] ^= 1
    assert unpack_small(memoryview(data), len(data), 7, MOST) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PING_BYTES,
        small(Kind.BYTES, b"body", 7)[:-1],
        small(Kind.BYTES, b"body", 7) + PING_BYTES,
        small(Kind.BYTES, b"body", 8),
        small(Kind.STOP, b"", 7),
        small(Kind.REFS, b"body", 7),
        small(Kind.INT, b"body", 7),
        pack_frame(Kind.PICKLE, 0, 7, 8, 16, 0, 1) + bytes(16),
    ],
)
def test_what_is_no_small_frame_or_not_all_there_is_is_left_too(data):
    padded = memoryview(data.ljust(200))  # what was there before
    assert unpack_small(padded, len(data), 7, MOST) is None


@given(words, st.integers(0, 2**16 - 1))
def test_the_others_do_too(word, hold):
    assert parse(pack_credit(word)) == Message(CREDIT, seq=word)
    assert parse(pack_release(hold, word)) == Message(RELEASE, hold=hold, held=word)
    assert parse(PING_BYTES) == Message(PING)


def test_a_message_may_lie_anywhere():
    data = memoryview(b"x" * 7 + pack_credit(3) + PING_BYTES)
    assert unpack(data, 7).seq == 3
    assert unpack(data, 7 + HEADER_SIZE).what == PING


FRAME_BYTES = pack_frame(int(Kind.PICKLE), 0, 5, 10, 200, 0, 2)


@pytest.mark.parametrize("data", [FRAME_BYTES, PING_BYTES, pack_credit(7), pack_release(3, 9)])
def test_any_bit_that_is_flipped_is_found(data):
    for at in range(HEADER_SIZE):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with pytest.raises(FrameError):
                parse(flipped)


def sealed(data):
    """With a checksum that is right."""
    return bytes(data[:-4]) + struct.pack("<I", crc32(data[:-4]))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Message(0), "unknown message 0"),
        (Message(5), "unknown message 5"),
        (Message(255), "unknown message 255"),
        (Message(FRAME, kind=len(Kind)), "unknown kind"),
        (Message(FRAME, kind=int(Kind.INT), body=7, length=7), "a number of 7 bytes"),
        (Message(FRAME, kind=int(Kind.FLOAT)), "a number of 0 bytes"),
        (Message(FRAME, body=10, length=9), "do not fit"),
        (Message(FRAME, body=10, length=11), "a payload of 11 bytes that is a body of 10"),
        (Message(FRAME, body=10, length=25, buffers=2), "do not fit"),
        (Message(FRAME, length=2**40, buffers=MAX_BUFFERS + 1), "do not fit"),
        (Message(FRAME, body=2**63, length=2**62, buffers=1), "do not fit"),
    ],
)
def test_what_makes_no_sense_is_refused_though_its_checksum_is_right(message, words):
    with pytest.raises(FrameError, match=words):
        parse(pack(message))


def test_another_layout_is_refused():
    with pytest.raises(FrameError, match="magic 0x57474402"):
        parse(sealed(bytes([FRAME_BYTES[0] + 1]) + FRAME_BYTES[1:]))


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_garbage_is_refused(data):
    with pytest.raises(FrameError):
        parse(data)


REFS = int(Kind.REFS)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (Message(FRAME, seq=4), "execution 4 where 5 is next"),
        (Message(FRAME, seq=6), "execution 6 where 5 is next"),
        (Message(FRAME, kind=REFS, seq=5, hold=256), "refs in hold 256 of 256"),
    ],
)
def test_a_frame_out_of_its_turn_is_refused(frame, words):
    with pytest.raises(FrameError, match=words):
        check_frame(frame, 5, 3, 4, 256)


def test_a_frame_needs_a_credit():
    check_frame(Message(FRAME, seq=6), 6, 3, 4, 256)
    with pytest.raises(FrameError, match="execution 7 where 3 frames were taken and 4 may be under way"):
        check_frame(Message(FRAME, seq=7), 7, 3, 4, 256)


def test_a_credit_is_for_frames_that_were_sent_and_never_taken_back():
    for taken in (3, 4, 9):
        check_credit(taken, 3, 9)
    for taken in (2, 10, 2**64 - 1):
        with pytest.raises(FrameError, match=f"a credit for {taken} frames"):
            check_credit(taken, 3, 9)
