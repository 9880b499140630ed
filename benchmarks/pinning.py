"""Threads of this process and of actors, tied to a core."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


def two_cores() -> tuple[int, int] | None:
    """Two CPUs that we may use, on different cores where the machine has them; None if there is but one."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return None
    first = cpus[0]
    elsewhere = [cpu for cpu in cpus[1:] if _core(cpu) != _core(first)]
    return first, (elsewhere or cpus[1:])[0]


def _core(cpu: int) -> str:
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    with suppress(OSError):
        return siblings.read_text().strip()
    return str(cpu)


@contextmanager
def pinned(cpu_of: Mapping[int, int]) -> Iterator[None]:
    """Every thread of each process in `cpu_of` (pid to CPU) runs on that CPU only, until the block ends."""
    before = {pid: os.sched_getaffinity(pid) for pid in cpu_of}
    for pid, cpu in cpu_of.items():
        _set_affinity(pid, {cpu})
    try:
        yield
    finally:
        for pid, cpus in before.items():
            _set_affinity(pid, cpus)


def _set_affinity(pid: int, cpus: set[int]) -> None:
    with suppress(FileNotFoundError):  # the process has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):  # only this thread has
                os.sched_setaffinity(int(thread), cpus)
