"""NCCL's part of collective operations, played on the host's memory: between threads, and between actors."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray

from async_adag.gpu.crossing import Operation, contiguous, empty_like
from async_adag.gpu.interface import DeviceError, Span
from async_adag.gpu.nccl_group import element_of

VERSION = 22809
BARRIER = 100  # seconds that threads wait for one another
TYPES = ["i1", "u1", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]  # by NCCL's numbers
REDUCE = [np.add, np.multiply, np.maximum, np.minimum]  # by NCCL's numbers; the next is the average


def memory(address: int, nbytes: int) -> np.ndarray:
    """The bytes there."""
    return np.frombuffer((ctypes.c_ubyte * nbytes).from_address(address), np.uint8)


def reduce(parts: list[np.ndarray], operation: int) -> np.ndarray:
    """The reduction of arrays of numbers, in their order."""
    function = REDUCE[operation] if operation < len(REDUCE) else np.add
    total = parts[0].copy()
    for part in parts[1:]:
        total = function(total, part).astype(total.dtype)
    return total if operation < len(REDUCE) else (total / len(parts)).astype(total.dtype)


class HostNccl:
    """Stands for ``cupy.cuda.nccl``: what is issued is done at once, when all ranks have issued it."""

    available = True

    def __init__(self, size: int, version: int = VERSION) -> None:
        self.barrier = threading.Barrier(size, timeout=BARRIER)
        self.issued: list[Any] = [None] * size
        self.version = version
        self.made: list[HostCommunicator] = []

    def get_unique_id(self) -> tuple[int, ...]:
        return (1,) * 128

    def get_version(self) -> int:
        return self.version

    def NcclCommunicator(self, size: int, identity: tuple[int, ...], rank: int) -> HostCommunicator:  # noqa: N802
        assert identity == (1,) * 128
        assert size == len(self.issued)
        made = HostCommunicator(self, rank)
        self.made.append(made)
        self.barrier.wait()
        return made


class HostCommunicator:
    """Stands for ``cupy.cuda.nccl.NcclCommunicator``."""

    def __init__(self, nccl: HostNccl, rank: int) -> None:
        self.nccl = nccl
        self.rank = rank
        self.log: list[tuple[Any, ...]] = []
        self.failed = False
        self.aborted = False

    def together(self, call: tuple[Any, ...], sent: np.ndarray) -> list[np.ndarray]:
        """What all ranks have sent; they have all made the same call."""
        self.log.append(call)
        self.nccl.issued[self.rank] = (call, sent.copy())
        self.nccl.barrier.wait()
        calls, arrays = zip(*self.nccl.issued, strict=True)
        self.nccl.barrier.wait()
        assert set(calls) == {call}
        return list(arrays)

    def allReduce(self, source, into, count, datatype, operation, stream):  # noqa: N802
        kind = np.dtype(TYPES[datatype])
        parts = self.together(
            ("allReduce", count, datatype, operation), memory(source, count * kind.itemsize).view(kind)
        )
        memory(into, count * kind.itemsize).view(kind)[:] = reduce(parts, operation)

    def allGather(self, source, into, count, datatype, stream):  # noqa: N802
        nbytes = count * np.dtype(TYPES[datatype]).itemsize
        parts = self.together(("allGather", count, datatype), memory(source, nbytes))
        memory(into, nbytes * len(parts))[:] = np.concatenate(parts)

    def reduceScatter(self, source, into, count, datatype, operation, stream):  # noqa: N802
        kind = np.dtype(TYPES[datatype])
        size = len(self.nccl.issued)
        sent = memory(source, count * size * kind.itemsize).view(kind)
        parts = self.together(("reduceScatter", count, datatype, operation), sent)
        memory(into, count * kind.itemsize).view(kind)[:] = np.split(reduce(parts, operation), size)[self.rank]

    def check_async_error(self) -> None:
        if self.failed:
            raise RuntimeError("NCCL_ERROR_REMOTE_ERROR")

    def abort(self) -> None:
        self.aborted = True


class HostMemory:
    def __init__(self, nbytes: int) -> None:
        self.buffer = ctypes.create_string_buffer(nbytes)
        self.ptr = ctypes.addressof(self.buffer)


def host_cupy() -> Any:
    """Stands for what `NcclRank` and `NcclGroup` use of cupy besides NCCL."""
    runtime = SimpleNamespace(getDevice=lambda: 0, setDevice=lambda ordinal: None)
    stream = SimpleNamespace(ptr=7, synchronize=lambda: None)
    cuda = SimpleNamespace(runtime=runtime, Memory=HostMemory, Stream=lambda non_blocking: stream)
    return SimpleNamespace(cuda=cuda)


class HostCrossing:
    """`Crossing` of arrays of numpy, which play those on a device."""

    def __init__(self) -> None:
        self.closed = 0

    def enter(self) -> None:
        pass

    @contextmanager
    def across(self, value: np.ndarray, shape: tuple[int, ...]) -> Iterator[Operation]:
        result = empty_like(value, shape)
        whole = contiguous(value)
        source, into = Span(whole.ctypes.data, whole.nbytes), Span(result.ctypes.data, result.nbytes)
        yield Operation(source, into, SimpleNamespace(handle=7), result)

    def close(self) -> None:
        self.closed += 1


@ray.remote(num_cpus=0)
class Exchange:
    """Where ranks in actors exchange bytes; each call returns when all ranks have come, or one has given up."""

    def __init__(self) -> None:
        self.changed = asyncio.Condition()
        self.brought: dict[int, dict[int, tuple[Any, bytes]]] = {}
        self.over = False
        self.notes: list[tuple[Any, ...]] = []

    async def bring(self, number: int, size: int, rank: int, call: Any, sent: bytes) -> list[bytes]:
        parts = self.brought.setdefault(number, {})
        async with self.changed:
            parts[rank] = (call, sent)
            self.changed.notify_all()
            await self.changed.wait_for(lambda: len(parts) == size or self.over)
        if len(parts) < size:
            raise OSError("aborted")
        assert {other for other, _ in parts.values()} == {call}, "the ranks are out of step"
        return [parts[one][1] for one in range(size)]

    async def note(self, *words: Any) -> None:
        self.notes.append(words)

    async def noted(self) -> list[tuple[Any, ...]]:
        return self.notes

    async def give_up(self) -> None:
        async with self.changed:
            self.over = True
            self.changed.notify_all()


class ExchangeGroup:
    """A `Group` of ranks in actors of their own.

    Args:
        exchange: where they meet.
        size: how many they are.
        fails: the number of the operation in which rank 1 fails, from 1; 0 for none.
    """

    def __init__(self, exchange: Any, size: int, fails: int = 0) -> None:
        self.exchange = exchange
        self.size = size
        self.fails = fails
        self.rank = -1
        self.number = 0

    def initialize(self, rank: int) -> None:
        self.rank = rank
        ray.get(self.exchange.note.remote("initialized", rank, os.getpid()))

    def destroy(self) -> None:
        ray.get([self.exchange.note.remote("destroyed", self.rank), self.exchange.give_up.remote()])

    def check(self) -> None:
        pass

    def check_type(self, dtype: str, reduction: str) -> None:
        element_of(dtype, reduction, VERSION)

    def together(self, call: tuple[Any, ...], source: Span) -> list[np.ndarray]:
        self.number += 1
        if self.number == self.fails and self.rank == 1:
            raise DeviceError("ncclAllReduce: no room")
        sent = memory(*source).tobytes()
        brought = ray.get(self.exchange.bring.remote(self.number, self.size, self.rank, call, sent))
        return [np.frombuffer(one, np.uint8) for one in brought]

    def reduced(self, call: tuple[Any, ...], source: Span, dtype: str, reduction: str) -> np.ndarray:
        parts = [part.view(dtype) for part in self.together((*call, dtype, reduction), source)]
        return reduce(parts, ["sum", "product", "max", "min", "avg"].index(reduction)).view(np.uint8)

    def allreduce(self, source: Span, into: Span, dtype: str, reduction: str, stream: Any) -> None:
        memory(*into)[:] = self.reduced(("allreduce",), source, dtype, reduction)

    def allgather(self, source: Span, into: Span, stream: Any) -> None:
        memory(*into)[:] = np.concatenate(self.together(("allgather",), source))

    def reducescatter(self, source: Span, into: Span, dtype: str, reduction: str, stream: Any) -> None:
        memory(*into)[:] = np.split(self.reduced(("reducescatter",), source, dtype, reduction), self.size)[
            self.rank
        ]
