"""Tensors of a GPU in frames: their bytes, and tensors in the CPU's memory where the frame is read.

The reader needs nothing for it but the library: torch's tensors stay torch's and jax's arrays jax's, cupy's arrays
become numpy's.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pickle import PickleBuffer
from typing import Any

from async_adag.channels.tensor_headers import Header
from async_adag.channels.tensors import Parcel
from async_adag.channels.torch_tensors import on_cpu


class OnHost:
    """In place of a value: pickled, it is the bytes of its tensors; unpickled, it is the value."""

    __slots__ = ("_parcel", "_parts")

    def __init__(self, parcel: Parcel, parts: Sequence[memoryview]) -> None:
        """Put them together.

        Args:
            parcel: the value without its tensors.
            parts: the bytes of each that is not empty, which are looked at when they are put in the frame.
        """
        self._parcel = parcel
        self._parts = parts

    def __reduce_ex__(self, protocol: Any) -> Any:
        return rebuild, (self._parcel, [PickleBuffer(part) for part in self._parts])


def rebuild(parcel: Parcel, parts: Sequence[Any]) -> Any:
    """The value, with its tensors in the CPU's memory.

    Raises:
        ImportError: their library is not here.
        Exception: whatever unpickling raises.
    """
    left = iter(parts)
    headers = tuple(_on_host(header) for header in parcel.headers)
    tensors = [header.empty() if header.is_empty() else _tensor(header, next(left)) for header in headers]
    return parcel._replace(headers=headers).unpack(tensors)


def _on_host(header: Header) -> Header:
    return header._replace(package="numpy") if header.package == "cupy" else header._replace(device="cpu")


def _tensor(header: Header, part: Any) -> Any:
    if header.package == "torch":
        return on_cpu(header, part)
    library: Any = importlib.import_module(header.package)
    if header.package == "jax":
        numpy: Any = importlib.import_module("numpy")
        return library.device_put(header.arrange(numpy.frombuffer(part, header.type_here())), header.jax_device())
    return header.arrange(library.frombuffer(part, header.type_here()))
