"""Payloads of any size through the ring, inline and in blocks."""

from __future__ import annotations

import threading
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.channels.blocks import SMALLEST
from async_adag.channels.ring import INLINE_CAPACITY, LEASE_FROM

EDGES = sorted(
    {0, 1, 7, 8, 9}
    | {edge + more for edge in (INLINE_CAPACITY, LEASE_FROM, SMALLEST, 2 * SMALLEST) for more in (-1, 0, 1)}
)


@pytest.fixture(params=[1, 3], ids=["one-reader", "three-readers"])
def ring(request, make_ring):
    return make_ring(request.param)


@pytest.mark.parametrize("size", EDGES)
def test_bytes_of_every_size(ring, size):
    payload = np.random.default_rng(size).bytes(size)
    for _ in range(2):
        ring.send(payload)
        assert ring.read_all() == [payload] * len(ring.readers)


@pytest.mark.parametrize("size", EDGES)
def test_text_of_every_size(ring, size):
    text = ("é漢x" * size)[:size]
    ring.send(text)
    assert ring.read_all() == [text] * len(ring.readers)


@pytest.mark.parametrize("size", EDGES)
def test_arrays_of_every_size(ring, size):
    array = np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)
    for value in (array, {"one": array, "two": [array[: size // 2].copy()]}):
        ring.send(value)
        for arrived in ring.read_all():
            np.testing.assert_equal(arrived, value)


@pytest.mark.parametrize("around", range(-70, 71, 7))
def test_arrays_whose_pickle_is_about_as_big_as_a_slot(ring, around):
    # The pickle itself takes some of the slot: sizes on both sides of where it no longer fits.
    for size in range(INLINE_CAPACITY - 260 + around, INLINE_CAPACITY - 260 + around + 7):
        array = np.full(size, 7, dtype=np.uint8)
        ring.send(array)
        for arrived in ring.read_all():
            np.testing.assert_array_equal(arrived, array)


def test_many_megabytes(ring):
    array = np.arange(4_000_000)
    for _ in range(2):
        ring.send(array)
        for arrived in ring.read_all():
            assert np.array_equal(arrived, array)


def test_many_buffers(ring):
    arrays = [np.full(number % 50, number) for number in range(2000)]
    ring.send(arrays)
    for arrived in ring.read_all():
        for one, other in zip(arrived, arrays, strict=True):
            np.testing.assert_array_equal(one, other)


def test_sizes_that_grow_and_shrink(ring):
    sizes = [3 * 2**power for power in range(19)]
    for size in sizes + sizes[::-1]:
        array = np.full(size, size, dtype=np.uint32)
        ring.send(array)
        ring.send(size)
        for arrived in ring.read_all():
            np.testing.assert_array_equal(arrived, array)
        assert ring.read_all() == [size] * len(ring.readers)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 200_000),
            st.sampled_from(["bytes", "str", "array", "list"]),
            st.integers(0, 255),
        ),
        max_size=20,
    )
)
def test_any_sequence_of_sizes(open_channel, sequence):
    def value(size, form, fill):
        payload = bytes([fill]) * size
        if form == "array":
            return np.frombuffer(payload, np.uint8)
        if form == "list":
            return [payload[: size // 2], np.frombuffer(payload, np.uint8), fill]
        return payload.decode("latin-1") if form == "str" else payload

    channel = open_channel()
    try:
        held = []
        for item in sequence:
            channel.send(value(*item))
            held += [(item, arrived) for arrived in channel.read_all()]
        for item, arrived in held:
            np.testing.assert_equal(arrived, value(*item))
    finally:
        channel.close()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4)),
        np.array(3.5),
        np.arange(24_000).reshape(40, 600).T,
        np.arange(24_000).reshape(40, 600)[::2, ::3],
        np.zeros(5000, dtype=[("a", "i1"), ("b", "f8")]),
        np.arange(10_000, dtype=">u4"),
    ],
    ids=lambda array: f"{array.shape}{array.dtype.str}",
)
def test_arrays_of_every_layout(ring, array):
    ring.send(array)
    for arrived in ring.read_all():
        assert arrived.dtype == array.dtype
        np.testing.assert_array_equal(arrived, array)


