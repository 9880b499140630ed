"""Tensors of torch, cupy and jax, handed from one to the other on streams that are nobody's default.

By our borders (`gpu/arrays`), as an edge does it: the span of a tensor that its library has yet to finish, a copy
on a stream of the edge, an array of any library over what arrived. And by DLPack directly, with streams, which is
what those borders lean on. Everything is compared bit by bit. A kernel of 20 ms ahead of each tensor makes sure
that whoever does not wait is seen.
"""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np

from async_adag.gpu.arrays import current_stream, expose, wrap
from async_adag.gpu.interface import Span
from tests.gpu.kernels import Kernels
from tests.gpu.ours import in_cupy, our_device, settle
from tests.gpu.step import Figures, run

LATE = 20e-3  # seconds
COUNT = 100_003  # elements
TYPES = ("float32", "float16", "int64", "bool", "bfloat16", "float8_e4m3fn")
OF_CUPY = ("float32", "float16", "int64", "bool")  # the rest are not numpy's own


class Arrived:
    """Memory that holds what arrived."""

    def __init__(self, memory: Any, span: Span) -> None:
        self._memory = memory
        self.span = span

    def close(self) -> None:
        self._memory.close()


class Libraries:
    """Those that are here, each with a stream that is not its default."""

    def __init__(self) -> None:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        self.torch: Any = None
        self.jax: Any = None
        self.missing = {}
        self._kernels = Kernels()
        self._late_computations: dict[str, Any] = {}  # jax compiles each for longer than it runs
        try:
            import torch

            self.torch = torch if torch.cuda.is_available() else None
        except ImportError:
            pass
        if self.torch is None:
            self.missing["torch"] = "not installed, or sees no GPU"
        try:
            import jax
            import jax.dlpack

            self.jax = jax if jax.default_backend() == "gpu" else None
        except ImportError:
            pass
        if self.jax is None:
            self.missing["jax"] = "not installed, or sees no GPU"
        self.names = [name for name in ("torch", "cupy", "jax") if name not in self.missing]
        self._cupy_stream = cupy.cuda.Stream(non_blocking=True)
        self._torch_stream = self.torch.cuda.Stream() if self.torch else None

    @contextmanager
    def streams(self) -> Iterator[None]:
        """What torch and cupy issue meanwhile goes to streams of their own."""
        with self._cupy_stream:
            if self.torch is None:
                yield
            else:
                with self.torch.cuda.stream(self._torch_stream):
                    yield

    def values(self, library: str, dtype: str) -> tuple[Any, bytes]:
        """A tensor that is not finished, and its bytes."""
        pattern = (np.arange(COUNT) * 37 % 97).astype(np.float32)
        if library == "torch":
            kind = getattr(self.torch, dtype)
            expected = self.torch.from_numpy(pattern).to(kind)
            tensor = self.torch.from_numpy(pattern).cuda()
            self._late("torch")
            return tensor.to(kind), expected.contiguous().view(self.torch.uint8).numpy().tobytes()
        host = pattern.astype(dtype)
        if library == "jax":
            return self._late_array(pattern, dtype), host.tobytes()
        array = cupy.asarray(pattern)
        self._late("cupy")
        return array.astype(dtype), host.tobytes()

    def _late_array(self, pattern: Any, dtype: str) -> Any:
        """An array of jax that is computed behind products of large matrices, as jax has no stream to hold up."""
        numpy = self.jax.numpy

        def compute(numbers: Any) -> Any:
            start = numpy.full((4096, 4096), 1 / 4096, "float32")
            last = self.jax.lax.fori_loop(0, 100, lambda _, matrix: matrix @ start, start)
            return numpy.where(numpy.isnan(last.sum()), numbers + 1, numbers).astype(dtype)

        if dtype not in self._late_computations:
            self._late_computations[dtype] = self.jax.jit(compute)
        return self._late_computations[dtype](numpy.asarray(pattern))

    def _late(self, library: str) -> None:
        stream = current_stream(library, 0)
        assert stream != 0, f"{library} is on its default stream"
        self._kernels.spin(in_cupy(our_device().adopt(stream)), LATE)

    def bytes_of(self, library: str, array: Any) -> bytes:
        """The bytes of an array, by way of a copy that its own library makes on its present stream."""
        if library == "torch":
            return array.clone().view(self.torch.uint8).cpu().numpy().tobytes()
        if library == "cupy":
            return array.copy().view(cupy.uint8).get().tobytes()
        return np.asarray(self.jax.numpy.copy(array)).tobytes()


