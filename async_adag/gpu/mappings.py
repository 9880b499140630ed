"""Other processes' memory, as this process has it open: once, however many edges use it."""

from __future__ import annotations

import threading

from async_adag.gpu.interface import Device, Mapping


class Mappings:
    """What is open of other processes on one device, by handle. Edges that may bring the same memory share one.

    May be used by several threads, and by the garbage collector in the midst of anything.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._open: dict[bytes, tuple[Mapping, int]] = {}
        # A finalizer may interrupt its own thread in here; whatever that one is about is held, and does not end.
        self._lock = threading.RLock()

    def open(self, handle: bytes) -> Mapping:
        """What the handle stands for; `release` it once for each call.

        Raises:
            DeviceError: it cannot be opened.
        """
        with self._lock:
            if handle in self._open:
                mapping, users = self._open[handle]
                self._open[handle] = mapping, users + 1
            else:
                mapping = self._device.open(handle)
                self._open[handle] = mapping, 1
            return mapping

    def release(self, handle: bytes) -> None:
        """One user less, whose work on it has been done; the last one unmaps it."""
        with self._lock:
            mapping, users = self._open.pop(handle)
            if users > 1:
                self._open[handle] = mapping, users - 1
            else:
                mapping.close()