@pytest.mark.parametrize("size", [10, INLINE_CAPACITY, LEASE_FROM - 1000, LEASE_FROM, 10 * SMALLEST])
def test_buffers_are_aligned_for_any_type_of_element(ring, size):
    ring.send(["odd", np.zeros(size, np.uint8), np.zeros(size // 16 + 1, np.complex128)])
    for arrived in ring.read_all():
        assert arrived[2].flags.aligned


@pytest.mark.parametrize("size", [1, 100, 10_000, LEASE_FROM, 10 * SMALLEST])
def test_arrays_are_read_only(ring, size):
    ring.send(np.zeros(size))
    for arrived in ring.read_all():
        assert not arrived.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            arrived[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            arrived.flags.writeable = True


@pytest.mark.parametrize("size", [1, 100, 10_000, LEASE_FROM, 10 * SMALLEST])
def test_the_writer_may_change_its_array_when_it_has_been_staged(ring, size):
    array = np.zeros(size)
    ring.writer.stage(ring.writer.encode(array))
    array[:] = 1
    ring.writer.publish()
    for arrived in ring.read_all():
        assert not arrived.any()


UNPICKLABLE = [threading.Lock(), [np.zeros(100_000), threading.Lock()]]


@pytest.mark.parametrize("value", UNPICKLABLE, ids=["alone", "behind-an-array"])
def test_a_value_that_cannot_be_pickled_leaves_the_channel_as_it_was(ring, rung, value):
    for reader in ring.readers:
        reader.arm()
    ring.send("before")
    written, backed = ring.writer.bytes, ring.writer.backed_bytes()
    with pytest.raises(TypeError):
        ring.writer.encode(value)
    assert (ring.writer.bytes, ring.writer.backed_bytes()) == (written, backed)
    ring.send("after")
    assert ring.read_all() == ["before"] * len(ring.readers)
    assert ring.read_all() == ["after"] * len(ring.readers)
    assert not any(reader.may_read() for reader in ring.readers)


class Explosive:
    """Pickles, and raises where it is unpickled."""

    def __init__(self, weight):
        self.payload = np.zeros(weight)

    def __reduce__(self):
        return (int, ("not a number", 10, self.payload))


class Bomb:
    """As `Explosive`, with nothing to carry."""

    def __reduce__(self):
        return (int, ("not a number",))


@pytest.mark.parametrize(
    "value",
    [Bomb(), Explosive(10), Explosive(2000), Explosive(100_000)],
    ids=["bare", "inline", "copied", "leased"],
)
def test_a_value_that_cannot_be_unpickled_consumes_its_frame_and_no_more(ring, value):
    for number in range(3):
        ring.send(value)
        ring.send(number)
        for reader in ring.readers:
            with pytest.raises((ValueError, TypeError)):
                reader.read()
        assert ring.read_all() == [number] * len(ring.readers)
    assert all(reader.leased() == 0 for reader in ring.readers)


def test_bytes_are_counted_on_both_sides(ring):
    for size in (0, 10, INLINE_CAPACITY, 100_000):
        before = [end.bytes for end in (ring.writer, *ring.readers)]
        ring.send(b"x" * size)
        ring.read_all()
        after = [end.bytes for end in (ring.writer, *ring.readers)]
        assert [now - then for now, then in zip(after, before, strict=True)] == [size] * len(after)


@pytest.mark.parametrize("size", [10, 100_000])
def test_what_was_taken_back_does_not_count_as_written(ring, size):
    ring.writer.stage(ring.writer.encode(b"x" * size))
    ring.writer.unstage()
    assert ring.writer.bytes == 0


@pytest.fixture
def spread_ring(monkeypatch, make_ring):
    """A ring whose ends find themselves on another CPU whenever they ask."""
    monkeypatch.setattr("async_adag.channels.ring.current_cpu", count().__next__)
    return make_ring(3)


def test_a_reader_that_was_called_up_too_early_is_rung_again(spread_ring, rung):
    reader, bell = spread_ring.readers[-1], spread_ring.bells[-1]
    spread_ring.writer.call_up()
    assert not rung(bell), "it did not sleep"
    assert not reader.arm()
    spread_ring.writer.call_up()
    assert rung(bell)
    assert not reader.arm(), "nothing was there, and nothing is"
    spread_ring.send(1)
    assert rung(bell)
    assert reader.read() == 1


def test_a_reader_on_the_cpu_of_its_writer_is_rung_with_the_frame_only(monkeypatch, make_ring, rung):
    monkeypatch.setattr("async_adag.channels.ring.current_cpu", lambda: 5)
    ring = make_ring()
    assert not ring.reader.arm()
    ring.writer.call_up()
    assert not rung(ring.bells[0])
    ring.send(1)
    assert rung(ring.bells[0])
