"""Tensors that keep their strides: those whose elements lie side by side, in whatever order of their axes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_adag.channels.host_tensors import OnHost
from async_adag.channels.tensor_headers import Header, flat_of, kept_strides
from async_adag.channels.tensors import take_out
from async_adag.channels.torch_tensors import bytes_of
from async_adag.gpu.arrays import extent
from async_adag.gpu.interface import Span

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def views(draw):
    """An array of numpy, which plays one of cupy here: axes in any order, some of them cut, turned or repeated."""
    shape = draw(shapes)
    array = np.arange(np.prod(shape, dtype=int), dtype=draw(st.sampled_from(["i2", "f8", "c16"]))).reshape(shape)
    array = array.transpose(draw(st.permutations(range(len(shape)))))
    cut = draw(st.sampled_from(["whole", "whole", "steps", "turned", "first", "repeated", "more"]))
    if not array.ndim or cut == "whole":
        return array
    if cut == "repeated":
        return np.broadcast_to(array, (3, *array.shape))
    if cut == "more":
        return array[:, None]
    return array[{"steps": slice(None, None, 2), "turned": slice(None, None, -1), "first": slice(0, 1)}[cut]]


def is_dense(array) -> bool:
    """Whether its elements fill the memory from its beginning, each one place: by looking at each."""
    places = np.zeros(array.shape, int)
    for axis, (length, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        steps = np.arange(length) * (stride // array.itemsize)
        places += steps.reshape([-1 if at == axis else 1 for at in range(array.ndim)])
    return sorted(places.ravel().tolist()) == list(range(array.size))


@given(views())
def test_dense_arrays_keep_their_strides_and_others_arrive_in_rows(array):
    strides, flat = flat_of("numpy", array)
    assert flat.flags.c_contiguous
    assert flat.nbytes == array.nbytes, "no byte more"
    header = Header("numpy", array.dtype.str, array.shape, strides=strides)
    back = header.arrange(np.frombuffer(flat.tobytes(), array.dtype))
    np.testing.assert_array_equal(back, array)
    if array.size and is_dense(array):
        assert back.strides == array.strides
    else:
        assert back.flags.c_contiguous
    assert extent(Span(0, array.nbytes), array.itemsize, array.shape, strides) == array.nbytes


@given(shapes)
def test_rows_need_no_strides(shape):
    assert kept_strides(shape, [stride // 8 for stride in np.zeros(shape).strides]) == ()


def test_strides_that_leave_the_memory_are_refused():
    assert extent(Span(0, 24), 4, (2, 3), (1, 2)) == 24
    with pytest.raises(ValueError, match="28 bytes, and 24 bytes have arrived"):
        extent(Span(0, 24), 4, (2, 3), (2, 2))
    with pytest.raises(ValueError, match="before its memory"):
        extent(Span(0, 24), 4, (2, 3), (-1, 2))


# Of torch, where it is installed


def torch_views():
    torch = pytest.importorskip("torch")
    base = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    flat = torch.arange(24.0)
    yield "plain", base
    yield "channels_last", base.contiguous(memory_format=torch.channels_last)
    yield "transposed", base.transpose(1, 3)
    yield "of one row", flat[:5].reshape(1, 5).t()
    yield "no dimension", flat[3]
    yield "empty", base[:, :0].transpose(0, 3)
    yield "every second", base[:, :, ::2]
    yield "behind an offset", flat[4:].reshape(4, 5).t()
    yield "expanded", flat[:4].expand(3, 4)
    yield "conjugate", torch.complex(base, base + 1).conj().permute(3, 0, 2, 1)
    yield "a parameter", torch.nn.Parameter(base.permute(3, 1, 0, 2))
    for dtype in (torch.bfloat16, torch.bool, torch.int64):
        yield str(dtype), base.to(dtype).permute(2, 3, 1, 0)


KEEP = {"channels_last", "transposed", "of one row", "behind an offset", "conjugate", "a parameter"}


@pytest.mark.parametrize("to_host", [False, True], ids=["arranged", "in a frame"])
def test_tensors_of_torch(to_host):
    torch = pytest.importorskip("torch")
    for name, tensor in torch_views():
        parcel, (taken,) = take_out([tensor], off_gpu=True)
        parcel = pickle.loads(pickle.dumps(parcel, 5))
        (header,) = parcel.headers
        if to_host and taken.numel():
            (back,) = pickle.loads(pickle.dumps(OnHost(parcel, [bytes_of(taken)]), 5))
        else:
            copy = taken.clone()
            (back,) = parcel.unpack([header.arrange(copy) if taken.numel() else header.empty()])
        assert torch.equal(back, tensor), name
        assert type(back) is type(tensor)
        if name in KEEP or name.startswith("torch."):
            assert back.stride() == tensor.stride(), name
        elif tensor.numel():
            assert back.is_contiguous(), name
