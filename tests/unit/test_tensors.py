"""Taking tensors out of values, and putting them back: numpy's here, torch's in integration/test_torch.py."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from async_adag.channels.codec import STOP, Failure
from async_adag.channels.tensors import Parcel, put_back, take_out


def carried(value):
    """``value`` after a way on which its tensors were carried apart; and those."""
    parcel, tensors = take_out(value)
    buffers = []
    body = pickle.dumps(parcel, 5, buffer_callback=buffers.append)
    arrived = pickle.loads(body, buffers=[buffer.raw() for buffer in buffers])
    received = [header.allocate(header.shape, header.type_here()) for header in arrived.headers]
    for there, here in zip(received, tensors, strict=True):
        assert here.flags.c_contiguous
        there[...] = here
    return arrived.unpack(received), tensors


shapes = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
numbers = arrays_of.arrays(
    st.one_of(
        arrays_of.boolean_dtypes(),
        arrays_of.integer_dtypes(),
        arrays_of.floating_dtypes(),
        arrays_of.complex_number_dtypes(),
    ),
    shapes,
)
others = st.one_of(
    st.integers(), st.text(), arrays_of.arrays(arrays_of.unicode_string_dtypes(max_len=3), shapes), st.none()
)
payloads = st.recursive(
    st.one_of(numbers, numbers.map(np.transpose), numbers.map(lambda a: a[..., ::-1] if a.ndim else a), others),
    lambda parts: st.one_of(st.lists(parts), st.dictionaries(st.text(), parts), st.tuples(parts, parts)),
    max_leaves=8,
)


def same(one, other):
    if isinstance(one, np.ndarray):
        assert (type(other), other.dtype, other.shape) == (type(one), one.dtype, one.shape)
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same(value, other[key])
    elif isinstance(one, list | tuple):
        assert type(one) is type(other)
        for first, second in zip(one, other, strict=True):
            same(first, second)
    else:
        assert (type(one), one) == (type(other), other)


@given(payloads.filter(lambda payload: not isinstance(payload, int | str | None)))
def test_any_payload_comes_back(payload):
    back, _ = carried(payload)
    same(payload, back)


def test_what_occurs_twice_is_carried_once_and_is_one_again():
    array = np.arange(4)
    back, tensors = carried({"a": array, "b": [array, array.reshape(2, 2)]})
    assert len(tensors) == 2
    assert back["a"] is back["b"][0]


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "text", b"bytes", STOP, Failure(b"")], ids=repr)
def test_what_holds_no_tensor_is_left_as_it_is(value):
    assert take_out(value) == (value, [])


class Derived(np.ndarray):
    pass


@pytest.mark.parametrize(
    "array",
    [
        np.array([None, 1]),
        np.zeros(2, [("a", "i4")]),
        np.array(["a"]),
        np.array(["2020"], "M8[D]"),
        np.ma.masked_array([1, 2], [True, False]),
        np.arange(3).view(Derived),
        np.float64(3),
    ],
    ids=lambda array: f"{type(array).__name__} of {array.dtype}",
)
def test_other_arrays_stay_in_the_frame(array):
    back, tensors = carried([array])
    assert tensors == []
    assert type(back[0]) is type(array)
    np.testing.assert_array_equal(back[0], array)


def test_large_buffers_that_stay_are_out_of_band():
    parcel, _ = take_out([np.zeros(10_000, [("a", "i4")])])
    assert len(parcel.body) < 1000
    assert [buffer.raw().nbytes for buffer in parcel.buffers] == [40_000]


def test_what_cannot_be_pickled_raises_as_ever():
    with pytest.raises(TypeError, match="pickle"):
        take_out([np.zeros(3), (n for n in range(3))])


def test_a_header_tells_what_is_not_what_it_describes():
    parcel, _ = take_out([np.zeros((2, 3), "f4")])
    (header,) = parcel.headers
    assert header.mismatch(np.ones((2, 3), "f4")) == ""
    assert "list in place of a tensor of numpy" in header.mismatch([1])
    for other in (np.ones((2, 3)), np.ones((3, 2), "f4"), np.ones((2, 3), ">f4")):
        assert "in place of float32 of shape (2, 3)" in header.mismatch(other)


def test_a_body_is_not_read_without_its_tensors():
    parcel, _ = take_out([np.zeros(3)])
    assert isinstance(parcel, Parcel)
    with pytest.raises(pickle.UnpicklingError, match="part 0"):
        pickle.loads(parcel.body)
    with pytest.raises(pickle.UnpicklingError):
        put_back(0)
