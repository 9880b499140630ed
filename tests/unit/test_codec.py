"""The codec: every value comes back, big buffers are not copied, and a failure spoils nothing."""

from __future__ import annotations

import math
import pickle
import struct
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import cloudpickle

from async_adag.channels import codec
from async_adag.channels.codec import Encoder, dumps
from async_adag.channels.ring import DECODERS
from async_adag.protocol.frame import FrameError, Kind


def round_trip(value, encoder=None):
    """The value as its reader gets it: from memory that is not the writer's."""
    kind, body, buffers = (encoder or Encoder()).encode(value)
    copies = [memoryview(bytes(buffer)) for buffer in buffers]
    return DECODERS[kind](memoryview(bytes(body)), copies)


def same(one, other):
    """Equality that tells 1 from 1.0 and True, and knows NaN and arrays."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(a, b) for a, b in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


arrays = st.builds(
    lambda dtype, shape, fill: np.full(shape, fill).astype(dtype),
    st.sampled_from(["u1", "i4", "f8", "?", "c16", "S3", "M8[s]"]),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 100),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.text(),
    st.text(st.characters(categories=["Cs", "Ll"])),
    st.binary(),
    st.binary().map(bytearray),
    st.complex_numbers(allow_nan=False),
    arrays,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        st.dictionaries(st.integers(), inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(values)
def test_every_value_comes_back(value):
    assert same(round_trip(value), value)


@settings(max_examples=50)
@given(st.lists(values, max_size=6))
def test_one_encoder_serves_one_value_after_the_other(sequence):
    encoder = Encoder()
    for value in sequence:
        assert same(round_trip(value, encoder), value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, Kind.NONE),
        (0, Kind.INT),
        (2**63 - 1, Kind.INT),
        (-(2**63), Kind.INT),
        (2**63, Kind.PICKLE),
        (-(2**63) - 1, Kind.PICKLE),
        (True, Kind.PICKLE),
        (0.5, Kind.FLOAT),
        (-0.0, Kind.FLOAT),
        (b"", Kind.BYTES),
        (b"\x00\xff", Kind.BYTES),
        ("", Kind.STR),
        ("né漢🎉\x00", Kind.STR),
        ("\ud800", Kind.PICKLE),
        ([], Kind.PICKLE),
        (np.float64(0.5), Kind.PICKLE),
    ],
    ids=repr,
)
def test_plain_values_have_a_form_of_their_own_and_others_are_pickled(value, kind):
    assert Encoder().encode(value)[0] == kind
    arrived = round_trip(value)
    assert same(arrived, value)
    assert str(arrived) == str(value)


class Count(int):
    """A number with a name."""


class Name(str):
    """A text with a name."""


@pytest.mark.parametrize("value", [Count(3), Name("x"), datetime(2024, 1, 2, tzinfo=UTC), 3 + 4j, range(5), ...])
def test_a_subclass_or_a_library_type_stays_what_it_is(value):
    arrived = round_trip(value)
    assert type(arrived) is type(value)
    assert arrived == value


def test_a_big_buffer_is_handed_on_where_it_lies():
    array = np.arange(100_000)
    _, body, (buffer,) = Encoder().encode({"x": array})
    assert len(body) < 1000
    assert np.shares_memory(np.frombuffer(buffer, array.dtype), array)


def test_equal_arrays_stay_one_array():
    array = np.arange(10)
    first, second = round_trip([array, array])
    assert first is second


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.zeros((0, 3)),
        np.array(5),
        np.arange(12).reshape(3, 4).T,
        np.arange(12)[::3],
        np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
        np.array([None, "x", 3], dtype=object),
        np.arange(3, dtype=">i4"),
        np.array([1, 2], dtype="M8[s]"),
        np.arange(3, dtype=np.longdouble),
        np.arange(3, dtype=np.float16),
        np.array([1j, 2]),
        np.array([True, False]),
        np.arange(2**5).reshape((2,) * 5),
        np.arange(3, dtype=np.dtype("f8", metadata={"unit": "m"})),
    ],
    ids=lambda array: f"{array.shape}{array.dtype.str}",
)
def test_arrays_of_every_layout_come_back(array):
    arrived = round_trip(array)
    assert arrived.dtype == array.dtype
    assert arrived.shape == array.shape
    np.testing.assert_array_equal(arrived, array)


def test_a_buffer_is_read_only():
    (pickled,) = round_trip([np.zeros(3)])
    for arrived in (round_trip(np.zeros(3)), pickled):
        with pytest.raises(ValueError, match="read-only"):
            arrived[0] = 1


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.zeros(3), Kind.ARRAY),
        (np.zeros((3, 4), dtype="i2")[1:], Kind.ARRAY),
        (np.zeros(0), Kind.PICKLE),
        (np.zeros((3, 4)).T, Kind.PICKLE),
        (np.zeros(3, dtype=">i4"), Kind.PICKLE),
        (np.zeros(3, dtype=object), Kind.PICKLE),
        (np.zeros(3, dtype="M8[s]"), Kind.PICKLE),
        (np.zeros(3, dtype=np.dtype("f8", metadata={"unit": "m"})), Kind.PICKLE),
        (np.zeros(3).view(np.recarray), Kind.PICKLE),
        (np.ma.zeros(3), Kind.PICKLE),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else f"{type(value).__name__}{value.dtype}",
)
def test_plain_arrays_have_a_form_of_their_own(array, kind):
    for _ in range(2):  # the second time from what is remembered
        encoded, _, buffers = Encoder().encode(array)
        assert encoded == kind
        assert type(round_trip(array)) is type(array)
        if kind is Kind.ARRAY:
            assert np.shares_memory(np.frombuffer(buffers[0], array.dtype), array)


def test_layouts_that_are_not_remembered_any_more_are_made_again():
    encoder = Encoder()
    for _ in range(2):
        for size in range(1, 600):
            array = np.full(size, size)
            assert same(round_trip(array, encoder), array)


@pytest.mark.parametrize(
    ("body", "buffers"),
    [
        (b"", [bytes(8)]),
        (b"short", [bytes(8)]),
        (struct.pack("=2Q", 1, 1) + b"<f8", []),
        (struct.pack("=2Q", 1, 1) + b"<f8", [bytes(8), bytes(8)]),
        (struct.pack("=2Q", 1, 2) + b"<f8", [bytes(8)]),
        (struct.pack("=2Q", 1, 2**62) + b"<f8", [bytes(8)]),
        (struct.pack("=2Q", 1, 2**64 - 1) + b"<f8", [bytes(8)]),
        (struct.pack("=2Q", 1, 1) + b"|O", [bytes(8)]),
        (struct.pack("=2Q", 1, 1) + b"", [bytes(8)]),
        (struct.pack("=2Q", 2**40, 1) + b"<f8", [bytes(8)]),
        (struct.pack("=41Q", 40, *[1] * 40) + b"<f8", []),
    ],
)
def test_what_is_no_array_is_refused(body, buffers):
    with pytest.raises(FrameError):
        DECODERS[Kind.ARRAY](memoryview(body), [memoryview(buffer) for buffer in buffers])


def test_what_cannot_be_imported_is_sent_by_value():
    @dataclass
    class Local:
        x: int

        def double(self):
            return 2 * self.x

    offset = 5
    function, instance = round_trip((lambda y: y + offset, Local(3)))
    assert function(2) == 7
    assert instance.double() == 6


MAIN = """
from async_adag.channels.codec import Encoder

