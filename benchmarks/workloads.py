"""What is measured on a graph, and the rows of the table that come of it."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np

from benchmarks.backends import MAX_INFLIGHT, AdagBackend, Backend, Graph
from benchmarks.floor import Floor
from benchmarks.graphs import ALLREDUCE, CHAIN, LONG, ONE, Allreduce, Shape, Stages
from benchmarks.idle import cpu_seconds
from benchmarks.measure import async_times, blocking_times, percentile, throughput
from benchmarks.pinning import pinned

IN_FLIGHT = 8
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Row:
    """One line of the table. `unit` is "s", "/s" (more is better) or "%" of a core."""

    section: str
    label: str
    unit: str


Figures = dict[Row, float]


@dataclass(frozen=True)
class Site:
    """Where and how long to measure: live actors with their pids, the event loop, seconds per measurement."""

    actors: list[Any]
    pids: list[int]
    new_loop: Callable[[], asyncio.AbstractEventLoop]
    seconds: float
    idle_seconds: float

    def run(self, work: Coroutine[Any, Any, Figures]) -> Figures:
        """Runs `work` in a fresh event loop."""
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            return runner.run(work)

    @contextmanager
    def graph(
        self,
        backend: Backend,
        shape: Shape,
        *,
        asynchronous: bool,
        max_inflight: int = MAX_INFLIGHT,
        buffer_size: int | None = None,
    ) -> Iterator[Graph]:
        """A compiled graph that is gone at the end of the block: a Ray graph that idles burns a core."""
        gc.collect()  # what the last graph left behind goes now, and not while the clock runs
        graph = backend.compile(
            shape.build(self.actors),
            asynchronous=asynchronous,
            max_inflight=max_inflight,
            buffer_size=buffer_size,
        )
        try:
            yield graph
        finally:
            graph.close()


class Workload(Protocol):
    """Gives the figures of its rows for a backend; a row that makes no sense there may be missing."""

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> list[Row]: ...

    def measure(self, backend: Backend, site: Site) -> Figures: ...


@runtime_checkable
class Floored(Workload, Protocol):
    """A workload that C processes can do as well."""

    def floor(self, floor: Floor, site: Site) -> Figures: ...


@runtime_checkable
class Sliced(Workload, Protocol):
    """A workload whose ratio to the floor counts, so that both take short turns, `slices` of them in a round."""

    @property
    def slices(self) -> int: ...


@dataclass(frozen=True)
class Awaited:
    """Round trips in an event loop, one after the other; then (`crowded`) many in flight."""

    shape: Stages
    crowded: bool = False

    @property
    def name(self) -> str:
        return f"awaited, {self.shape.name}"

    @property
    def round_trip(self) -> list[Row]:
        return [Row("Round trip, awaited", f"{self.shape.name}, {which}", "s") for which in ("p50", "p99")]

    @property
    def many(self) -> Row:
        return Row(f"Throughput, awaited, {IN_FLIGHT} in flight", self.shape.name, "/s")

    @property
    def rows(self) -> list[Row]:
        return [*self.round_trip, *([self.many] if self.crowded else [])]

    def measure(self, backend: Backend, site: Site) -> Figures:
        return site.run(self._measure(backend, site))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        with site.graph(backend, self.shape, asynchronous=True) as graph:
            assert await graph.call(7) == self.shape.expected(7)
            times = await async_times(graph.call, 1, site.seconds)
            figures = dict(zip(self.round_trip, _p50_and_p99(times), strict=True))
            if self.crowded:
                figures[self.many] = await throughput(graph.submit, 1, IN_FLIGHT, site.seconds)
        return figures

    def floor(self, floor: Floor, site: Site) -> Figures:
        return dict(zip(self.round_trip, floor.round_trip(self.shape, site.seconds), strict=True))


@dataclass(frozen=True)
class Blocking:
    """Round trips that block the calling thread, one after the other."""

    shape: Stages

    @property
    def name(self) -> str:
        return f"blocking, {self.shape.name}"

    @property
    def rows(self) -> list[Row]:
        return [Row("Round trip, blocking", f"{self.shape.name}, {which}", "s") for which in ("p50", "p99")]

    def measure(self, backend: Backend, site: Site) -> Figures:
        with site.graph(backend, self.shape, asynchronous=False) as graph:
            assert graph.call_blocking(7) == self.shape.expected(7)
            times = blocking_times(graph.call_blocking, 1, site.seconds)
        return dict(zip(self.rows, _p50_and_p99(times), strict=True))

    def floor(self, floor: Floor, site: Site) -> Figures:
        return dict(zip(self.rows, floor.round_trip(self.shape, site.seconds), strict=True))


@dataclass(frozen=True)
class Arrays:
    """A numpy array there and back through one actor, by both sides of the graph."""

    megabytes: int
    shape: Stages = ONE

    @property
    def name(self) -> str:
        return f"arrays, {self.megabytes} MB"

    @property
    def rows(self) -> list[Row]:
        sides = ("awaited", "blocking")
        return [Row("Array there and back, 1 actor, p50", f"{self.megabytes} MB, {side}", "s") for side in sides]

    @property
    def size(self) -> int:
        return self.megabytes * MEGABYTE

    def measure(self, backend: Backend, site: Site) -> Figures:
        awaited, blocking = self.rows
        array = np.arange(self.size // 8)
        # Buffers have the array's size from the start, so that nobody is measured while resizing them. There
        # are few of them, so that they fit into a small machine's shared memory.
        settings: dict[str, Any] = {"max_inflight": 2, "buffer_size": self.size + 65536}

        async def measure_awaited() -> Figures:
            with site.graph(backend, self.shape, asynchronous=True, **settings) as graph:
                assert np.array_equal(await graph.call(array), array)
                return {awaited: percentile(await async_times(graph.call, array, site.seconds), 50)}

        figures = site.run(measure_awaited())
        with site.graph(backend, self.shape, asynchronous=False, **settings) as graph:
            assert np.array_equal(graph.call_blocking(array), array)
            figures[blocking] = percentile(blocking_times(graph.call_blocking, array, site.seconds), 50)
        return figures

    def floor(self, floor: Floor, site: Site) -> Figures:
        p50, _ = floor.round_trip(self.shape, site.seconds, payload=self.size)
        return dict.fromkeys(self.rows, p50)


@dataclass(frozen=True)
class Collective:
    """An allreduce of async_adag over shared memory; Ray's own needs torch and a GPU."""

    kilobytes: int
    shape: Allreduce = ALLREDUCE

    @property
    def name(self) -> str:
        return f"allreduce, {self.kilobytes} kB"

    @property
    def rows(self) -> list[Row]:
        return [Row(f"Allreduce over {self.shape.ranks} actors, awaited, p50", f"{self.kilobytes:,} kB", "s")]

    def measure(self, backend: Backend, site: Site) -> Figures:
        if not isinstance(backend, AdagBackend):
            return {}
        return site.run(self._measure(backend, site))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        settings: dict[str, Any] = {"max_inflight": 2, "buffer_size": self.kilobytes * 1000 + 65536}
        with site.graph(backend, self.shape, asynchronous=True, **settings) as graph:
            assert await graph.call(self.kilobytes) == [125 * self.kilobytes] * self.shape.ranks
            return {self.rows[0]: percentile(await async_times(graph.call, self.kilobytes, site.seconds), 50)}


