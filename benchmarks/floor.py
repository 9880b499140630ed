"""What the machine itself can do: processes that wake each other through eventfds (pingpong.c)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.graphs import Stages

SOURCE = Path(__file__).with_name("pingpong.c")


class NoFloor(Exception):
    """The floor cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Floor:
    """The compiled ping-pong."""

    program: Path

    def round_trip(
        self, shape: Stages, seconds: float, *, payload: int = 0, cpus: tuple[int, int] = (-1, -1)
    ) -> tuple[float, float]:
        """The 50th and 99th percentile, in seconds, of a round trip through a graph of this shape.

        Every hop copies `payload` bytes. `cpus` are those of the driver and of the stages; -1 pins nothing.
        """
        kind = "fan" if shape.fan_out else "chain"
        arguments = [kind, shape.stages, payload, seconds, *cpus]
        run = subprocess.run(
            [self.program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60 + 10 * seconds,
        )
        p50, p99 = map(int, run.stdout.split())
        return p50 / 1e9, p99 / 1e9


@contextmanager
def compiled_floor() -> Iterator[Floor]:
    """Compiles pingpong.c for as long as the block lasts. Raises `NoFloor` where that is not possible."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NoFloor("there is no C compiler (cc) here")
    with TemporaryDirectory(prefix="pingpong-") as folder:
        program = Path(folder, "pingpong")
        run = subprocess.run([compiler, "-O2", "-o", program, SOURCE], capture_output=True, text=True)
        if run.returncode:
            raise NoFloor(f"pingpong.c does not compile here: {run.stderr.strip()}")
        yield Floor(program)