class Point:
    def __init__(self, x):
        self.x = x
    def scaled(self, by=lambda x: 2 * x):
        return by(self.x)

def triple(x):
    return 3 * x

kind, body, buffers = Encoder().encode((Point(4), triple))
print(kind, body.hex(), len(buffers))
"""


def test_classes_and_functions_of_main_travel_to_a_process_without_them():
    done = subprocess.run([sys.executable, "-c", MAIN], capture_output=True, text=True, check=True)
    kind, body, buffers = done.stdout.split()
    assert buffers == "0"
    point, triple = DECODERS[int(kind)](memoryview(bytes.fromhex(body)), [])
    assert point.scaled() == 8
    assert triple(5) == 15


UNPICKLABLE = [threading.Lock(), sys._getframe(), (x for x in "x"), [1, {"deep": threading.Lock()}]]


@pytest.mark.parametrize("value", UNPICKLABLE, ids=lambda value: type(value).__name__)
def test_what_cannot_be_pickled_raises_and_spoils_nothing(value):
    encoder = Encoder()
    for _ in range(3):
        with pytest.raises((TypeError, pickle.PicklingError)):
            encoder.encode(value)
        assert same(round_trip({"x": np.arange(3)}, encoder), {"x": np.arange(3)})
        assert round_trip(7, encoder) == 7


def test_buffers_seen_before_the_failure_are_forgotten():
    encoder = Encoder()
    with pytest.raises(TypeError):
        encoder.encode([np.arange(5), threading.Lock()])
    _, _, buffers = encoder.encode([np.arange(3)])
    assert [buffer.nbytes for buffer in buffers] == [24]


def test_a_value_nested_too_deep_raises_and_spoils_nothing():
    encoder = Encoder()
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises((RecursionError, pickle.PicklingError)):
        encoder.encode(deep)
    assert round_trip([1, 2], encoder) == [1, 2]
    while deep:
        deep = deep.pop()  # else its deallocation is as deep


class Reentrant:
    """Its pickling encodes something else with the same encoder, as a reducer that writes to a channel would."""

    encoder: Encoder

    def __reduce__(self):
        inner = self.encoder.encode([np.arange(4), "inner"])
        assert [buffer.nbytes for buffer in inner[2]] == [32]
        return (str, (DECODERS[inner[0]](memoryview(inner[1]), inner[2])[1],))


def test_an_encoder_may_be_entered_again_while_it_pickles():
    Reentrant.encoder = Encoder()
    value = [np.arange(2), Reentrant(), np.arange(3)]
    arrived = round_trip(value, Reentrant.encoder)
    assert arrived[1] == "inner"
    assert [list(arrived[0]), list(arrived[2])] == [[0, 1], [0, 1, 2]]


def test_an_encoder_keeps_nothing_of_what_it_encoded():
    class Witness:
        gone = False

        def __init__(self):
            self.data = np.arange(10)

        def __del__(self):
            Witness.gone = True

    encoder = Encoder()
    witness = Witness()
    encoder.encode(witness)
    del witness
    assert Witness.gone


class Registered:
    """Cannot be pickled by itself."""

    def __init__(self):
        self.lock = threading.Lock()


def test_reducers_that_were_registered_for_ray_are_honoured():
    cloudpickle.CloudPickler.dispatch[Registered] = lambda value: (str, ("by its reducer",))
    try:
        assert round_trip([Registered()]) == ["by its reducer"]
    finally:
        del cloudpickle.CloudPickler.dispatch[Registered]


def test_a_reducer_that_was_registered_for_arrays_is_honoured():
    cloudpickle.CloudPickler.dispatch[np.ndarray] = lambda value: (str, ("by its reducer",))
    try:
        assert round_trip(np.zeros(3)) == "by its reducer"
    finally:
        del cloudpickle.CloudPickler.dispatch[np.ndarray]


def test_dumps_is_one_piece_with_its_buffers_inside():
    array = np.arange(1000)
    assert same(pickle.loads(dumps({"x": array})), {"x": array})


@pytest.mark.parametrize("kind", [Kind.INT, Kind.FLOAT])
def test_numbers_are_eight_bytes(kind):
    value = {Kind.INT: -5, Kind.FLOAT: -5.5}[kind]
    got, body, _ = Encoder().encode(value)
    assert got == kind
    assert body == struct.pack("=q" if kind == Kind.INT else "=d", value)


@pytest.mark.parametrize("name", ["int64", "uint64", "int32", "float64", "bool_", "complex64"])
def test_elements_are_of_the_type_that_has_the_name(name):
    """Two of numpy's types are integers of 64 bits; users compare with the one that is named."""
    kind = getattr(np, name)
    decoded = round_trip(np.ones(3, dtype=kind))
    assert decoded.dtype.type is kind
    assert isinstance(decoded[0], kind)


