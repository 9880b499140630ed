"""An allocator for cupy whose arrays other processes can open, so that they need not be copied to be handed over.

cupy cuts its arrays out of what a base allocator gives it. Here that is memory of ours, which is written down: so
an array is told by its address to lie in it, at some offset, and its allocation is opened by each reader once.
"""

from __future__ import annotations

import bisect
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from async_adag.gpu.cuda import find_device
from async_adag.gpu.interface import Device, DeviceError, Memory, Span

if TYPE_CHECKING:
    from async_adag.gpu.cuda import CudaDevice

SMALL = 1 << 20
"""What is smaller, in bytes, is not made exportable: blocks are of 2 MiB, and copying it costs microseconds."""


class Allocations:
    """Memory by its addresses. What another process may have open is not freed before `close`.

    May be used by several threads, and `drop` also by the garbage collector.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._numbered: dict[int, Memory] = {}
        self._bases: list[tuple[int, int]] = []  # address and number of each, in the order of the addresses
        self._next = 0
        self._exported: set[int] = set()
        self._dropped: deque[int] = deque()
        self._unused: set[int] = set()
        self._closed = False

    def add(self, nbytes: int) -> tuple[int, Span]:
        """Allocate; returns the number of the allocation, and where it is.

        Raises:
            DeviceError: there is not as much memory.
        """
        with self._lock:
            self._clear()
            memory = self._device.allocate(nbytes)
            number = self._next
            self._next += 1
            self._numbered[number] = memory
            bisect.insort(self._bases, (memory.span.address, number))
            return number, memory.span

    def drop(self, number: int) -> None:
        """Nobody here uses this allocation any more; it is freed by the next call, or now if this is closed."""
        self._dropped.append(number)
        if self._closed and self._lock.acquire(blocking=False):
            try:
                self._clear()
            finally:
                self._lock.release()

    def find(self, span: Span) -> tuple[int, int] | None:
        """The number of the allocation in which ``span`` lies whole, and its offset there in bytes; or None.

        From now on this allocation counts as open elsewhere.
        """
        with self._lock:
            self._clear()
            at = bisect.bisect_right(self._bases, (span.address, self._next)) - 1
            if at < 0 or self._closed:
                return None
            base, number = self._bases[at]
            offset = span.address - base
            if offset + span.nbytes > self._numbered[number].span.nbytes:
                return None
            self._exported.add(number)
            return number, offset

    def memory(self, number: int) -> Memory:
        """An allocation that `find` has told of."""
        with self._lock:
            return self._numbered[number]

    def close(self) -> None:
        """No other process has any of it open: free what nobody uses here; the rest goes as it is dropped."""
        with self._lock:
            self._closed = True
            self._clear()

    def __len__(self) -> int:
        with self._lock:
            self._clear()
            return len(self._numbered)

    def _clear(self) -> None:
        """Free what was dropped; with the lock held."""
        while self._dropped:
            self._unused.add(self._dropped.popleft())
        for number in [number for number in self._unused if self._closed or number not in self._exported]:
            self._unused.discard(number)
            self._exported.discard(number)
            memory = self._numbered.pop(number)
            self._bases.remove((memory.span.address, number))
            memory.close()


class ExportablePool:
    """A memory pool of cupy's over `Allocations`.

    Attributes:
        allocations: what its arrays lie in; ``allocations.find`` is what a sender asks.
        device: where they are.
    """

    def __init__(self, device: CudaDevice) -> None:
        import cupy

        self.allocations = Allocations(device)
        self.device = device
        self._cuda: Any = cupy.cuda
        self._ordinal = device.ordinal
        self._pool: Any = cupy.cuda.MemoryPool(self._allocate)

    def malloc(self, nbytes: int) -> Any:
        """Memory as cupy's allocators give it."""
        return self._pool.malloc(nbytes)

    @contextmanager
    def using(self) -> Iterator[None]:
        """What this thread allocates through cupy meanwhile comes from here."""
        with self._cuda.using_allocator(self._pool.malloc):
            yield

    def close(self) -> None:
        """No reader has any of it open: give back what no array lies in; the rest goes with its arrays."""
        self._pool.free_all_blocks()
        self.allocations.close()

    def _allocate(self, nbytes: int) -> Any:
        if nbytes < SMALL:
            return self._cuda.MemoryPointer(self._cuda.Memory(nbytes), 0)
        try:
            number, span = self.allocations.add(nbytes)
        except DeviceError as error:
            # As cupy's own error, it makes cupy free what it can, and try again.
            raise (error.__cause__ or error) from None
        kept = _Kept()
        weakref.finalize(kept, self.allocations.drop, number).atexit = False
        return self._cuda.MemoryPointer(self._cuda.UnownedMemory(span.address, nbytes, kept, self._ordinal), 0)


_pools: dict[int, ExportablePool] = {}


def exportable_allocator() -> Callable[[int], Any]:
    """An allocator for cupy, by which large arrays that a method returns are handed over without a copy.

    For ``cupy.cuda.set_allocator`` in an actor's ``__init__``, before graphs are compiled: it has to be there when
    an edge is made. Readers on the same GPU then use arrays of at least 1 MiB where their writer has made them. So
    an array, once it was returned, must not be written again: nothing orders that after the reads of others, who
    would find it changed. What has been handed over is given back to the device when this process ends.

    Returns:
        Takes a number of bytes; the same one each time, for the current device of this thread.

    Raises:
        DeviceError: there is no device that can be used; says what is missing.
    """
    device = find_device()
    if device.ordinal not in _pools:
        _pools[device.ordinal] = ExportablePool(device)
    return _pools[device.ordinal].malloc


def exportable_allocations(device: Device) -> Allocations | None:
    """What `exportable_allocator` has made arrays of on a device; None if nobody has asked for it."""
    return next((pool.allocations for pool in _pools.values() if pool.device is device), None)


class _Kept:
    """Lives as long as cupy has arrays in an allocation."""

    __slots__ = ("__weakref__",)
