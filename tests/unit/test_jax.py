"""Arrays of jax at the borders, by jax's own DLPack; in the CPU's memory, which plays that of a GPU here.

Runs where jax is installed, which this package does not ask for. Its streams are in `test_gpu_movers`.
"""

from __future__ import annotations

import ctypes
import gc
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.channels import tensors
from async_adag.channels.host_tensors import OnHost
from async_adag.channels.tensors import Parcel, headers_of, is_tensor, take_out
from async_adag.collectives import contributions
from async_adag.collectives.arithmetic import allgather, allreduce, reducescatter
from async_adag.collectives.over_nccl import OverNccl
from async_adag.collectives.part import part
from async_adag.gpu import crossing, jax_arrays
from async_adag.gpu.arrays import library_of
from async_adag.gpu.crossing import CudaCrossing
from async_adag.gpu.interface import Span
from async_adag.gpu.jax_arrays import expose, is_jax, is_on_gpu, may_travel, take_over
from async_adag.graph.model import Collective

jax = pytest.importorskip("jax")
jax.config.update("jax_num_cpu_devices", 2)

TYPES = ["bool", "int8", "uint16", "int32", "float16", "bfloat16", "float32", "complex64"]
TYPES += ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"]
shapes = st.sampled_from([(), (3,), (0,), (2, 3), (2, 0, 3), (4, 1, 2)])
few = settings(max_examples=60, deadline=None)  # jax compiles something for each shape and type


def view_of(raw, dtype, shape):
    """Memory as numpy hands it on, which has not all of jax's types, and the types that its bits are of."""
    dtype = jax.numpy.dtype(dtype)
    if dtype.name.startswith(("float8", "bfloat16")):
        return raw.view(f"u{dtype.itemsize}").reshape(shape), dtype.name
    return raw.view(dtype).reshape(shape), ""


@st.composite
def arrays(draw):
    shape = draw(shapes)
    numbers = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, 9, shape)
    return jax.numpy.asarray(np.asarray(numbers, draw(st.sampled_from(TYPES))))


def same(one, other):
    assert is_jax(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def bytes_at(span: Span) -> bytes:
    return ctypes.string_at(span.address, span.nbytes) if span.nbytes else b""


@pytest.fixture
def on_gpu(monkeypatch):
    """Those in the CPU's memory are taken for ones on a GPU."""
    for module in (jax_arrays, tensors):
        monkeypatch.setattr(module, "is_on_gpu", is_jax)


# Arrays as memory, and memory as arrays


@few
@given(arrays())
def test_an_array_is_the_bytes_that_are_exposed_whatever_its_type(array):
    assert may_travel(array)
    expected = np.asarray(array).tobytes()
    span, owner = expose(array, None)
    del array
    gc.collect()
    assert bytes_at(span) == expected
    del owner


@few
@given(arrays())
def test_what_is_taken_over_is_the_same_array_and_no_longer_in_that_memory(array):
    raw = np.frombuffer(np.asarray(array).tobytes() + bytes(64), np.uint8).copy()
    view, bits_of = view_of(raw[: array.nbytes], array.dtype, array.shape)
    made = take_over(view, None, bits_of)
    raw[:] = 255
    same(array, made)


def test_a_layout_of_its_own_is_refused():
    layouts = pytest.importorskip("jax.experimental.layout")
    array = jax.numpy.arange(6.0).reshape(2, 3)
    try:
        turned = jax.device_put(array, layouts.Format(layouts.Layout((1, 0)), array.sharding))
    except Exception as error:
        pytest.skip(f"this jax makes none on a CPU: {error}")
    with pytest.raises(ValueError, match=r"has a layout of its own.*jax\.device_put"):
        expose(turned, None)


def test_which_arrays_travel_as_bytes():
    numpy = jax.numpy
    assert may_travel(numpy.zeros(3))
    assert not may_travel(numpy.full(3, 2.0)), "weakly typed"
    assert not may_travel(numpy.zeros(3, "int4")), "of half bytes"
    assert not may_travel(jax.random.key(1)), "a key"
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "x")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    assert not may_travel(jax.device_put(numpy.zeros(4), sharding)), "on two devices"


def test_one_in_the_cpus_memory_is_none_on_a_gpu():
    array = jax.numpy.zeros(3)
    assert is_jax(array)
    assert not is_on_gpu(array)
    assert library_of(array) == ""
    assert not is_jax(np.zeros(3))


def test_a_pending_export_does_not_hinder_whoever_donates_the_array():
    array = jax.numpy.arange(6.0)
    span, owner = expose(array, None)
    expected = np.arange(6.0, dtype="f4").tobytes()
    result = jax.jit(lambda x: x + 1, donate_argnums=0)(array)
    assert bytes_at(span) == expected
    np.testing.assert_array_equal(result, np.arange(1.0, 7.0))
    del owner


