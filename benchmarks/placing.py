"""What `compile(placement=…)` gives: round trips, and many in flight, by placement, in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.backends import AdagBackend, Backend, Placement
from benchmarks.graphs import Stages
from benchmarks.measure import async_times, throughput
from benchmarks.round_trips import IN_FLIGHT
from benchmarks.rows import Figures, Row, of_times
from benchmarks.site import Site

PART = 0.3  # of the time
PLACEMENTS: tuple[Placement, ...] = (None, "together", "apart")


@dataclass(frozen=True)
class Placed:
    """The same graph with its loops left alone, together and apart. Ray has nothing of the kind."""

    shape: Stages

    @property
    def name(self) -> str:
        return f"placement, {self.shape.name}"

    @property
    def rows(self) -> list[Row]:
        return [*self._awaited, *self._many]

    @property
    def _awaited(self) -> list[Row]:
        section = f"Round trip, awaited, {self.shape.name}, by placement, p50"
        return [Row(section, str(placement), "s") for placement in PLACEMENTS]

    @property
    def _many(self) -> list[Row]:
        section = f"Throughput, awaited, {IN_FLIGHT} in flight, {self.shape.name}, by placement"
        return [Row(section, str(placement), "/s") for placement in PLACEMENTS]

    def measure(self, backend: Backend, site: Site) -> Figures:
        figures = Figures()
        if isinstance(backend, AdagBackend):
            for placement, awaited, many in zip(PLACEMENTS, self._awaited, self._many, strict=True):
                placed = replace(backend, placement=placement)
                figures.add(site.run(self._measure(placed, site.briefly(PART), awaited, many)))
        return figures

    async def _measure(self, backend: Backend, site: Site, awaited: Row, many: Row) -> Figures:
        with site.graph(backend, self.shape, asynchronous=True) as graph:
            assert await graph.call(7) == self.shape.expected(7)
            figures = of_times([awaited], await async_times(graph.call, 1, site.seconds))
            figures.values[many] = await throughput(graph.submit, 1, IN_FLIGHT, site.seconds)
        return figures
