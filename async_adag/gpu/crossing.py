"""Arrays on their way into an operation on the device, and out of it, wherever they are.

What is on the device is used there, in the order of its library's current stream. What is in the host's memory is
copied to the device and back, and waited for, as nobody could tell else when it is there.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from async_adag.gpu.arrays import current_stream, library_of, span_of
from async_adag.gpu.buffers import Events
from async_adag.gpu.cuda import CudaDevice, find_device
from async_adag.gpu.held import Held
from async_adag.gpu.interface import DeviceError, Span, Stream

PATIENCE = 1.0
"""How long `close` waits for the device, in seconds."""

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2


class Crossing(Protocol):
    """Where operations find the elements of arrays."""

    def enter(self) -> None:
        """The first call of every thread that makes any."""

    def across(self, value: Any, result: Any) -> Any:
        """A context in which an operation from ``value`` into ``result`` is issued: two spans, and the stream.

        Args:
            value: an array, which the operation reads.
            result: a contiguous one on the same side, which it fills; complete for whoever uses it afterwards in
                the order of its library's current stream.
        """

    def close(self) -> None:
        """Let go of everything. Again is harmless."""


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
    def across(self, value: Any, result: Any) -> Iterator[tuple[Span, Span, Stream]]:
        """See `Crossing.across`.

        Raises:
            DeviceError: the device has failed, or ``value`` is on another one.
        """
        whole = contiguous(value)
        library = library_of(value)
        if not library:
            with self._copied(whole, result) as spans:
                yield spans
            return
        ordinal = value.device.index if library == "torch" else value.device.id
        if ordinal != self._device.ordinal:
            raise DeviceError(
                f"the contribution is on device {ordinal}, and the actor's operations are on device "
                f"{self._device.ordinal}: move it there, or show the actor that GPU alone (CUDA_VISIBLE_DEVICES)"
            )
        stream = self._device.adopt(current_stream(library, ordinal))
        try:
            yield span_of(whole), span_of(result), stream
        finally:
            self._hold(stream, (value, whole, result))

    def _hold(self, stream: Stream, owners: tuple[Any, ...]) -> None:
        """Hold what was used, which may come from memory that other streams use as soon as it is free."""
        event = self._events.take()
        stream.record(event)
        with self._lock:
            self._held.add([event], owners)
            self._held.release()

    @contextmanager
    def _copied(self, value: Any, result: Any) -> Iterator[tuple[Span, Span, Stream]]:
        import cupy

        runtime, stream = self._device.runtime, self._copies
        (start, length), (end, room) = _in_host(value), _in_host(result)
        with stream:  # so that cupy's pool takes memory that this stream has used before, if any
            source, into = cupy.cuda.alloc(length), cupy.cuda.alloc(room)
            try:
                if length:
                    runtime.memcpyAsync(source.ptr, start, length, _HOST_TO_DEVICE, stream.ptr)
                yield Span(source.ptr, length), Span(into.ptr, room), self._device.adopt(stream.ptr)
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
    """The same elements in C order: the array itself, if they are."""
    library: Any = sys.modules[type(value).__module__.partition(".")[0]]
    if library.__name__ == "torch":
        return value.detach().resolve_conj().resolve_neg().contiguous()
    return library.ascontiguousarray(value)


def _in_host(array: Any) -> tuple[int, int]:
    """Where a contiguous array of numpy, or a tensor of torch's in the host's memory, begins; and its bytes."""
    if hasattr(array, "data_ptr"):
        return array.data_ptr(), array.numel() * array.element_size()
    return array.ctypes.data, array.nbytes