class Streamed:
    """An array that notes for which stream it was to be exported."""

    shape, nbytes = (2,), 8

    def __init__(self):
        self.array = jax.numpy.ones(2)
        self.streams = []

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        return self.array.__dlpack__()


def test_exports_name_the_stream_and_the_default_one_as_dlpack_does():
    array = Streamed()
    expose(array, 0)
    expose(array, 7)
    assert array.streams == [1, 7]


# In values


def carried(value):
    """``value`` after a way on which its tensors were carried apart, as an edge does it."""
    parcel, taken = take_out(value, on_gpu=True)
    assert isinstance(parcel, Parcel)
    arrived = pickle.loads(pickle.dumps(parcel._replace(buffers=[bytes(b.raw()) for b in parcel.buffers])))
    received = []
    for header, tensor in zip(arrived.headers, taken, strict=True):
        if header.is_empty():
            received.append(header.empty())
            continue
        span, owner = expose(tensor, None)
        assert span.nbytes == header.nbytes()
        raw = np.frombuffer(bytes_at(span), np.uint8).copy()
        del owner
        view, bits_of = view_of(raw, header.type_here(), header.shape)
        received.append(take_over(view, None, bits_of))
    return arrived.unpack(received), arrived.headers


@pytest.mark.usefixtures("on_gpu")
def test_arrays_are_taken_out_of_any_value_and_put_back():
    kinds = [jax.numpy.arange(6.0).reshape(2, 3).astype(kind) for kind in TYPES]
    empty, point = jax.numpy.zeros((2, 0)), jax.numpy.asarray(np.float32(3))
    value = {"all": kinds, "more": (empty, point, np.arange(3), "text"), "again": kinds[0]}
    back, headers = carried(value)
    assert len(headers) == len(TYPES) + 2
    assert {header.package for header in headers} == {"jax"}
    for one, other in zip(kinds, back["all"], strict=True):
        same(one, other)
    same(empty, back["more"][0])
    same(point, back["more"][1])
    np.testing.assert_array_equal(back["more"][2], np.arange(3))
    assert back["again"] is back["all"][0]


@pytest.mark.usefixtures("on_gpu")
def test_what_cannot_travel_as_bytes_stays_in_the_frame_and_arrives_the_same():
    weak, half = jax.numpy.full(3, 2.0), jax.numpy.arange(3, dtype="int4")
    back, headers = carried([weak, half, jax.numpy.ones(2)])
    assert [header.shape for header in headers] == [(2,)]
    assert back[0].weak_type
    assert back[1].dtype == half.dtype
    np.testing.assert_array_equal(np.asarray(back[1]), np.asarray(half))


def test_arrays_in_the_cpus_memory_stay_in_the_frame():
    _, taken = take_out([jax.numpy.ones(3)], on_gpu=True)
    assert taken == []


def test_arrays_stay_the_objects_that_they_are_where_others_are_brought_to_the_gpu():
    array = jax.numpy.ones(3)
    parcel, taken = take_out([array, jax.random.key(1)], off_gpu=True)
    assert taken == []
    assert parcel.unpack([])[0] is array


@pytest.mark.usefixtures("on_gpu")
def test_promises_know_them():
    array = jax.numpy.ones((2, 3))
    assert is_tensor(array)
    (header,) = headers_of([array], on_gpu=True)
    assert (header.package, header.dtype, header.shape) == ("jax", "float32", (2, 3))


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2", "bool"])
def test_on_their_way_to_the_cpu_they_stay_arrays_of_jax(dtype):
    array = jax.numpy.arange(6.0).reshape(2, 3).astype(dtype)
    parcel, taken = take_out([array, array[:, :0]], on_gpu=True)
    span, owner = expose(taken[0], None)
    back, empty = pickle.loads(pickle.dumps(OnHost(parcel, [memoryview(bytes_at(span))]), 5))
    del owner
    same(array, back)
    assert {device.platform for device in back.devices()} == {"cpu"}
    assert empty.shape == (2, 0)


# In collective operations


