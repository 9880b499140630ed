"""The library's device, and cupy's names for its streams: what most steps begin with."""

from __future__ import annotations

from typing import Any

import cupy

from async_adag.gpu.cuda import CudaDevice, find_device


def our_device() -> CudaDevice:
    """The device, current in this thread; its context is made."""
    device = find_device()
    device.enter()
    cupy.cuda.runtime.free(0)
    return device


class _Handle:
    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def in_cupy(stream: Any) -> Any:
    """A stream of the device's as cupy's, for kernels; the stream must outlive it."""
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Handle(stream.handle))
    return cupy.cuda.ExternalStream(stream.handle)


def settle() -> None:
    """Wait until the device has done all that this process has issued."""
    cupy.cuda.runtime.deviceSynchronize()


def free_memory() -> int:
    """The bytes of the device that nobody has."""
    return int(cupy.cuda.runtime.memGetInfo()[0])
