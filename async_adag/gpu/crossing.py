"""Arrays on their way into an operation on the device, and out of it, wherever they are.

What is on the device is used there, in the order of its library's current stream. What is in the host's memory is
copied to the device and back, and waited for, as nobody could tell else when it is there.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from async_adag.gpu.arrays import current_stream, expose, library_of, span_of, wrap
from async_adag.gpu.buffers import Events
from async_adag.gpu.cuda import CudaDevice, find_device
from async_adag.gpu.held import Held
from async_adag.gpu.interface import DeviceError, Span, Stream
from async_adag.gpu.jax_arrays import is_jax

PATIENCE = 1.0
"""How long `close` waits for the device, in seconds."""

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2


class Operation:
    """An operation that is being issued.

    Attributes:
        source: what it reads.
        into: what it fills.
        stream: where it is to be issued.
        result: the array that it has filled, once the context of this has been left.
    """

    __slots__ = ("into", "result", "source", "stream")

    def __init__(self, source: Span, into: Span, stream: Stream, result: Any = None) -> None:
        self.source = source
        self.into = into
        self.stream = stream
        self.result = result


class Crossing(Protocol):
    """Where operations find the elements of arrays."""

    def enter(self) -> None:
        """The first call of every thread that makes any."""

    def across(self, value: Any, shape: tuple[int, ...]) -> AbstractContextManager[Operation]:
        """A context in which an operation on ``value`` is issued, whose result is like it, of that shape.

        The result is complete for whoever uses it afterwards in the order of its library's current stream.
        """

    def close(self) -> None:
        """Let go of everything. Again is harmless."""


class _Room:
    """Memory for a result of jax: a `transfer.Arrived`."""

    __slots__ = ("_memory", "span")

    def __init__(self, memory: Any, nbytes: int) -> None:
        self._memory = memory
        self.span = Span(memory.ptr, nbytes)


class CudaCrossing:
    """`Crossing` of a CUDA device. For one thread, but for `close`."""

    def __init__(self, device: CudaDevice) -> None:
        import cupy

        self._device = device
        self._events = Events(device)
        self._held = Held(self._events)
        self._lock = threading.Lock()  # `close` comes from another thread
        self._copies = cupy.cuda.Stream(non_blocking=True)
        self._threads = threading.local()

    def enter(self) -> None:
        """See `Crossing.enter`."""
        if not hasattr(self._threads, "entered"):
            self._threads.entered = True
            self._device.enter()

    @contextmanager
    def across(self, value: Any, shape: tuple[int, ...]) -> Iterator[Operation]:
        """See `Crossing.across`.

        Raises:
            DeviceError: the device has failed, or ``value`` is on another one.
        """
        library = library_of(value)
        if not library:
            with self._copied(contiguous(value), empty_like(value, shape)) as operation:
                yield operation
            if is_jax(value):
                jax: Any = sys.modules["jax"]
                operation.result = jax.device_put(operation.result, *value.devices())
            return
        ordinal = _ordinal(library, value)
        if ordinal != self._device.ordinal:
            raise DeviceError(
                f"the contribution is on device {ordinal}, and the actor's operations are on device "
                f"{self._device.ordinal}: move it there, or show the actor that GPU alone (CUDA_VISIBLE_DEVICES)"
            )
        stream = self._device.adopt(current_stream(library, ordinal))
        if library == "jax":
            with self._of_jax(value, shape, stream) as operation:
                yield operation
            return
        whole, result = contiguous(value), empty_like(value, shape)
        try:
            yield Operation(span_of(whole), span_of(result), stream, result)
        finally:
            self._hold(stream, (value, whole, result))

    @contextmanager
    def _of_jax(self, value: Any, shape: tuple[int, ...], stream: Stream) -> Iterator[Operation]:
        """Arrays of jax are never written: the result is made of memory that is filled first."""
        import cupy

        source, owner = expose(value, stream.handle)
        nbytes = math.prod(shape) * value.dtype.itemsize
        room = _Room(cupy.cuda.alloc(nbytes), nbytes)
        operation = Operation(source, room.span, stream)
        try:
            yield operation
        finally:
            self._hold(stream, (owner, room))
        operation.result = wrap(room, "jax", str(value.dtype), shape, self._device.ordinal)

    def _hold(self, stream: Stream, owners: tuple[Any, ...]) -> None:
        """Hold what was used, which may come from memory that other streams use as soon as it is free."""
        event = self._events.take()
        stream.record(event)
        with self._lock:
            self._held.add([event], owners)
            self._held.release()

    @contextmanager
    def _copied(self, value: Any, result: Any) -> Iterator[Operation]:
        import cupy

        runtime, stream = self._device.runtime, self._copies
        (start, length), (end, room) = _in_host(value), _in_host(result)
        with stream:  # so that cupy's pool takes memory that this stream has used before, if any
            source, into = cupy.cuda.alloc(length), cupy.cuda.alloc(room)
            try:
                if length:
                    runtime.memcpyAsync(source.ptr, start, length, _HOST_TO_DEVICE, stream.ptr)
                to = self._device.adopt(stream.ptr)
                yield Operation(Span(source.ptr, length), Span(into.ptr, room), to, result)
                if room:
                    runtime.memcpyAsync(end, into.ptr, room, _DEVICE_TO_HOST, stream.ptr)
            finally:
                stream.synchronize()

    def close(self) -> None:
        """See `Crossing.close`; what the device is not done with within `PATIENCE` stays until this goes."""
        with self._lock:
            if self._held.close(PATIENCE):
                self._events.close()


def cuda_crossing() -> Crossing:
    """Those of this thread's current device.

    Raises:
        DeviceError: there is none that can be used.
    """
    return CudaCrossing(find_device())


def contiguous(value: Any) -> Any:
    """The same elements in C order: the array itself, if they are. One of jax, in the CPU's memory, as numpy's."""
    library = _library(value)
    if library.__name__ == "torch":
        return value.detach().resolve_conj().resolve_neg().contiguous()
    return library.ascontiguousarray(value)


def empty_like(value: Any, shape: tuple[int, ...]) -> Any:
    """An array of a shape, of the same type and library, and where ``value`` is. In place of jax's, of numpy's."""
    library = _library(value)
    if library.__name__ == "torch":
        return library.empty(shape, dtype=value.dtype, device=value.device)
    return library.empty(shape, dtype=value.dtype)


def _library(value: Any) -> Any:
    return sys.modules["numpy" if is_jax(value) else type(value).__module__.partition(".")[0]]


def _ordinal(library: str, value: Any) -> int:
    """Which of the devices that this process sees an array is on."""
    if library == "jax":
        (device,) = value.devices()
        return int(device.local_hardware_id)
    return int(value.device.index if library == "torch" else value.device.id)


def _in_host(array: Any) -> tuple[int, int]:
    """Where a contiguous array of numpy, or a tensor of torch's in the host's memory, begins; and its bytes."""
    if hasattr(array, "data_ptr"):
        return array.data_ptr(), array.numel() * array.element_size()
    return array.ctypes.data, array.nbytes
