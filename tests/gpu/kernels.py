"""Kernels that the steps issue: patterns and their check, work that takes a known time, and the device's clock."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

SOURCE = r"""
typedef unsigned char byte;
typedef unsigned int word;
typedef unsigned long long wide;

__device__ __forceinline__ wide clock_ns() {
    wide now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}

// Word number i of message number n: no two messages, and no two places, are alike by any simple rule.
__device__ __forceinline__ word expected(word n, wide i) {
    word x = (word)i * 2654435761u + n * 2246822519u + 374761393u;
    x ^= x >> 15;
    x *= 2246822519u;
    return x ^ (x >> 13);
}

__device__ __forceinline__ byte expected_byte(word n, wide i) {
    return (byte)(expected(n, i / 4) >> (8 * (i % 4)));
}

extern "C" __global__ void fill(byte* to, wide nbytes, word n) {
    const wide first = blockIdx.x * (wide)blockDim.x + threadIdx.x, step = (wide)gridDim.x * blockDim.x;
    const wide words = (wide)to % 4 ? 0 : nbytes / 4;
    for (wide i = first; i < words; i += step) ((word*)to)[i] = expected(n, i);
    for (wide i = words * 4 + first; i < nbytes; i += step) to[i] = expected_byte(n, i);
}

// Adds to wrong[0] as many as there are words (or single bytes, at the end) that are not message n's.
extern "C" __global__ void check(const volatile byte* at, wide nbytes, word n, wide* wrong) {
    const wide first = blockIdx.x * (wide)blockDim.x + threadIdx.x, step = (wide)gridDim.x * blockDim.x;
    const wide words = (wide)at % 4 ? 0 : nbytes / 4;
    wide bad = 0;
    for (wide i = first; i < words; i += step) bad += ((const volatile word*)at)[i] != expected(n, i);
    for (wide i = words * 4 + first; i < nbytes; i += step) bad += at[i] != expected_byte(n, i);
    if (bad) atomicAdd(wrong, bad);
}

// Takes at least so long.
extern "C" __global__ void spin(wide ns) {
    const wide begin = clock_ns();
    while (clock_ns() - begin < ns) { }
}

// Keeps multiprocessors busy: arithmetic only. It writes nothing, which the compiler must not know.
extern "C" __global__ void work(wide rounds, float* never) {
    float x = threadIdx.x, y = 0.5f;
    for (wide i = 0; i < rounds; i++) {
        x = x * 0.999f + y;
        y = y * 1.001f - x;
    }
    if (x == 12345.678f && y == 87654.321f) *never = x;
}

// Takes at least so long, then writes down when it ended, where the host sees it.
extern "C" __global__ void spin_and_stamp(wide ns, volatile wide* stamp) {
    const wide begin = clock_ns();
    while (clock_ns() - begin < ns) { }
    *stamp = clock_ns();
    __threadfence_system();
}

// For each k from 1 on: waits until the host has written k, writes down when that was. Gives up after limit_ns.
extern "C" __global__ void answer(volatile wide* asked, volatile wide* stamps, wide rounds, wide limit_ns) {
    const wide begin = clock_ns();
    for (wide k = 1; k <= rounds; k++) {
        while (*asked < k) {
            if (clock_ns() - begin > limit_ns) return;
        }
        stamps[k - 1] = clock_ns();
        __threadfence_system();
    }
}
"""

THREADS = 256
BLOCKS = 528  # four for each multiprocessor of an H100


class Kernels:
    """The kernels, compiled, for one process."""

    def __init__(self) -> None:
        module = cupy.RawModule(code=SOURCE)
        self._fill = module.get_function("fill")
        self._check = module.get_function("check")
        self._spin = module.get_function("spin")
        self._work = module.get_function("work")
        self._spin_and_stamp = module.get_function("spin_and_stamp")
        self._answer = module.get_function("answer")

    def fill(self, stream: Any, address: int, nbytes: int, message: int) -> None:
        """Write the bytes of message number ``message``."""
        with stream:
            self._fill(*_shape(nbytes), (np.uint64(address), np.uint64(nbytes), np.uint32(message)))

    def check(self, stream: Any, address: int, nbytes: int, message: int, wrong: int) -> None:
        """Add the number of words that are not those of that message to the counter at ``wrong``."""
        with stream:
            self._check(
                *_shape(nbytes), (np.uint64(address), np.uint64(nbytes), np.uint32(message), np.uint64(wrong))
            )

    def spin(self, stream: Any, seconds: float) -> None:
        """Keep one multiprocessor busy for so long."""
        with stream:
            self._spin((1,), (1,), (np.uint64(seconds * 1e9),))

    def work(self, stream: Any, rounds: int, blocks: int) -> None:
        """Keep multiprocessors busy for a time that is proportional to ``rounds``; all, with `BLOCKS` blocks."""
        with stream:
            self._work((blocks,), (THREADS,), (np.uint64(rounds), np.uint64(0)))

    def spin_and_stamp(self, stream: Any, seconds: float, stamp: int) -> None:
        """Do that, and write the device's time, in ns, to host memory at ``stamp``."""
        with stream:
            self._spin_and_stamp((1,), (1,), (np.uint64(seconds * 1e9), np.uint64(stamp)))

    def answer(self, stream: Any, asked: int, stamps: int, rounds: int, limit: float) -> None:
        with stream:
            self._answer(
                (1,), (1,), (np.uint64(asked), np.uint64(stamps), np.uint64(rounds), np.uint64(limit * 1e9))
            )


class Pinned:
    """Words of host memory that the device reads and writes.

    Attributes:
        words: them, as a numpy array of uint64.
        address: where they are, for the device too.
    """

    def __init__(self, count: int) -> None:
        self._memory = cupy.cuda.alloc_pinned_memory(count * 8)
        self.words = np.frombuffer(self._memory, np.uint64, count)
        self.words[:] = 0
        self.address = int(self._memory.ptr)

    def at(self, number: int) -> int:
        return self.address + 8 * number


class Counters:
    """Counters of the device, 0 at first."""

    def __init__(self, count: int) -> None:
        self._array = cupy.zeros(count, cupy.uint64)
        cupy.cuda.get_current_stream().synchronize()

    def at(self, number: int) -> int:
        return int(self._array.data.ptr) + 8 * number

    def read(self) -> Any:
        """All of them, once the device has done all that was issued."""
        cupy.cuda.runtime.deviceSynchronize()
        return self._array.get()


def _shape(nbytes: int) -> tuple[tuple[int], tuple[int]]:
    return (max(1, min(BLOCKS, nbytes // 4 // THREADS)),), (THREADS,)
