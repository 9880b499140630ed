"""Runs the soak or chaos, and says whether all was well."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from random import Random, SystemRandom

import ray

from tests.nodes import several_nodes
from tests.soak import record, verdict
from tests.soak.chaos import Chaos
from tests.soak.outcomes import Hung, Tally
from tests.soak.parcels import SIZES
from tests.soak.sampling import Sample, peaks
from tests.soak.soak import Soak

MINUTES = 10.0
STUCK = 2  # times the patience after which an event loop that stands still ends the run


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 if something was wrong, or not flat."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run == "chaos" and options.hosts > 1:
        parser.error("chaos spoils what lies in shared memory, and kills by pid: it has one host only")
    seed = options.seed if options.seed is not None else SystemRandom().randrange(1 << 32)
    where = f", {options.hosts} hosts" if options.hosts > 1 else ""
    print(f"{options.run}, {options.minutes:g} minutes, --seed {seed}, {options.loop}{where}", flush=True)
    tally = Tally(options.patience)
    began = time.monotonic()
    with _ray(options.hosts):
        run: Soak | Chaos
        if options.run == "soak":
            run = Soak(Random(seed), tally, options.largest, options.hosts, _tell)
        else:
            run = Chaos(seed, tally, options.pause, _tell)
        with asyncio.Runner(loop_factory=_loop_factory(options.loop)) as runner:
            runner.run(_watched(run, options.minutes * 60, tally))
    facts = {
        "name": options.run,
        "seed": seed,
        "minutes": options.minutes,
        "took, s": round(time.monotonic() - began, 1),
        "event loop": options.loop,
        "hosts": options.hosts,
        "largest payload": options.largest,
    }
    return _report(options, facts, tally, run.samples)


@contextmanager
def _ray(hosts: int) -> Iterator[None]:
    """A Ray on this machine of the run's own, with so many nodes; that of this process, where it has one."""
    if ray.is_initialized():
        yield
        return
    with several_nodes(hosts, log_to_driver=False, logging_level="error"):
        yield


async def _watched(run: Soak | Chaos, seconds: float, tally: Tally) -> None:
    """Run it; what hangs ends the run, with the stacks of all threads."""
    beat = asyncio.ensure_future(_heartbeat(STUCK * tally.patience))
    try:
        await run.run(seconds)
    except Hung:
        pass  # it is among what is wrong
    finally:
        beat.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _heartbeat(limit: float) -> None:
    while True:
        faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__)
        await asyncio.sleep(1)


def _report(options: argparse.Namespace, facts: dict[str, object], tally: Tally, samples: list[Sample]) -> int:
    # A run with kills has no rest at which to compare: its samples are drawn and not judged.
    findings = verdict.find(samples) if options.run == "soak" else []
    print()
    for name, count in [*sorted(tally.outcomes.items()), *sorted(tally.events.items())]:
        print(f"{count:>10}  {name}")
    if tally.slowest_failure:
        milliseconds = tally.slowest_failure * 1000
        print(f"{milliseconds:>7.0f} ms  from a SIGKILL until the last call in flight had failed, at most")
    for process, (most, last) in peaks(samples).items():
        most_mb, last_mb = most / verdict.MEGABYTE, last / verdict.MEGABYTE
        print(f"{most_mb:>7.1f} MB  of memory (PSS) in the {process} at most, {last_mb:.1f} MB at last")
    if findings:
        print(f"\n{verdict.table(findings)}")
    elif options.run == "soak":
        print(f"\ntoo short to tell whether it is flat: {verdict.ENOUGH} samples are needed")
    if options.out is not None:
        record.write(options.out / f"{options.run}.json", record.as_json(facts, tally, samples, findings))
        title = f"{options.run}, seed {facts['seed']}"
        if not record.plot(options.out / f"{options.run}.svg", title, samples):
            print("\nno plot: matplotlib is not installed")
    for what in tally.wrong[:20]:
        print(f"\nWRONG: {what}")
    flat = all(finding.flat for finding in findings)
    print(f"\n{len(tally.wrong)} wrong" + ("" if flat else ", NOT FLAT"))
    return 1 if tally.wrong or not flat else 0


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def _tell(what: str) -> None:
    """Shows one passing line to a person who waits; a log gets nothing of it."""
    if sys.stderr.isatty():
        print(f"\r{what:<70}\r", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "run", choices=("soak", "chaos"), help="the same work over and over; or random work and kills"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"how long ({MINUTES:g})")
    parser.add_argument("--seed", type=int, help="of a run that is to be repeated (a new one, which is printed)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the record and the plot here")
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="SECONDS", help="what hangs this long hangs (60)"
    )
    parser.add_argument(
        "--hosts", type=int, default=1, help="Ray nodes of the soak, each a host of its own: edges go by TCP (1)"
    )
    parser.add_argument(
        "--pause", type=float, default=3.0, metavar="SECONDS", help="between two kills, at most (3)"
    )
    parser.add_argument(
        "--largest", type=int, default=SIZES[-1], metavar="BYTES", help="largest payload of the soak"
    )
    parser.add_argument(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="uvloop" if find_spec("uvloop") else "asyncio",
        help="event loop of the driver (uvloop, if installed)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
