"""Measures Ray's compiled graph and async_adag in one run; prints a table, saves a record, and draws it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from benchmarks import machine, plots, record, suite, table
from benchmarks.backends import AdagBackend, Backend, RayBackend
from benchmarks.compare import compare
from benchmarks.everything import Extent, actors_of, actors_that_fit, all_workloads
from benchmarks.floor import Floor, NoFloor, compiled_floor
from benchmarks.graphs import start_actors
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

    results = _measure(workloads, backends, effort, options.loop)

    print(table.table(results), end="\n\n")
    print(table.NOTES)
    for failure, times in results.failures.items():
        print(f"failed {times} of {effort.rounds} times: {failure}")
    made = record.as_record(results, run)
    print(f"\nrecord: {record.save(made, options.out)}")
    _draw(made, options)
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


def _measure(workloads: list[Workload], backends: list[Backend], effort: Effort, loop: str) -> suite.Results:
    results = suite.Results([row for workload in workloads for row in workload.rows])
    with _local_ray(), _floor() as floor:
        actors: list[Any] = []
        pids: list[int] = []
        # Those that need many actors come last: even idle ones take something of a small machine.
        for count in sorted({actors_of(workload) for workload in workloads}):
            _tell(f"starting {count} actors")
            more, their_pids = start_actors(count - len(actors))
            actors, pids = actors + more, pids + their_pids
            site = Site(actors, pids, _loop_factory(loop), effort.seconds, effort.idle_seconds)
            now = [workload for workload in workloads if actors_of(workload) == count]
            suite.run(results, now, backends, floor, site, effort.rounds, _tell)
    return results


@contextmanager
def _local_ray() -> Iterator[None]:
    # The actors ask for no CPU of Ray's, so they fit anywhere. Ray's own INFO lines would spoil the table.
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
    )
    try:
        yield
    finally:
        _tell("")
        ray.shutdown()


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
