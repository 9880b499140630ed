"""All workloads."""

from __future__ import annotations

from benchmarks.deaths import Deaths
from benchmarks.graphs import CHAIN, FAN_OUT, ONE
from benchmarks.pinning import two_cores
from benchmarks.workloads import Arrays, Awaited, Blocking, Collective, Compile, Idle, Pinned, Workload


def all_workloads(*, deaths: bool) -> list[Workload]:
    """Everything that can be measured on this machine, in the order of the table.

    Actors that die only where that is asked for: Ray has a word to say about each of them.
    """
    workloads: list[Workload] = [
        Awaited(ONE, crowded=True),
        Awaited(CHAIN, crowded=True),
        Awaited(FAN_OUT),
        *(Blocking(shape) for shape in (ONE, CHAIN, FAN_OUT)),
        *(Arrays(megabytes) for megabytes in (1, 16)),
        *(Collective(kilobytes) for kilobytes in (1, 1000, 16_000)),
        Compile(),
        Idle(),
        *(Deaths(megabytes) for megabytes in (0, 1024) if deaths),
    ]
    cores = two_cores()
    if cores is not None:
        first, second = cores
        workloads += [Pinned(first, second), Pinned(first, first)]
    return workloads
