"""Memory as libraries' caching allocators hand it out on the simulated device."""

from __future__ import annotations

from async_adag.gpu.interface import DeviceError, Span, Stream
from async_adag.gpu.simulated_device import SimulatedDevice
from async_adag.gpu.simulated_memory import ALIGNMENT


class Block:
    """Memory of a pool, which has it back when this is closed or no longer referred to.

    Attributes:
        span: where it is.
    """

    def __init__(self, pool: SimulatedPool, span: Span, key: tuple[int, int]) -> None:
        self.span = span
        self._pool = pool
        self._key = key
        self._closed = False

    def close(self) -> None:
        """Give it back. Again is harmless."""
        if not self._closed:
            self._closed = True
            self._pool.give(self._key, self.span.address)

    def __del__(self) -> None:
        self.close()


class SimulatedPool:
    """A caching allocator.

    What is given back is the first to be handed out again, for the stream for which it was made, and without
    asking the device: that is in order with all work of that stream, and with no other.
    """

    def __init__(self, device: SimulatedDevice, nbytes: int, *, exportable: bool = True) -> None:
        """A pool of so many bytes, all in one allocation, which other processes may open if it is exportable."""
        self._memory = device.allocate(nbytes) if exportable else device.allocate_private(nbytes)
        self._used = 0
        self._free: dict[tuple[int, int], list[int]] = {}

    def take(self, nbytes: int, stream: Stream) -> Block:
        """Memory to be used on that stream.

        Raises:
            DeviceError: there is not as much.
        """
        length = -(-nbytes // ALIGNMENT) * ALIGNMENT
        key = (stream.handle, length)
        if self._free.get(key):
            return Block(self, Span(self._free[key].pop(), nbytes), key)
        if self._used + length > self._memory.span.nbytes:
            raise DeviceError(f"out of memory: {nbytes} bytes of a pool that has used {self._used}")
        address = self._memory.span.address + self._used
        self._used += length
        return Block(self, Span(address, nbytes), key)

    def give(self, key: tuple[int, int], address: int) -> None:
        """Have it back; see `Block.close`."""
        self._free.setdefault(key, []).append(address)

    def close(self) -> None:
        """Give the pool's memory back to the device. Again is harmless."""
        self._memory.close()
