"""How tensors move between GPUs: the device, streams and events, CUDA IPC, NCCL.

Everything here speaks to an `interface.Device`; `cuda` is the real one, through cupy, and `simulated`
runs the same code without a GPU and finds the races in it. Nothing here is loaded unless a plan has a GPU edge.

    await async_adag.gpu.completed()

returns when the work issued so far is done on the device, without blocking the event loop.

    cupy.cuda.set_allocator(async_adag.gpu.exportable_allocator())

in an actor has its large arrays handed over where they are (`pool.exportable_allocator` says on what condition).
"""

from async_adag.gpu.awaiting import completed
from async_adag.gpu.interface import DeviceError
from async_adag.gpu.pool import exportable_allocator

__all__ = ["DeviceError", "completed", "exportable_allocator"]
