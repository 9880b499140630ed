"""Edges that bring tensors to the CPU or to a GPU: what goes in the frame, and what is at the reader.

The GPU's arrays are those of a class that says so; their memory is the host's.
"""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from async_adag.actor.staged import StagedReader, StagedWriter
from async_adag.channels.host_tensors import rebuild
from async_adag.channels.interface import STOP, Failure
from async_adag.channels.tensor_headers import Header
from async_adag.channels.tensors import Parcel, put_back
from async_adag.channels.torch_tensors import bytes_of


class OnTheGpu(np.ndarray):
    """Stands for cupy.ndarray."""


def on_the_gpu(array):
    return np.asarray(array).copy().view(OnTheGpu)


class Pinned:
    """A fetcher with one buffer, which it fills again as soon as it may."""

    def __init__(self):
        self.fetched = 0
        self.lent = []
        self.closed = 0

    def fetch(self, tensors):
        assert not self.lent
        self.fetched += len(tensors)
        self.lent = [bytearray(tensor.tobytes()) for tensor in tensors]
        return [memoryview(part) for part in self.lent]

    def release(self):
        for part in self.lent:
            part[:] = b"\xee" * len(part)
        self.lent = []

    def close(self):
        self.closed += 1


@pytest.fixture
def fetcher(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=OnTheGpu, lib=np.lib))
    return Pinned()


@pytest.fixture
def writer(ring, fetcher):
    return StagedWriter(ring.writer, fetcher)


def send(writer, value):
    writer.stage(writer.encode(value))
    writer.publish()


@pytest.mark.parametrize("size", [1, 100, 300_000])
def test_arrays_of_the_gpu_arrive_as_numpys(ring, writer, fetcher, size):
    array = np.arange(size, dtype="f4")
    send(writer, {"deep": [on_the_gpu(array), 3, np.arange(4)], "turned": on_the_gpu(array.reshape(1, -1)).T})
    arrived = ring.reader.read()
    assert [type(arrived["deep"][0]), type(arrived["turned"])] == [np.ndarray] * 2
    np.testing.assert_array_equal(arrived["deep"][0], array)
    np.testing.assert_array_equal(arrived["turned"], array.reshape(-1, 1))
    np.testing.assert_array_equal(arrived["deep"][2], np.arange(4))
    assert fetcher.fetched == 2
    assert fetcher.lent == []


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)], ids=str)
def test_shapes(ring, writer, shape):
    send(writer, on_the_gpu(np.ones(shape, "i2")))
    arrived = ring.reader.read()
    assert (type(arrived), arrived.dtype, arrived.shape) == (np.ndarray, np.dtype("i2"), shape)
    assert arrived.sum() == np.ones(shape).sum()


@pytest.mark.parametrize("value", [Failure(b"failed"), STOP, "text", [1, 2], np.arange(5)], ids=repr)
def test_what_is_not_on_the_gpu_goes_as_ever(ring, writer, fetcher, value):
    send(writer, value)
    assert type(ring.reader.read()) is type(value)
    assert fetcher.fetched == 0


def test_memory_is_given_back_when_the_frame_does_not_go_out(ring, writer, fetcher):
    with pytest.raises(TypeError, match="pickle"):
        writer.encode([on_the_gpu([1]), (value for value in "generators do not pickle")])
    writer.stage(writer.encode(on_the_gpu([1])))
    writer.unstage()
    writer.encode(on_the_gpu([1]))
    writer.unstage()
    send(writer, Failure(b"no memory"))
    assert type(ring.reader.read()) is Failure
    send(writer, on_the_gpu([2]))
    assert ring.reader.read().tolist() == [2]
    writer.close()
    assert fetcher.closed == 1


def test_torch_tensors_of_a_gpu_arrive_in_the_cpus_memory():
    torch = pytest.importorskip("torch")
    tensors = [
        torch.arange(6, dtype=torch.float32).reshape(2, 3),
        torch.arange(5).to(torch.bfloat16),
        torch.tensor(True),
        torch.tensor(2.5, dtype=torch.complex64),
    ]
    headers = [Header("torch", str(t.dtype).removeprefix("torch."), tuple(t.shape), "cuda") for t in tensors]
    headers.append(Header("torch", "int8", (0, 2), "cuda"))

    class Part:
        def __init__(self, number):
            self.number = number

        def __reduce__(self):
            return put_back, (self.number,)

    body = pickle.dumps([Part(number) for number in range(5)], 5)
    parcel = Parcel(tuple(headers), body, [], tuple(range(5)), [])
    *arrived, empty = rebuild(parcel, [bytes(bytes_of(tensor)) for tensor in tensors])
    for there, here in zip(arrived, tensors, strict=True):
        assert there.device.type == "cpu"
        assert there.dtype == here.dtype
        assert torch.equal(there, here)
    assert (empty.shape, empty.device.type) == ((0, 2), "cpu")


class Placing:
    """A placer that notes what it was given."""

    def __init__(self):
        self.placed = []

    def place(self, headers, tensors):
        self.placed += tensors
        return [tensor.double() + 1 for tensor in tensors]

    def close(self):
        pass


def test_torch_tensors_are_placed_and_numpy_arrays_stay(ring):
    torch = pytest.importorskip("torch")
    placer = Placing()
    reader = StagedReader(ring.reader, placer)
    send(ring.writer, {"t": torch.arange(3), "n": [np.arange(4)], "again": 5})
    arrived = reader.read()
    assert arrived["t"].tolist() == [1.0, 2.0, 3.0]
    assert type(arrived["n"][0]) is np.ndarray
    assert len(placer.placed) == 1


@pytest.mark.parametrize("value", [Failure(b"failed"), STOP, "text", {"a": [np.arange(5)]}], ids=repr)
def test_what_holds_no_tensor_is_read_as_ever(ring, value):
    placer = Placing()
    send(ring.writer, value)
    assert type(StagedReader(ring.reader, placer).read()) is type(value)
    assert placer.placed == []


def test_memory_is_given_back_when_the_frame_cannot_be_made(writer, ring, fetcher, monkeypatch):
    def refuse(value):
        raise TypeError("no frame")

    monkeypatch.setattr(ring.writer, "encode", refuse)
    with pytest.raises(TypeError, match="no frame"):
        writer.encode(on_the_gpu([1]))
    assert fetcher.lent == []
