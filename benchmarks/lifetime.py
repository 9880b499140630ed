"""What graphs cost before they are called, and while nobody calls them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from time import perf_counter

from benchmarks.backends import Backend
from benchmarks.graphs import CHAIN, Stages, chain
from benchmarks.idle import cpu_seconds
from benchmarks.rows import Figures, Row
from benchmarks.site import Site


@dataclass(frozen=True)
class Compile:
    """From a DAG to its first result."""

    actors: int

    @property
    def name(self) -> str:
        return f"compile, {self.actors} actors"

    @property
    def rows(self) -> list[Row]:
        return [Row("Compile, up to the first result", f"chain of {self.actors}", "s", x=self.actors)]

    def measure(self, backend: Backend, site: Site) -> Figures:
        shape = chain(self.actors)
        began = perf_counter()
        with site.graph(backend, shape, asynchronous=False) as graph:
            assert graph.call_blocking(7) == shape.expected(7)
            ended = perf_counter()
        return Figures({self.rows[0]: ended - began})


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
        return Figures({self.rows[0]: max(percent - anyway, 0.0)})

    async def _percent(self, site: Site) -> float:
        pids = [os.getpid(), *site.pids[: self.shape.stages]]
        await asyncio.sleep(0.2)  # what has just ended or begun dies away
        used, began = cpu_seconds(pids), perf_counter()
        await asyncio.sleep(site.idle_seconds)
        return 100 * (cpu_seconds(pids) - used) / (perf_counter() - began)
