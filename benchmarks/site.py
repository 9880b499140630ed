"""Where and how long to measure."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.backends import MAX_INFLIGHT, Backend, Graph
from benchmarks.graphs import Shape
from benchmarks.rows import Figures

START_LIMIT = 120.0  # seconds, for the compiling of a hundred graphs, or of one with 64 actors


@dataclass(frozen=True)
class Site:
    """Live actors with their pids, the event loop, seconds per measurement."""

    actors: list[Any]
    pids: list[int]
    new_loop: Callable[[], asyncio.AbstractEventLoop]
    seconds: float
    idle_seconds: float

    def briefly(self, part: float) -> Site:
        """The same site, for a part of the time."""
        return replace(self, seconds=part * self.seconds)

    def run(self, work: Coroutine[Any, Any, Figures]) -> Figures:
        """Runs `work` in a fresh event loop.

        Raises:
            TimeoutError: it takes far longer than it is to measure: somebody has died.
        """
        limit = START_LIMIT + 20 * self.seconds
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            return runner.run(asyncio.wait_for(work, limit))

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
            self.actors,
            asynchronous=asynchronous,
            max_inflight=max_inflight,
            buffer_size=buffer_size,
        )
        try:
            yield graph
        finally:
            graph.close()
