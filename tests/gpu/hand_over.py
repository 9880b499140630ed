"""What steps with edges have in common: tensors with a pattern at the writer, and their check at the reader.

A message is what one execution sends: a few tensors, each filled with a pattern that only this tensor has. The
reader compares every byte on the device and counts what is wrong, for each message by itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import cupy

from async_adag.gpu.interface import Span
from async_adag.gpu.pool import Allocations, ExportablePool
from tests.gpu.kernels import Counters, Kernels
from tests.gpu.ours import in_cupy, our_device

PER_MESSAGE = 8  # tensors at most


class Owner:
    """Stands for a tensor: whoever refers to it keeps its memory from being used again."""

    __slots__ = ("__weakref__",)


class Exported:
    """Memory that readers may open where it is, handed out again once nobody refers to its owner.

    Attributes:
        pool: what a sender asks of it.
    """

    def __init__(self) -> None:
        self.pool: Any = Allocations(our_device())
        self._free: dict[int, list[Span]] = {}

    def take(self, nbytes: int) -> tuple[Span, Owner]:
        free = self._free.setdefault(nbytes, [])
        span = free.pop() if free else self.pool.add(nbytes)[1]
        owner = Owner()
        weakref.finalize(owner, free.append, span).atexit = False
        return span, owner


class Pooled:
    """Arrays of cupy's own pool, which other processes do not open; an owner is the array itself."""

    pool: Any = None

    def take(self, nbytes: int) -> tuple[Span, Any]:
        array = cupy.empty(nbytes, cupy.uint8)
        return Span(int(array.data.ptr), nbytes), array


class FromExportablePool(Pooled):
    """Arrays of our pool for cupy: what is small is copied, and other processes open the rest."""

    def __init__(self) -> None:
        self._cupys = ExportablePool(our_device())
        self.pool = self._cupys.allocations

    def take(self, nbytes: int) -> tuple[Span, Any]:
        with self._cupys.using():
            return super().take(nbytes)


class Writer:
    """Makes messages on a compute stream of its own."""

    def __init__(self, source: Any, device: Any = None) -> None:
        self.device = device or our_device()
        self.stream = self.device.stream()
        self.compute = in_cupy(self.stream)
        self.kernels = Kernels()
        self._source = source

    def make(self, number: int, sizes: Sequence[int]) -> tuple[list[Span], list[Any]]:
        """The tensors of a message, and their owners; the filling has been issued."""
        with self.compute:
            made = [self._source.take(size) for size in sizes]
        for index, (span, _) in enumerate(made):
            self.kernels.fill(self.compute, span.address, span.nbytes, number * PER_MESSAGE + index)
        return [span for span, _ in made], [owner for _, owner in made]


class Reader:
    """Checks messages on a compute stream of its own."""

    def __init__(self, messages: int, device: Any = None) -> None:
        self.device = device or our_device()
        self.stream = self.device.stream()
        self.compute = in_cupy(self.stream)
        self.kernels = Kernels()
        self._wrong = Counters(messages)

    def check(self, number: int, arrived: Sequence[Any], sizes: Sequence[int], shift: int = 0) -> None:
        """Issue the check of a message; with a ``shift``, as if it were another one."""
        for index, (tensor, size) in enumerate(zip(arrived, sizes, strict=True)):
            pattern = (number + shift) * PER_MESSAGE + index
            self.kernels.check(self.compute, tensor.span.address, size, pattern, self._wrong.at(number))

    def wrong(self) -> list[int]:
        """The numbers of the messages that were not right, once all checks are done."""
        return [number for number, count in enumerate(self._wrong.read().tolist()) if count]
