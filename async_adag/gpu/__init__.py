"""How tensors move between GPUs: the device, streams and events, CUDA IPC, NCCL.

Everything here speaks to an `interface.Device`; `cuda` is the real one, through cupy, and `simulated`
runs the same code without a GPU and finds the races in it. Nothing here is loaded unless a plan has a GPU edge.

    await async_adag.gpu.completed()

returns when the work issued so far is done on the device, without blocking the event loop.
"""

from async_adag.gpu.awaiting import completed
from async_adag.gpu.interface import DeviceError

__all__ = ["DeviceError", "completed"]
