"""What a processor offers and Python does not: a memory fence, and the number of the CPU that runs this thread.

And what the system tells of processors: which of them are one core's.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any


def make_fence() -> AbstractContextManager[Any]:
    """Something to pass through, by ``with fence: pass``, that is a full memory fence: no load after it is
    satisfied before the stores ahead of it.

    CPython offers no fence, but an uncontended lock is taken by an atomic read-modify-write. On x86-64 that is a
    locked instruction, hence a full fence; stores and loads are otherwise in order there, but for a store
    followed by a load. Elsewhere a lock only acquires and releases, so it is cycled twice: what came before the
    first release cannot pass the second acquire. Each user has a lock of its own, so that it never contends.
    """
    return Lock() if platform.machine() in ("x86_64", "AMD64") else _Twice()


class _Twice:
    """A lock that is cycled twice."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __enter__(self) -> None:
        with self._lock:
            pass

    def __exit__(self, *_: object) -> None:
        with self._lock:
            pass


def _find_cpu() -> Callable[[], int]:
    if sys.platform == "linux":
        # Without letting go of the GIL, which would cost more than the call.
        get_cpu: Callable[[], int] = ctypes.PyDLL(None).sched_getcpu
        if get_cpu() >= 0:  # a sandbox may refuse to tell
            return get_cpu
    return lambda: 0


current_cpu = _find_cpu()
"""The number of the CPU that runs this thread, as far as that lasts."""


def core_of(cpu: int) -> str:
    """The core that a CPU belongs to, in the system's words; each its own where that is not told."""
    with suppress(OSError):
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    return str(cpu)


@contextmanager
def kept_on(choose: Callable[[set[int]], int] | None) -> Iterator[None]:
    """Keep the calling thread, and no other, on one of the CPUs that it may use; as before afterwards.

    Where the system refuses, the thread stays as free as it was: this is only for speed.

    Args:
        choose: of the CPUs that it may use; None leaves it alone.
    """
    if choose is None:
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, {choose(before)})
    try:
        yield
    finally:
        with suppress(OSError):  # those CPUs have been taken away
            os.sched_setaffinity(0, before)
