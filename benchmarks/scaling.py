"""What grows, and is to cost no more for it: executions in flight, actors in a chain, graphs alive."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from benchmarks.backends import AdagBackend, Backend
from benchmarks.floor import Floor
from benchmarks.graphs import ONE, Stages, chain
from benchmarks.measure import async_times, throughput
from benchmarks.rows import Figures, Row, of_times
from benchmarks.site import Site

SMALL = 4096  # bytes of a buffer: Ray makes as many as executions may be in flight, of a megabyte each by default
PART = 0.3  # of the time: a curve has many points


@dataclass(frozen=True)
class Windows:
    """Throughput by how many executions are in flight, in one graph that allows for the most."""

    shape: Stages
    windows: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"windows, {self.shape.name}"

    @property
    def rows(self) -> list[Row]:
        section = f"Throughput by window, awaited, {self.shape.name}"
        return [Row(section, f"{window} in flight", "/s", x=window) for window in self.windows]

    def measure(self, backend: Backend, site: Site) -> Figures:
        return site.run(self._measure(backend, site.briefly(PART)))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        most = max(self.windows)
        figures = Figures()
        with site.graph(backend, self.shape, asynchronous=True, max_inflight=most, buffer_size=SMALL) as graph:
            assert await graph.call(7) == self.shape.expected(7)
            for row, window in zip(self.rows, self.windows, strict=True):
                figures.values[row] = await throughput(graph.submit, 1, window, site.seconds)
        return figures


@dataclass(frozen=True)
class Hops:
    """A round trip through a chain, divided by its hops: one more than there are actors."""

    actors: int

    @property
    def name(self) -> str:
        return f"hops, chain of {self.actors}"

    @property
    def rows(self) -> list[Row]:
        return [Row("Cost per hop of a chain, awaited, p50", chain(self.actors).name, "s", x=self.actors)]

    @property
    def _share(self) -> float:
        return 1 / (self.actors + 1)

    def measure(self, backend: Backend, site: Site) -> Figures:
        return site.run(self._measure(backend, site.briefly(PART)))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        with site.graph(backend, chain(self.actors), asynchronous=True) as graph:
            assert await graph.call(7) == 7
            return of_times(self.rows, await async_times(graph.call, 1, site.seconds), self._share)

    def floor(self, floor: Floor, site: Site) -> Figures:
        times = floor.round_trips(chain(self.actors), site.briefly(PART).seconds)
        return of_times(self.rows, times, self._share)


@dataclass(frozen=True)
class Alive:
    """Round trips through graphs that are alive at the same time, each in its turn.

    They share the actors, as many as there are. Of Ray, only one can be alive on an actor.
    """

    graphs: int

    @property
    def name(self) -> str:
        return f"alive, {self.graphs} graphs"

    @property
    def rows(self) -> list[Row]:
        section = "Round trip, awaited, 1 actor, by graphs alive, p50"
        return [Row(section, f"{self.graphs} graph{'s' if self.graphs > 1 else ''}", "s", x=self.graphs)]

    def measure(self, backend: Backend, site: Site) -> Figures:
        if self.graphs > 1 and not isinstance(backend, AdagBackend):
            return Figures()
        return site.run(self._measure(backend, site.briefly(PART)))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        with ExitStack() as opened:
            graphs = []
            for number in range(self.graphs):
                actor = site.actors[number % len(site.actors)]
                there = replace(site, actors=[actor])
                graphs.append(opened.enter_context(there.graph(backend, ONE, asynchronous=True)))
            for graph in graphs:
                assert await graph.call(7) == 7
            turns = cycle(graphs)

            async def call(value: Any) -> Any:
                return await next(turns).call(value)

            return of_times(self.rows, await async_times(call, 1, site.seconds))
