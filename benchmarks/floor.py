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

from benchmarks.graphs import Readers, Stages

SOURCE = Path(__file__).with_name("pingpong.c")


class NoFloor(Exception):
    """The floor cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Floor:
    """The compiled ping-pong."""

    program: Path

    def round_trips(
        self, shape: Stages | Readers, seconds: float, *, payload: int = 0, cpus: tuple[int, int] = (-1, -1)
    ) -> list[float]:
        """Times, in seconds, of round trips through a graph of this shape, one after the other.

        Every hop copies `payload` bytes; readers answer without. `cpus` are those of the driver and of the stages;
        -1 pins nothing.
        """
        kind = "cast" if isinstance(shape, Readers) else "fan" if shape.fan_out else "chain"
        arguments = [kind, shape.stages, payload, seconds, *cpus]
        run = subprocess.run(
            [self.program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60 + 10 * seconds,
        )
        return [int(time) / 1e9 for time in run.stdout.split()]


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