def test_more_buffers_than_a_message_carries_are_refused_and_spoil_nothing(monkeypatch):
    monkeypatch.setattr(codec, "MAX_BUFFERS", 3)
    encoder = Encoder()
    value = [np.arange(number) for number in range(3)]
    assert same(round_trip(value, encoder), value)
    with pytest.raises(
        ValueError, match="4 arrays and other buffers are in one value, and a message carries 3 at"
    ):
        encoder.encode([*value, np.arange(4)])
    assert same(round_trip(value, encoder), value)


LAYOUTS = {
    "plain": np.arange(6),
    "in rows": np.arange(24).reshape(2, 3, 4),
    "in columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every second": np.arange(10)[::2],
    "backwards": np.arange(10)[::-1],
    "turned": np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    "spread": np.broadcast_to(np.arange(3), (4, 3)),
    "one number": np.array(5.0),
    "none": np.zeros((0, 3)),
    "of no bytes": np.zeros(3, "V0"),
    "in another byte order": np.arange(3, dtype=np.dtype("f8").newbyteorder()),
    "words": np.array(["a", "bb"]),
    "records": np.zeros(3, [("x", "i4"), ("y", "f8")]),
    "dates": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "dates in columns": np.array([["2020", "2021"], ["2022", "2023"]], "M8[Y]", order="F"),
    "every second date": np.arange(10).astype("m8[s]")[::2],
    "one date": np.array("2020-01-01", "M8[ns]"),
    "no dates": np.zeros(0, "M8[s]"),
    "dates in records": np.array([("2020", 1)], [("t", "M8[s]"), ("n", "i4")]),
    "objects": np.array([1, None, "three"], object),
    "one object": np.array(None, object),
    "objects in records": np.array([(1, "x")], [("n", "i4"), ("o", object)]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", ["bare", "inside"])
def test_arrays_of_every_layout_arrive_right_and_cannot_be_written(layout, place):
    array = LAYOUTS[layout]
    for encoder in [Encoder()] * 2:
        got = round_trip(array if place == "bare" else {"array": [array]}, encoder)
        if place == "inside":
            ((got,),) = got.values()
        assert type(got) is np.ndarray
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert got.tolist() == array.tolist()
        assert not got.flags.writeable or layout == "of no bytes"


@pytest.mark.parametrize("layout", ["every second", "turned", "dates", "every second date", "dates in records"])
def test_elements_travel_out_of_band_whatever_their_layout(layout):
    array = np.concatenate([LAYOUTS[layout]] * 1000)
    _, body, buffers = Encoder().encode([array])
    assert [len(buffer) for buffer in buffers] == [array.nbytes]
    assert len(body) < 500


def test_arrays_in_columns_stay_so():
    for layout in ("in columns", "dates in columns"):
        assert round_trip(LAYOUTS[layout]).flags.fnc


def test_an_array_of_objects_may_hold_itself():
    array = np.empty(2, object)
    array[:] = [array, 3]
    got = round_trip(array)
    assert got[0] is got
    assert got[1] == 3


def test_an_array_that_is_held_twice_stays_one():
    array = np.arange(10)[::2]
    one, other = round_trip([array, array])
    assert one is other


def test_arrays_of_a_class_of_its_own_are_pickled_by_it():
    masked = np.ma.array([1, 2], mask=[False, True])
    got = round_trip(masked)
    assert type(got) is np.ma.MaskedArray
    assert got.tolist() == [1, None]


def test_whoever_registered_a_way_for_arrays_has_it():
    code = """
import numpy as np, ray.util
from async_adag.channels.codec import Encoder, DECODERS
ray.util.register_serializer(np.ndarray, serializer=lambda array: array.tolist(), deserializer=tuple)
for array in (np.arange(3), np.arange(6)[::2]):
    kind, body, buffers = Encoder().encode([array])
    assert not buffers
    assert DECODERS[kind](memoryview(bytes(body)), []) == [tuple(array.tolist())]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
