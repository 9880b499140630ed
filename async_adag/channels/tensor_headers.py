"""What a tensor is, but for its elements: told in a header. And its elements, as they lie in memory."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


class Header(NamedTuple):
    """A tensor, but for its elements.

    Attributes:
        package: "torch", "cupy", "jax" or "numpy".
        dtype: its type, as the library names it: "float32" for torch and jax, "<f4" for the others.
        shape: its shape.
        device: where it is, as torch names that kind of device; "" where the library leaves no choice.
        parameter: whether it is a ``torch.nn.Parameter``.
        requires_grad: whether torch records gradients for it.
        strides: how many elements further the next one along each axis lies; () where they lie in rows (C order).
    """

    package: str
    dtype: str
    shape: tuple[int, ...]
    device: str = ""
    parameter: bool = False
    requires_grad: bool = False
    strides: tuple[int, ...] = ()

    def is_empty(self) -> bool:
        """Whether it has no elements: then there is nothing to be carried."""
        return 0 in self.shape

    def type_here(self) -> Any:
        """Its dtype, as the library has it in this process.

        Raises:
            ImportError: the library is not here.
        """
        library: Any = importlib.import_module(self.package)  # as unpickling the tensor would
        if self.package == "torch":
            return getattr(library, self.dtype)
        return (library.numpy if self.package == "jax" else library).dtype(self.dtype)

    def nbytes(self) -> int:
        """How long its elements are, in bytes.

        Raises:
            ImportError: the library is not here.
        """
        return math.prod(self.shape) * int(self.type_here().itemsize)

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A tensor of the same library, on the same kind of device, whose elements are whatever they are."""
        library: Any = importlib.import_module(self.package)
        if self.package == "torch":
            return library.empty(shape, dtype=dtype, device=self.device)
        if self.package == "jax":
            return library.numpy.empty(shape, dtype, device=self.jax_device())
        return library.empty(shape, dtype=dtype)

    def jax_device(self) -> Any:
        """Where jax is to have it: on a CPU, or on its default device (None)."""
        library: Any = importlib.import_module("jax")
        return library.local_devices(backend="cpu")[0] if self.device == "cpu" else None

    def arrange(self, flat: Any) -> Any:
        """Its elements, as they lie in memory one after the other, in its shape and with its strides; no copy."""
        if not self.strides:
            return flat.reshape(self.shape)
        if self.package == "torch":
            return flat.as_strided(self.shape, self.strides)
        library: Any = importlib.import_module(self.package)
        itemsize = flat.dtype.itemsize
        strides = [itemsize * stride for stride in self.strides]
        return library.lib.stride_tricks.as_strided(flat, self.shape, strides)

    def empty(self) -> Any:
        """A tensor as this describes, whose elements are whatever they are.

        Raises:
            ImportError: the library is not here.
        """
        return self.allocate(self.shape, self.type_here())

    def mismatch(self, tensor: Any) -> str:
        """How ``tensor`` differs from what this describes; "" where it does not."""
        library: Any = importlib.import_module(self.package)
        if not isinstance(tensor, library.Tensor if self.package == "torch" else library.ndarray):
            return f"{type(tensor).__name__} in place of a tensor of {self.package}"
        got, expected = (tensor.dtype, tuple(tensor.shape)), (self.type_here(), self.shape)
        if got == expected:
            return ""
        return "{} of shape {} in place of {} of shape {}".format(*got, *expected)

    def finish(self, tensor: Any) -> Any:
        """``tensor``, whose elements have arrived, as the reader is to have it."""
        if self.parameter:
            torch: Any = sys.modules["torch"]
            return torch.nn.Parameter(tensor, requires_grad=self.requires_grad)
        return tensor.requires_grad_() if self.requires_grad else tensor


def header_of(library: str, tensor: Any) -> Header:
    """What describes a tensor of ``library``; without its strides."""
    shape = tuple(tensor.shape)
    if library == "jax":
        return Header(library, str(tensor.dtype), shape)
    if library != "torch":
        return Header(library, tensor.dtype.str, shape)
    torch: Any = sys.modules["torch"]
    dtype = str(tensor.dtype).removeprefix("torch.")
    parameter = type(tensor) is torch.nn.Parameter
    return Header(library, dtype, shape, tensor.device.type, parameter, tensor.requires_grad)


def in_rows(library: str, tensor: Any) -> Any:
    """A tensor of ``library`` whose elements lie in rows; a copy where they do not."""
    if library == "torch":
        return _plain(tensor).contiguous()
    return tensor if library == "jax" or tensor.flags.c_contiguous else tensor.copy(order="C")


def flat_of(library: str, tensor: Any) -> tuple[tuple[int, ...], Any]:
    """The strides that a tensor is to keep, and its elements as they lie in memory; or (), and in rows."""
    if library == "jax":
        return (), tensor
    if library == "torch":
        plain = _plain(tensor)
        strides = kept_strides(tuple(plain.shape), plain.stride())
        return strides, plain.as_strided((plain.numel(),), (1,)) if strides else plain.contiguous()
    itemsize = tensor.dtype.itemsize
    strides = kept_strides(tensor.shape, [stride // itemsize for stride in tensor.strides])
    if not strides or any(stride % itemsize for stride in tensor.strides):
        return (), in_rows(library, tensor)
    module: Any = sys.modules[library]
    return strides, module.lib.stride_tricks.as_strided(tensor, (tensor.size,), (itemsize,))


def is_plain(tensor: Any) -> bool:
    """Whether the elements of a tensor of torch lie in memory, one beside the other."""
    torch: Any = sys.modules["torch"]
    dense = tensor.layout is torch.strided and not tensor.is_quantized
    return dense and not tensor.is_nested and tensor.device.type != "meta"


def _plain(tensor: Any) -> Any:
    """A tensor of torch without its record of gradients, whose memory has its elements as they are."""
    return tensor.detach().resolve_conj().resolve_neg()


def kept_strides(shape: tuple[int, ...], strides: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor whose elements lie side by side in another order than that of rows; () for others.

    Args:
        shape: its shape.
        strides: in elements.
    """
    if 0 in shape:
        return ()
    if list(strides) == [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]:
        return ()
    expected = 1
    for stride, length in sorted(zip(strides, shape, strict=True)):
        if length > 1:
            if stride != expected:
                return ()
            expected *= length
    return tuple(strides)