@dataclass(frozen=True)
class Compile:
    """From a DAG to its first result."""

    shape: Stages = LONG

    @property
    def name(self) -> str:
        return "compile"

    @property
    def rows(self) -> list[Row]:
        return [Row("Compile, up to the first result", f"chain of {self.shape.stages}", "s")]

    def measure(self, backend: Backend, site: Site) -> Figures:
        began = perf_counter()
        with site.graph(backend, self.shape, asynchronous=False) as graph:
            assert graph.call_blocking(7) == self.shape.expected(7)
            ended = perf_counter()
        return {self.rows[0]: ended - began}


@dataclass(frozen=True)
class Idle:
    """CPU that driver and actors take while nobody calls their graph, above what they take without one."""

    shape: Stages = CHAIN

    @property
    def name(self) -> str:
        return "idle"

    @property
    def rows(self) -> list[Row]:
        return [Row("Idle CPU, driver and actors, above the same without a graph", self.shape.name, "%")]

    def measure(self, backend: Backend, site: Site) -> Figures:
        return site.run(self._measure(backend, site))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        anyway = await self._percent(site)
        with site.graph(backend, self.shape, asynchronous=True) as graph:
            assert await graph.call(7) == self.shape.expected(7)
            percent = await self._percent(site)
        return {self.rows[0]: max(percent - anyway, 0.0)}

    async def _percent(self, site: Site) -> float:
        pids = [os.getpid(), *site.pids[: self.shape.stages]]
        await asyncio.sleep(0.2)  # what has just ended or begun dies away
        used, began = cpu_seconds(pids), perf_counter()
        await asyncio.sleep(site.idle_seconds)
        return 100 * (cpu_seconds(pids) - used) / (perf_counter() - began)


@dataclass(frozen=True)
class Pinned:
    """The awaited round trip of async_adag with all threads of driver and actor tied to two cores, or one.

    What a wake-up costs changes from one second to the next by a factor of two and more, by what else runs on the
    host of a virtual machine: hence the slices.
    """

    driver_cpu: int
    actor_cpu: int
    shape: Stages = ONE
    slices: int = 10

    @property
    def name(self) -> str:
        return f"pinned, {self._cores}"

    @property
    def _cores(self) -> str:
        return "one core" if self.driver_cpu == self.actor_cpu else "two cores"

    @property
    def rows(self) -> list[Row]:
        return [
            Row("Round trip, awaited, pinned, 1 actor", f"{self._cores}, {which}", "s") for which in ("p50", "p99")
        ]

    def measure(self, backend: Backend, site: Site) -> Figures:
        if not isinstance(backend, AdagBackend):
            return {}  # Ray's graph spins: on one core, each side would only wait for the other's time slice
        return site.run(self._measure(backend, site))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        with site.graph(backend, self.shape, asynchronous=True) as graph:
            await graph.call(7)
            with pinned({os.getpid(): self.driver_cpu, site.pids[0]: self.actor_cpu}):
                times = await async_times(graph.call, 1, site.seconds)
        return dict(zip(self.rows, _p50_and_p99(times), strict=True))

    def floor(self, floor: Floor, site: Site) -> Figures:
        cpus = (self.driver_cpu, self.actor_cpu)
        return dict(zip(self.rows, floor.round_trip(self.shape, site.seconds, cpus=cpus), strict=True))


def _p50_and_p99(times: list[float]) -> tuple[float, float]:
    return percentile(times, 50), percentile(times, 99)
