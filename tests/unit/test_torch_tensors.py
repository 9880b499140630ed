"""Tensors of torch in the CPU's memory, through the codec; runs where torch is installed."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.cloudpickle import CloudPickler

from async_adag.channels.codec import DECODERS, Encoder
from async_adag.channels.tensors import take_out
from async_adag.channels.torch_tensors import reduce_tensor

torch = pytest.importorskip("torch")

# torch says of some types and layouts that they are new, or old.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

DTYPES = sorted(
    {dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype) and "q" not in str(dtype)}, key=str
)


def round_trip(value, encoder=None):
    """The value as its reader gets it: from memory that is not the writer's, and that nobody may write to."""
    kind, body, buffers = (encoder or Encoder()).encode(value)
    return DECODERS[kind](memoryview(bytes(body)), [memoryview(bytes(buffer)) for buffer in buffers])


def out_of_band(value) -> list[int]:
    """How many bytes go into each of the buffers."""
    return [buffer.nbytes for buffer in Encoder().encode(value)[2]]


def bits(tensor) -> list[int]:
    """The bytes of what a tensor shows, in rows: some types know no equality, and no NaN is equal to itself."""
    rows = tensor.detach().contiguous()
    return rows.as_strided((rows.numel(),), (1,)).view(torch.uint8).tolist()


def assert_same(result, tensor) -> None:
    assert bits(result) == bits(tensor)
    assert traits(result) == traits(tensor)


def traits(tensor):
    return type(tensor), tensor.dtype, tensor.shape, tensor.requires_grad


def of_bytes(dtype, count):
    """A tensor of any type, no two of whose bytes are equal, as far as bytes go."""
    raw = torch.arange(count * dtype.itemsize) % (2 if dtype == torch.bool else 251)
    return raw.to(torch.uint8).view(dtype)


def test_there_are_the_types_that_torch_itself_cannot_unpickle():
    names = {str(dtype).removeprefix("torch.") for dtype in DTYPES}
    assert {"float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64", "complex32", "bfloat16", "bool"} <= names


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (0,), (2, 0, 3)], ids=str)
def test_every_type(dtype, shape):
    tensor = of_bytes(dtype, math.prod(shape)).reshape(shape)
    result = round_trip(tensor)
    assert_same(result, tensor)
    assert result.stride() == tensor.stride()
    assert_same(round_trip({"deep": [tensor]})["deep"][0], tensor)


