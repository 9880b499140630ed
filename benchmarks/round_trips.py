"""Round trips of an integer, one after the other; and many in flight."""

from __future__ import annotations

import os
from dataclasses import dataclass

from benchmarks import bare
from benchmarks.backends import AdagBackend, Backend
from benchmarks.floor import Floor
from benchmarks.graphs import ONE, Stages
from benchmarks.measure import async_times, blocking_times, throughput
from benchmarks.pinning import pinned
from benchmarks.rows import Figures, Row, of_times, p50_and_p99
from benchmarks.site import Site

IN_FLIGHT = 8


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
        return p50_and_p99("Round trip, awaited", self.shape.name)

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
            figures = of_times(self.round_trip, await async_times(graph.call, 1, site.seconds))
            if self.crowded:
                figures.values[self.many] = await throughput(graph.submit, 1, IN_FLIGHT, site.seconds)
        return figures

    def floor(self, floor: Floor, site: Site) -> Figures:
        figures = of_times(self.round_trip, floor.round_trips(self.shape, site.seconds))
        if self.crowded:
            figures.values[self.many] = bare.throughput(self.shape.stages, IN_FLIGHT, site.seconds)
        return figures


@dataclass(frozen=True)
class Blocking:
    """Round trips that block the calling thread, one after the other."""

    shape: Stages

    @property
    def name(self) -> str:
        return f"blocking, {self.shape.name}"

    @property
    def rows(self) -> list[Row]:
        return p50_and_p99("Round trip, blocking", self.shape.name)

    def measure(self, backend: Backend, site: Site) -> Figures:
        with site.graph(backend, self.shape, asynchronous=False) as graph:
            assert graph.call_blocking(7) == self.shape.expected(7)
            return of_times(self.rows, blocking_times(graph.call_blocking, 1, site.seconds))

    def floor(self, floor: Floor, site: Site) -> Figures:
        return of_times(self.rows, floor.round_trips(self.shape, site.seconds))


@dataclass(frozen=True)
class Pinned:
    """The awaited round trip of async_adag: the driver tied to one core, its actors to another, or to the same.

    What a wake-up costs changes from one second to the next by a factor of two and more, by what else runs on the
    host of a virtual machine: hence the slices.
    """

    driver_cpu: int
    actor_cpu: int
    shape: Stages = ONE
    part: float = 1.0
    """Of the time."""
    slices: int = 10

    @property
    def name(self) -> str:
        return f"pinned, {self.shape.name}, {self._cores}"

    @property
    def _cores(self) -> str:
        return "one core" if self.driver_cpu == self.actor_cpu else "two cores"

    @property
    def rows(self) -> list[Row]:
        return p50_and_p99("Round trip, awaited, pinned", f"{self.shape.name}, {self._cores}")

    def measure(self, backend: Backend, site: Site) -> Figures:
        if not isinstance(backend, AdagBackend):
            return Figures()  # Ray's graph spins: on one core, each side would wait for the other's time slice
        return site.run(self._measure(backend, site.briefly(self.part)))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        places = dict.fromkeys(site.pids[: self.shape.stages], self.actor_cpu) | {os.getpid(): self.driver_cpu}
        with site.graph(backend, self.shape, asynchronous=True) as graph:
            await graph.call(7)
            with pinned(places):
                return of_times(self.rows, await async_times(graph.call, 1, site.seconds))

    def floor(self, floor: Floor, site: Site) -> Figures:
        cpus = (self.driver_cpu, self.actor_cpu)
        return of_times(self.rows, floor.round_trips(self.shape, site.briefly(self.part).seconds, cpus=cpus))