@pytest.mark.parametrize("reduction", ["sum", "product", "max", "min", "avg"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_operations_through_shared_memory(reduction, dtype):
    values = [(jax.numpy.arange(8).reshape(4, 2) + rank + 1).astype(dtype) for rank in range(2)]
    if reduction == "avg" and dtype == "int8":
        with pytest.raises(TypeError, match="avg takes floating-point"):
            allreduce(values, reduction)
        return
    total = allreduce(values, reduction)
    expected = allreduce([np.asarray(value).astype("f8") for value in values], reduction)
    assert is_jax(total)
    assert str(total.dtype) == dtype
    np.testing.assert_array_equal(np.asarray(total).astype("f8"), expected)
    parts = [reducescatter(values, reduction, rank) for rank in range(2)]
    np.testing.assert_array_equal(np.asarray(jax.numpy.concatenate(parts)), np.asarray(total))
    np.testing.assert_array_equal(allgather(values), np.concatenate([np.asarray(value) for value in values]))
    assert allreduce(values[:1], reduction) is not values[0]


def test_libraries_are_not_mixed():
    with pytest.raises(TypeError, match="rank 1 gave ndarray of float32, rank 0 Array of float32"):
        allreduce([jax.numpy.ones(3), np.ones(3, "f4")], "sum")
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "x")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    with pytest.raises(TypeError, match=r"jax \(on one device\)"):
        contributions.describe(jax.device_put(jax.numpy.zeros(4), sharding), 0)


class Device:
    """Stands for a `CudaDevice` in the host's memory."""

    ordinal = 0
    runtime = SimpleNamespace(
        memcpyAsync=lambda to, source, nbytes, kind, stream: ctypes.memmove(to, source, nbytes)
    )

    def enter(self):
        pass

    def adopt(self, handle):
        return SimpleNamespace(handle=handle, record=lambda event: None)

    def event(self):
        return SimpleNamespace(query=lambda: True, close=lambda: None)


class Memory:
    def __init__(self, nbytes):
        self.buffer = ctypes.create_string_buffer(max(nbytes, 1))
        self.ptr = ctypes.addressof(self.buffer)


class Stream:
    def __init__(self, non_blocking=False):
        self.ptr = 7

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass


class Alone:
    """A group of one rank, which gets twice what it gave."""

    def __init__(self):
        self.types = []

    def initialize(self, rank):
        pass

    def check_type(self, dtype, reduction):
        self.types.append(dtype)

    def check(self):
        pass

    def allreduce(self, source, into, dtype, reduction, stream):
        ctypes.memmove(into.address, source.address, source.nbytes)

    def allgather(self, source, into, stream):
        for place in range(2):
            ctypes.memmove(into.address + place * source.nbytes, source.address, source.nbytes)


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(alloc=Memory, Stream=Stream)))
    device = Device()
    group = Alone()
    over = OverNccl(group, lambda: CudaCrossing(device))
    over.initialize(0)
    return over, group


@pytest.fixture
def device_arrays(monkeypatch, on_gpu):
    """Arrays of jax in the CPU's memory go the way of those on a GPU, but for streams."""

    def wrap(arrived, library, dtype, shape, ordinal):
        assert (library, ordinal) == ("jax", 0)
        raw = np.frombuffer(bytes_at(arrived.span), np.uint8).copy()
        view, bits_of = view_of(raw, dtype, shape)
        return take_over(view, None, bits_of)

    monkeypatch.setattr(crossing, "library_of", lambda value: "jax")
    monkeypatch.setattr(crossing, "expose", lambda array, stream: expose(array, None))
    monkeypatch.setattr(crossing, "current_stream", lambda library, ordinal: 7)
    monkeypatch.setattr(crossing, "_ordinal", lambda library, value: 0)
    monkeypatch.setattr(crossing, "wrap", wrap)


def check_operations(alone):
    over, group = alone
    for dtype in ("float32", "bfloat16", "float8_e4m3fn"):
        array = jax.numpy.arange(6.0).reshape(3, 2).T.astype(dtype)
        together = Collective("allreduce", "sum", 0, 1, communicator=over)
        result = part(together)(array, [contributions.describe(array, 0)])
        same(array, result)
        assert result is not array
        (result,) = over.run("allgather", None, [array], lambda value: (4, 3))
        same(jax.numpy.concatenate([array, array]), result)
    assert group.types == ["float32", "bfloat16", "float8_e4m3fn"]


@pytest.mark.usefixtures("device_arrays")
def test_operations_over_nccl_of_arrays_on_a_gpu(alone):
    check_operations(alone)


def test_operations_over_nccl_of_arrays_in_the_hosts_memory(alone):
    check_operations(alone)


def test_numbers_of_half_bytes_do_not_go_over_nccl(alone):
    over, _ = alone
    with pytest.raises(TypeError, match="numbers of whole bytes, not int4: bind it with transport='shm'"):
        over.run("allgather", None, [jax.numpy.zeros(2, "int4")], lambda value: (4,))


def test_a_communicator_that_fills_its_result_is_told_so():
    class Communicator:
        def allreduce(self, value, result, operation):
            raise AssertionError

    together = part(Collective("allreduce", "sum", 0, 1, communicator=Communicator(), operation="sum"))
    array = jax.numpy.ones(2)
    with pytest.raises(TypeError, match=r"Communicator.allreduce is to fill its result.*leave transport out"):
        together(array, [contributions.describe(array, 0)])