@st.composite
def views(draw):
    """A tensor: its axes in any order, some of them cut or repeated."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from([torch.uint8, torch.float8_e5m2, torch.bfloat16, torch.uint32, torch.complex64]))
    tensor = of_bytes(dtype, 3 + math.prod(shape))[3:].reshape(shape)
    tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    for _ in range(draw(st.integers(0, 2))):
        cut = draw(st.sampled_from(["steps", "first", "more", "repeated"]))
        if cut == "repeated":
            tensor = tensor.expand(2, *tensor.shape)
        elif cut == "more":
            tensor = tensor.unsqueeze(draw(st.integers(0, tensor.ndim)))
        elif tensor.ndim:
            tensor = tensor[..., ::2] if cut == "steps" else tensor[..., :1]
    return tensor


def places_of(tensor) -> set[int]:
    """Where its elements lie: by looking at each."""
    indices = itertools.product(*map(range, tensor.shape))
    return {sum(map(int.__mul__, index, tensor.stride())) for index in indices}


@settings(max_examples=300)
@given(views())
def test_any_view_is_a_tensor_of_its_own_where_it_is_read(tensor):
    result = round_trip(tensor)
    assert_same(result, tensor)
    places = places_of(tensor)
    if tensor.numel() and len(places) == tensor.numel():
        assert result.stride() == tensor.stride()
        assert result.untyped_storage().nbytes() == (max(places) + 1) * tensor.element_size()
    else:  # nothing, or some elements lie at one place: of an expanded tensor, which cannot be written to
        assert result.is_contiguous()
    assert sum(out_of_band(tensor)) == tensor.numel() * tensor.element_size(), "no byte more"
    result.copy_(result.clone())


def test_channels_last_stays():
    tensor = torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert round_trip(tensor).is_contiguous(memory_format=torch.channels_last)


def test_a_big_tensor_is_handed_on_where_it_lies():
    tensor = torch.arange(100_000).reshape(100, 1000).t()
    _, body, (buffer,) = Encoder().encode({"x": tensor})
    assert len(body) < 500
    tensor[0, 0] = 77
    assert buffer[:8].cast("q")[0] == 77


def test_a_result_is_written_to_and_that_is_its_own_affair():
    tensor = torch.arange(1000.0)
    kind, body, (buffer,) = Encoder().encode(tensor)
    copy = bytearray(buffer)
    result = DECODERS[kind](memoryview(body), [memoryview(copy).toreadonly()])
    result.add_(1)
    assert copy == buffer
    copy[:] = bytes(len(copy))  # as a frame's memory is used again
    assert torch.equal(result, tensor + 1)
    assert torch.equal(result.share_memory_(), tensor + 1)


def test_nothing_holds_the_frame():
    kind, body, (buffer,) = Encoder().encode([torch.arange(1000.0)])
    copy = bytearray(buffer)
    result = DECODERS[kind](memoryview(body), [memoryview(copy)])
    copy.clear()  # BufferError, while anything looks into it
    assert result[0][3] == 3


@pytest.mark.parametrize("flag", [True, False])
def test_parameters_and_gradient_flags(flag):
    tensor = torch.arange(6.0).reshape(2, 3).t().requires_grad_(flag)
    parameter = torch.nn.Parameter(tensor.detach(), requires_grad=flag)
    frozen = torch.nn.Parameter(torch.arange(3), requires_grad=False)
    for value in (tensor, parameter, frozen):
        assert_same(round_trip(value), value)
        assert round_trip(value).stride() == value.stride()
        assert out_of_band(value) == [value.numel() * value.element_size()]
    empty = torch.nn.Parameter(torch.empty(0, 3), requires_grad=flag)
    assert_same(round_trip(empty), empty)


def test_a_tensor_with_a_history_keeps_its_flag_and_not_its_history():
    result = round_trip(torch.ones(2, requires_grad=True) * 2)
    assert torch.equal(result, torch.full((2,), 2.0))
    assert result.requires_grad
    assert result.is_leaf


def test_views_that_are_computed_when_read_are_sent_as_what_they_show():
    tensor = torch.tensor([[1 + 2j, 3 - 1j]])
    for view in (tensor.conj(), tensor.conj().t(), tensor.conj().imag):
        result = round_trip(view)
        assert torch.equal(result, view)
        assert not result.is_conj()
        assert not result.is_neg()


@dataclass
class Batch:
    tokens: Any
    more: dict[str, Any]


def test_tensors_inside_anything():
    one, other = torch.arange(4), torch.ones(2, 2, dtype=torch.bfloat16)
    result = round_trip(Batch(one, {"pair": (other, one), "size": one.shape, "type": one.dtype}))
    assert torch.equal(result.tokens, one)
    assert torch.equal(result.more["pair"][0], other)
    assert result.more["pair"][1] is result.tokens, "one object stays one"
    assert (result.more["size"], result.more["type"]) == (one.shape, one.dtype)
    module = torch.nn.Linear(3, 2)
    assert torch.equal(round_trip(module).weight, module.weight)
    assert out_of_band(module) == [24, 8]


class Named(torch.Tensor):
    """A class of the user's."""


def hooked():
    tensor = torch.ones(2, requires_grad=True)
    tensor.register_hook(lambda gradient: gradient)
    return tensor