def by_borders(libraries: Libraries, device: Any, producer: str, consumer: str, dtype: str) -> str:
    """Hand a tensor over as an edge does; "" if it is right."""
    edge = device.stream()
    produced, copied = device.event(), device.event()
    with libraries.streams():
        tensor, expected = libraries.values(producer, dtype)
        producing = device.adopt(current_stream(producer, 0))
        span, owner = expose(tensor, producing.handle)
        producing.record(produced)
        edge.wait(produced)
        memory = device.allocate(len(expected))
        device.copy(memory.span, span, edge)
        edge.record(copied)
        device.adopt(current_stream(consumer, 0)).wait(copied)
        arrived = Arrived(memory, Span(memory.span.address, len(expected)))
        kept = weakref.ref(arrived)
        kind = np.dtype(dtype).str if consumer == "cupy" else dtype
        array = wrap(arrived, consumer, kind, (COUNT,), 0)
        del arrived
        gc.collect()
        if kept() is None and consumer != "jax":  # which has copied it
            return "the memory was let go of while an array lay in it"
        right = libraries.bytes_of(consumer, array) == expected
        settle()
        del array, tensor, owner
    gc.collect()
    if kept() is not None:
        return "the memory was kept when no array lay in it any more"
    memory.close()
    return "" if right else "other bytes arrived"


def by_dlpack(libraries: Libraries, producer: str, consumer: str, dtype: str) -> str:
    """Hand a tensor over by the protocol; "" if it is right."""
    with libraries.streams():
        tensor, expected = libraries.values(producer, dtype)
        if consumer == "torch":
            array = libraries.torch.from_dlpack(tensor)
        elif consumer == "cupy":
            array = cupy.from_dlpack(tensor)
        else:
            array = libraries.jax.dlpack.from_dlpack(tensor)
        right = libraries.bytes_of(consumer, array) == expected
        settle()
    return "" if right else "other bytes arrived"


def dlpack(figures: Figures) -> dict[str, Any]:
    device = our_device()
    libraries = Libraries()
    for name, reason in libraries.missing.items():
        figures.add(f"with {name}", not_run=reason)
    wrong: dict[str, str] = {}
    for way in ("borders", "DLPack"):
        for producer in libraries.names:
            for consumer in libraries.names:
                if way == "DLPack" and producer == consumer:
                    continue
                done = []
                for dtype in TYPES:
                    if not can(way, producer, consumer, dtype):
                        continue
                    try:
                        if way == "borders":
                            problem = by_borders(libraries, device, producer, consumer, dtype)
                        else:
                            problem = by_dlpack(libraries, producer, consumer, dtype)
                    except Exception as error:  # one pair that fails does not hide the others
                        problem = f"{type(error).__name__}: {error}"
                    done.append(dtype)
                    if problem:
                        wrong[f"{way}: {producer} to {consumer}, {dtype}"] = problem
                if done:
                    figures.add(f"{way}: {producer} to {consumer}", right=", ".join(done))
    for what, problem in wrong.items():
        figures.add(what, wrong=problem)
    return {"wrong": wrong, "missing": libraries.missing}


def can(way: str, producer: str, consumer: str, dtype: str) -> bool:
    """Whether both libraries have the type, under a name that the other understands."""
    if dtype == "int64" and "jax" in (producer, consumer):
        return False  # jax makes 32 bits of it unless it is told not to
    if dtype in OF_CUPY:
        return way == "borders" or not (dtype == "bool" and producer == "jax")
    if "cupy" in (producer, consumer):
        return way == "DLPack" and dtype == "bfloat16" and (producer, consumer) == ("torch", "cupy")
    return way == "borders" or dtype == "bfloat16"


if __name__ == "__main__":
    run(dlpack)
