"""Measures Ray's compiled graph and async_adag in one run; prints a table, saves a record, and draws it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, plots, record, suite, table
from benchmarks.backends import AdagBackend, Backend, RayBackend
from benchmarks.cluster import Cluster
from benchmarks.compare import compare
from benchmarks.everything import Extent, actors_of, actors_that_fit, all_workloads
from benchmarks.floor import Floor, NoFloor, compiled_floor
from benchmarks.memory import Memory, Peaks
from benchmarks.options import parser
from benchmarks.site import Site
from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Effort:
    """How often, and for how many seconds each."""

    rounds: int
    seconds: float
    idle_seconds: float
    actors: int


QUICK = Effort(rounds=3, seconds=0.2, idle_seconds=0.7, actors=8)
FULL = Effort(rounds=5, seconds=1.0, idle_seconds=3.0, actors=32)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 if something could not be measured."""
    options = parser(__doc__).parse_args(arguments)
    try:
        if options.compare:
            print(compare(*(record.find(name, options.out) for name in options.compare)))
            return 0
        if options.plot:
            _draw(record.load(options.plot), options)
            return 0
    except record.NoRecord as error:
        print(error, file=sys.stderr)
        return 2
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    effort = QUICK if options.quick else FULL
    wanted = options.actors or effort.actors
    actors = actors_that_fit(wanted)
    everything = all_workloads(Extent(not options.quick, actors, options.deaths))
    workloads = [
        each for each in everything if not options.only or any(text in each.name for text in options.only)
    ]
    if not workloads:
        names = "; ".join(workload.name for workload in everything)
        print(f"--only {' '.join(options.only)} fits none of: {names}", file=sys.stderr)
        return 2
    backends: list[Backend] = [RayBackend(), AdagBackend(options.busy_poll)]
    backends = [backend for backend in backends if options.backend in (None, backend.name)]
    run = record.Circumstances(machine.describe(), _chosen(options, effort, actors))
    print(table.header({**run.machine, "commit": run.commit, **run.options}), end="\n\n", flush=True)
    if actors < wanted:
        print(f"there is memory for {actors} actors, and not for {wanted}\n")

    results = suite.Results([row for workload in workloads for row in workload.rows])

    def keep() -> Path:
        return record.save(record.as_record(results, run), options.out)

    print(f"record: {keep()}\n", flush=True)
    try:
        starts = _measure(results, workloads, backends, effort, options, keep)
    except BaseException:
        keep()
        _tell("")
        print(f"ended in {results.under_way}; the record has what was measured until then", file=sys.stderr)
        raise

    print(table.table(results), end="\n\n")
    print(table.NOTES)
    print("", *table.failures(results), table.memory(results), sep="\n")
    if starts > 1:
        print(f"\nRay was started {starts} times: it keeps the buffers of graphs that are gone.")
    _draw(record.as_record(results, run), options)
    return 1 if results.failures else 0


def _chosen(options: argparse.Namespace, effort: Effort, actors: int) -> dict[str, Any]:
    return {
        "event loop": options.loop,
        "busy_poll": str(options.busy_poll) if options.busy_poll else "0 (parked)",
        "rounds": f"{effort.rounds}, {effort.seconds} s per figure",
        "actors": f"up to {actors} in a graph",
        "only": ", ".join(options.only) or "everything",
    }


def _draw(made: record.Record, options: argparse.Namespace) -> None:
    try:
        for path in plots.draw(made, options.out):
            print(f"plot: {path}")
    except ModuleNotFoundError as missing:
        print(f"no plots: {missing}")


@dataclass
class _Place:
    """Where turns are taken."""

    cluster: Cluster
    new_loop: Callable[[], asyncio.AbstractEventLoop]
    effort: Effort

    def site(self) -> Site:
        cluster, effort = self.cluster, self.effort
        return Site(cluster.actors, cluster.pids, self.new_loop, effort.seconds, effort.idle_seconds)

    def watch(self) -> Callable[[], Memory]:
        return Peaks(self.cluster.pids).read

    def tidy(self, failed: bool) -> None:
        if failed:
            self.cluster.recover()
        self.cluster.tidy()


def _measure(
    results: suite.Results,
    workloads: list[Workload],
    backends: list[Backend],
    effort: Effort,
    options: argparse.Namespace,
    keep: Callable[[], Any],
) -> int:
    """Measures all; returns how often Ray was started."""
    cluster = Cluster()
    parked = AdagBackend(0.0) if options.backend != RayBackend().name and options.busy_poll else None
    with closing(cluster), _floor() as floor:
        # Those that need many actors come last: even idle ones take something of a small machine.
        for count in sorted({actors_of(workload) for workload in workloads}):
            _tell(f"starting {count} actors")
            cluster.have(count)
            now = [workload for workload in workloads if actors_of(workload) == count]
            place = _Place(cluster, _loop_factory(options.loop), effort)
            suite.run(results, now, backends, floor, place, effort.rounds, _tell, keep, parked)
        _tell("")
    return cluster.starts


@contextmanager
def _floor() -> Iterator[Floor | None]:
    try:
        with compiled_floor() as floor:
            yield floor
    except NoFloor as reason:
        print(f"no floor: {reason}\n")
        yield None


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if name == "uvloop":
        import uvloop

        new_loop = uvloop.new_event_loop
    return new_loop


def _tell(what: str) -> None:
    """Shows one passing line to a person who waits; a log gets nothing of it."""
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        print(f"\r{what[: width - 1]:<{width - 1}}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
