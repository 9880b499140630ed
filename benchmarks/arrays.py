"""Numpy arrays: there and back, to several readers at once, and summed by a collective operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.backends import AdagBackend, Backend
from benchmarks.floor import Floor
from benchmarks.graphs import ALLREDUCE, ONE, Allreduce, Readers, Stages
from benchmarks.measure import async_times, blocking_times
from benchmarks.rows import Figures, Row, of_times
from benchmarks.site import Site

KILOBYTE = 1000


@dataclass(frozen=True)
class Arrays:
    """An array there and back through one actor, by both sides of the graph."""

    kilobytes: int
    shape: Stages = ONE

    @property
    def name(self) -> str:
        return f"arrays, {size_in_words(self.kilobytes)}"

    @property
    def awaited(self) -> Row:
        return self._row("awaited")

    @property
    def blocking(self) -> Row:
        return self._row("blocking")

    def _row(self, side: str) -> Row:
        section = f"Array there and back, {side}, 1 actor, p50"
        return Row(section, size_in_words(self.kilobytes), "s", x=KILOBYTE * self.kilobytes)

    @property
    def rows(self) -> list[Row]:
        return [self.awaited, self.blocking]

    def measure(self, backend: Backend, site: Site) -> Figures:
        array = np.arange(self.kilobytes * KILOBYTE // 8)
        settings = buffers_for(self.kilobytes)

        async def measure_awaited() -> Figures:
            with site.graph(backend, self.shape, asynchronous=True, **settings) as graph:
                assert np.array_equal(await graph.call(array), array)
                return of_times([self.awaited], await async_times(graph.call, array, site.seconds))

        figures = site.run(measure_awaited())
        with site.graph(backend, self.shape, asynchronous=False, **settings) as graph:
            assert np.array_equal(graph.call_blocking(array), array)
            figures.add(of_times([self.blocking], blocking_times(graph.call_blocking, array, site.seconds)))
        return figures

    def floor(self, floor: Floor, site: Site) -> Figures:
        times = floor.round_trips(self.shape, site.seconds, payload=self.kilobytes * KILOBYTE)
        figures = of_times([self.awaited], times)
        figures.add(of_times([self.blocking], times))
        return figures


@dataclass(frozen=True)
class Broadcast:
    """An array from one writer to several readers, each of which answers with a number.

    It is what vLLM does for each step of a model on several GPUs: the engine tells all its workers the same.
    """

    kilobytes: int
    shape: Readers

    @property
    def name(self) -> str:
        return f"broadcast, {size_in_words(self.kilobytes)}"

    @property
    def rows(self) -> list[Row]:
        section = f"Broadcast of an array to {self.shape.stages} actors, awaited, p50"
        return [Row(section, size_in_words(self.kilobytes), "s", x=KILOBYTE * self.kilobytes)]

    def measure(self, backend: Backend, site: Site) -> Figures:
        return site.run(self._measure(backend, site))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        array = np.arange(self.kilobytes * KILOBYTE // 8)
        with site.graph(backend, self.shape, asynchronous=True, **buffers_for(self.kilobytes)) as graph:
            assert await graph.call(array) == [len(array)] * self.shape.stages
            return of_times(self.rows, await async_times(graph.call, array, site.seconds))

    def floor(self, floor: Floor, site: Site) -> Figures:
        payload = self.kilobytes * KILOBYTE
        return of_times(self.rows, floor.round_trips(self.shape, site.seconds, payload=payload))


@dataclass(frozen=True)
class Collective:
    """An allreduce of async_adag over shared memory; Ray's own needs torch and a GPU."""

    kilobytes: int
    shape: Allreduce = ALLREDUCE

    @property
    def name(self) -> str:
        return f"allreduce, {size_in_words(self.kilobytes)}"

    @property
    def rows(self) -> list[Row]:
        section = f"Allreduce over {self.shape.ranks} actors, awaited, p50"
        return [Row(section, size_in_words(self.kilobytes), "s", x=KILOBYTE * self.kilobytes)]

    def measure(self, backend: Backend, site: Site) -> Figures:
        if not isinstance(backend, AdagBackend):
            return Figures()
        return site.run(self._measure(backend, site))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        with site.graph(backend, self.shape, asynchronous=True, **buffers_for(self.kilobytes)) as graph:
            assert await graph.call(self.kilobytes) == [125 * self.kilobytes] * self.shape.ranks
            return of_times(self.rows, await async_times(graph.call, self.kilobytes, site.seconds))


def buffers_for(kilobytes: int) -> dict[str, Any]:
    """Buffers that have the array's size from the start, so that nobody is measured while resizing them.

    There are few of them, so that they fit into a small machine's shared memory.
    """
    return {"max_inflight": 2, "buffer_size": kilobytes * KILOBYTE + 65536}


def size_in_words(kilobytes: int) -> str:
    """Such as "16 MB"."""
    return f"{kilobytes} kB" if kilobytes < 1000 else f"{kilobytes // 1000} MB"
