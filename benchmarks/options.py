"""The command's options."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from benchmarks.backends import BusyPoll
from benchmarks.record import FOLDER


def parser(description: str | None) -> argparse.ArgumentParser:
    """What reads them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=description)
    parser.add_argument("--quick", action="store_true", help="a few minutes, instead of about twenty")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help='only workloads with this in their name, such as "chain"; may be given more than once',
    )
    parser.add_argument("--backend", choices=("ray", "async_adag"), help="only this one, instead of both")
    parser.add_argument(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="uvloop" if find_spec("uvloop") else "asyncio",
        help="event loop of the driver (uvloop, if installed)",
    )
    parser.add_argument(
        "--busy-poll",
        type=_busy_poll,
        default="auto",
        metavar="SECONDS",
        help='async_adag\'s busy_poll, seconds or "auto", the default; beside a floor 0 is measured as well',
    )
    parser.add_argument("--deaths", action="store_true", help="also how soon the death of an actor is noticed")
    parser.add_argument(
        "--actors",
        type=int,
        metavar="N",
        help="actors that a graph may have at most (8 with --quick, else 32; with 64 there is a chain of so many)",
    )
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="FOLDER", help="for records and plots (%(default)s)"
    )
    group = parser.add_argument_group("instead of a run")
    group.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two records, or two commits whose records are in the folder: what has changed",
    )
    group.add_argument("--plot", type=Path, metavar="RECORD", help="draw a record into the folder")
    return parser


def _busy_poll(text: str) -> BusyPoll:
    return "auto" if text == "auto" else float(text)
