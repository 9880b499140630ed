"""All workloads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.arrays import Arrays, Broadcast, Collective
from benchmarks.deaths import Deaths
from benchmarks.graphs import CHAIN, FAN_OUT, ONE, Readers
from benchmarks.hosts import TwoHosts
from benchmarks.lifetime import Compile, Idle
from benchmarks.peers import peers
from benchmarks.pinning import two_cores
from benchmarks.placing import Placed
from benchmarks.round_trips import Awaited, Blocking, Pinned
from benchmarks.scaling import Alive, Hops, Windows
from benchmarks.workloads import Populous, Workload

FEW = 8  # actors that are always there
PER_ACTOR = 200e6  # bytes of memory that one may need: its own pages, and what it makes Ray's daemons keep


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        thorough: whether also what takes long, or gigabytes.
        actors: that one workload may have at most.
        deaths: whether actors die. Ray has a word to say about each of them.
    """

    thorough: bool
    actors: int
    deaths: bool


def all_workloads(extent: Extent) -> list[Workload]:
    """Everything that can be measured on this machine, in the order of the table."""
    thorough = extent.thorough
    workloads: list[Workload] = [
        Awaited(ONE, crowded=True),
        Awaited(CHAIN, crowded=True),
        Awaited(FAN_OUT),
        *(Blocking(shape) for shape in (ONE, CHAIN, FAN_OUT)),
        *_pinned(),
        *(Placed(shape) for shape in ((ONE, CHAIN, FAN_OUT) if thorough else (CHAIN,))),
        *peers(),
        *(Arrays(kilobytes) for kilobytes in (1, 100, 1000, 16_000, *([256_000] if thorough else []))),
        *(Broadcast(kilobytes, Readers(4)) for kilobytes in (1, 16_000)),
        *(Collective(kilobytes) for kilobytes in (1, 1000, 16_000)),
        TwoHosts(),
        Windows(ONE, (1, 2, 8, 32, 100, 1000) if thorough else (1, 8, 100)),
        *([Windows(CHAIN, (1, 2, 8, 32, 100, 1000))] if thorough else []),
        *(Hops(actors) for actors in ((1, 2, 4, 8, 16, 64) if thorough else (1, 8))),
        *(Alive(graphs) for graphs in ((1, 10, 100) if thorough else (1, 10))),
        *(Compile(actors) for actors in (8, 32)),
        Idle(),
        *(Deaths(megabytes) for megabytes in (0, 1024) if extent.deaths),
    ]
    return [workload for workload in workloads if actors_of(workload) <= extent.actors]


def actors_of(workload: Workload) -> int:
    """How many actors have to be there."""
    return max(FEW, workload.actors) if isinstance(workload, Populous) else FEW


def actors_that_fit(wanted: int) -> int:
    """As many as are wanted, or as this machine has memory for."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return max(FEW, min(wanted, int(int(rest.split()[0]) * 1024 / PER_ACTOR)))
    return wanted


def _pinned() -> list[Workload]:
    cores = two_cores()
    if cores is None:
        return []
    first, second = cores
    # The one that has to be known best takes the most time, and the most turns.
    shapes = ((ONE, 1.0, 10), (CHAIN, 0.5, 4), (FAN_OUT, 0.5, 4))
    return [Pinned(first, cpu, *shape) for shape in shapes for cpu in (second, first)]
