"""Measures Ray's compiled graph and async_adag in one run, and prints a table of both."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import ray

from benchmarks import machine, suite, table
from benchmarks.backends import AdagBackend, Backend, BusyPoll, RayBackend
from benchmarks.everything import all_workloads
from benchmarks.floor import Floor, NoFloor, compiled_floor
from benchmarks.graphs import LONG, start_actors
from benchmarks.workloads import Site, Workload


@dataclass(frozen=True)
class Effort:
    """How often, and for how many seconds each."""

    rounds: int
    seconds: float
    idle_seconds: float


QUICK = Effort(rounds=3, seconds=0.25, idle_seconds=1.0)
FULL = Effort(rounds=5, seconds=1.0, idle_seconds=3.0)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 if something could not be measured."""
    options = _parser().parse_args(arguments)
    effort = QUICK if options.quick else FULL
    everything = all_workloads(deaths=options.deaths)
    workloads = [workload for workload in everything if options.only in workload.name]
    if not workloads:
        names = "; ".join(workload.name for workload in everything)
        print(f"--only {options.only!r} fits none of: {names}", file=sys.stderr)
        return 2
    backends: list[Backend] = [RayBackend(), AdagBackend(options.busy_poll)]
    backends = [backend for backend in backends if options.backend in (None, backend.name)]
    facts = machine.describe() | {
        "event loop": options.loop,
        "busy_poll": str(options.busy_poll) if options.busy_poll else "0 (parked)",
        "rounds": f"{effort.rounds}, {effort.seconds} s per figure",
    }
    print(table.header(facts), end="\n\n", flush=True)

    results = _measure(workloads, backends, effort, options.loop)

    print(table.table(results), end="\n\n")
    print(table.NOTES)
    for failure, times in results.failures.items():
        print(f"failed {times} of {effort.rounds} times: {failure}")
    if options.json:
        options.json.write_text(json.dumps(table.as_json(results, facts), indent=2) + "\n")
    return 1 if results.failures else 0


def _measure(workloads: list[Workload], backends: list[Backend], effort: Effort, loop: str) -> suite.Results:
    with _local_ray(), _floor() as floor:
        actors, pids = start_actors(LONG.stages)
        site = Site(actors, pids, _loop_factory(loop), effort.seconds, effort.idle_seconds)
        return suite.run(workloads, backends, floor, site, effort.rounds, _tell)


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


def _busy_poll(text: str) -> BusyPoll:
    return "auto" if text == "auto" else float(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute and a half, instead of six")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures of all rounds here")
    parser.add_argument(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="uvloop" if find_spec("uvloop") else "asyncio",
        help="event loop of the driver (uvloop, if installed)",
    )
    parser.add_argument(
        "--busy-poll",
        type=_busy_poll,
        default=0.0,
        metavar="SECONDS",
        help='async_adag\'s busy_poll, seconds or "auto" (0: it parks)',
    )
    parser.add_argument("--deaths", action="store_true", help="also how soon the death of an actor is noticed")
    parser.add_argument("--backend", choices=("ray", "async_adag"), help="only this one, instead of both")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help='only workloads with this name, such as "chain"'
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