def test_what_is_no_plain_tensor_goes_as_torch_has_it():
    named = torch.arange(3).as_subclass(Named)
    assert type(round_trip(named)) is Named
    assert torch.equal(round_trip(torch.eye(3).to_sparse()).to_dense(), torch.eye(3))
    assert round_trip(torch.empty(3, device="meta")).device.type == "meta"
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.qint8)
    assert torch.equal(round_trip(quantized).dequantize(), torch.ones(3))
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    assert round_trip(nested).is_nested
    labelled = torch.nn.Parameter(torch.ones(2))
    labelled.label = "first"
    assert round_trip(labelled).label == "first"
    assert torch.equal(round_trip(hooked()), torch.ones(2))


class OnTheGpu:
    """Stands for a tensor of a GPU, as far as it is looked at."""

    device = torch.device("cuda")
    layout = torch.strided
    is_quantized = is_nested = False
    _backward_hooks = None

    def __reduce_ex__(self, protocol):
        return "torch's own", protocol


def test_a_tensor_on_a_gpu_goes_as_torch_has_it():
    assert reduce_tensor(OnTheGpu()) == ("torch's own", 5)


def test_what_was_registered_with_ray_goes_first(monkeypatch):
    encoder = Encoder()
    assert_same(round_trip(torch.ones(2), encoder), torch.ones(2))
    with monkeypatch.context() as registered:
        registered.setitem(CloudPickler.dispatch, torch.Tensor, lambda tensor: (str, (tensor.shape,)))
        assert round_trip([torch.ones(2)], encoder) == ["torch.Size([2])"]
        assert take_and_put_back([torch.ones(2)]) == ["torch.Size([2])"]
    assert_same(round_trip(torch.ones(2), encoder), torch.ones(2))


def take_and_put_back(value):
    """As an edge between GPUs does with what is not on a GPU."""
    parcel, tensors = take_out(value, on_gpu=True)
    assert not tensors
    return round_trip(parcel).unpack([])


def test_beside_tensors_that_something_else_carries():
    value = {"x": torch.arange(100_000).to(torch.uint16), "y": torch.empty(3, device="meta")}
    result = take_and_put_back(value)
    assert_same(result["x"], value["x"])
    assert out_of_band(take_out(value, on_gpu=True)[0]) == [200_000]


def test_torch_that_is_imported_after_the_encoder_was_made(monkeypatch):
    encoder = Encoder()
    with monkeypatch.context() as before:
        before.delitem(sys.modules, "torch")
        assert round_trip([1], encoder) == [1]
        before.setitem(sys.modules, "torch", object())  # as one that is just being imported
        assert round_trip([2], encoder) == [2]
    assert_same(round_trip(torch.ones(2, dtype=torch.uint16), encoder), torch.ones(2, dtype=torch.uint16))


def test_torch_is_not_imported_for_what_is_no_tensor():
    program = (
        "import sys\n"
        "from async_adag.channels.codec import DECODERS, Encoder\n"
        "kind, body, buffers = Encoder().encode([object, {}])\n"
        "assert DECODERS[kind](memoryview(body), buffers) == [object, {}]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=150)


def test_where_torch_makes_tensors_by_default_does_not_matter():
    tensors = [torch.ones(2), torch.ones(0)]
    encoded = Encoder().encode(tensors)
    with torch.device("meta"):
        result = DECODERS[encoded[0]](memoryview(encoded[1]), encoded[2])
    assert [tensor.device.type for tensor in result] == ["cpu", "cpu"]
    assert_same(result[0], tensors[0])


def test_too_few_bytes_are_an_error():
    kind, body, (buffer,) = Encoder().encode(torch.ones(100))
    with pytest.raises(RuntimeError):
        DECODERS[kind](memoryview(body), [buffer[:-4]])
    with pytest.raises(ValueError, match="multiple"):
        DECODERS[kind](memoryview(body), [buffer[:-1]])


def test_a_failure_spoils_nothing():
    encoder = Encoder()
    with pytest.raises((pickle.PicklingError, TypeError, AttributeError)):
        encoder.encode([torch.ones(1000), (item for item in ())])
    assert_same(round_trip(torch.ones(2), encoder), torch.ones(2))
