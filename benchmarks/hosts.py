"""Two Ray nodes on this machine, each a host of its own: the actor is on the other, two hops by TCP away.

The floor of these rows is a plain socket between two Python processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.arrays import KILOBYTE, buffers_for, size_in_words
from benchmarks.backends import AdagBackend, Backend
from benchmarks.floor import Floor
from benchmarks.graphs import ONE, Readers, Stage
from benchmarks.measure import async_times, throughput
from benchmarks.rows import Figures, Row, of_times
from benchmarks.site import Site
from benchmarks.tcp_floor import times_of_plain

IN_FLIGHT = 8
THERE_AND_BACK = (1000, 16_000)  # kilobytes
ONE_WAY = 64_000
PATIENCE = 60.0  # seconds for a node to come or to go
ROUND_TRIP = Row("Round trip over two hosts, awaited, p50", "1 actor", "s")
MANY = Row("Throughput over two hosts, awaited, 1 actor", f"{IN_FLIGHT} in flight", "/s")
AWAY = Row("Array to another host, and a number back, awaited, p50", size_in_words(ONE_WAY), "s")


def _back(kilobytes: int) -> Row:
    section = "Array to another host and back, awaited, p50"
    return Row(section, size_in_words(kilobytes), "s", x=KILOBYTE * kilobytes)


@dataclass(frozen=True)
class TwoHosts:
    """Small values and arrays to an actor on another node, and back."""

    @property
    def name(self) -> str:
        return "two hosts"

    @property
    def rows(self) -> list[Row]:
        return [ROUND_TRIP, MANY, *map(_back, THERE_AND_BACK), AWAY]

    def measure(self, backend: Backend, site: Site) -> Figures:
        with actor_on_another_node() as actor:
            return site.run(self._measure(backend, replace(site, actors=[actor])))

    async def _measure(self, backend: Backend, site: Site) -> Figures:
        figures = Figures()
        with site.graph(backend, ONE, asynchronous=True) as graph:
            assert await graph.call(7) == 7
            figures.add(of_times([ROUND_TRIP], await async_times(graph.call, 1, site.seconds)))
            figures.values[MANY] = await throughput(graph.submit, 1, IN_FLIGHT, site.seconds)
        with site.graph(backend, ONE, asynchronous=True, **buffers_for(max(THERE_AND_BACK))) as graph:
            for kilobytes in THERE_AND_BACK:
                times = await async_times(graph.call, _array(kilobytes), site.seconds)
                figures.add(of_times([_back(kilobytes)], times))
        if not isinstance(backend, AdagBackend):
            return figures  # what is asked there is how far from the floor ours is
        with site.graph(backend, Readers(1), asynchronous=True, **buffers_for(ONE_WAY)) as graph:
            array = _array(ONE_WAY)
            assert await graph.call(array) == [len(array)]
            figures.add(of_times([AWAY], await async_times(graph.call, array, site.seconds)))
        return figures

    def floor(self, _: Floor, site: Site) -> Figures:
        figures = of_times([ROUND_TRIP], times_of_plain(8, site.seconds))
        figures.add(of_times([AWAY], times_of_plain(KILOBYTE * ONE_WAY, site.seconds)))
        return figures


def _array(kilobytes: int) -> np.ndarray:
    return np.ones(KILOBYTE * kilobytes // 8)


@contextmanager
def actor_on_another_node() -> Iterator[Any]:
    """A `graphs.Stage` on a second node of this machine's Ray, which is there for as long as the block."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--address={ray.get_runtime_context().gcs_address}", "--num-cpus=1", '--resources={"other": 1}']
    quiet = subprocess.DEVNULL
    with _no_cluster_noted():
        node = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            actor = Stage.options(resources={"other": 0.1}).remote()
            ray.get(actor.pid.remote(), timeout=PATIENCE)
            yield actor
            ray.kill(actor)
        finally:
            node.terminate()
            node.wait(PATIENCE)


@contextmanager
def _no_cluster_noted() -> Iterator[None]:
    """A node notes its cluster for programs that name none, and leaves the note behind when it is ended."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    before = note.read_bytes() if note.exists() else None
    try:
        yield
    finally:
        if before is None:
            note.unlink(missing_ok=True)
        else:
            note.write_bytes(before)
