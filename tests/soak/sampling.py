"""What a process holds, read from /proc: the process itself does nothing for it, and may be busy."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FIGURES = ("rss", "pss", "memory_files", "fds", "threads", "mappings")
NAME = "/memfd:async-adag"


@dataclass(frozen=True)
class Sample:
    """One process at one moment.

    Attributes:
        process: its name in the run.
        at: seconds since the run began.
        executions: done by the whole run so far.
        rss: bytes of resident memory, all of that shared with others.
        pss: bytes of resident memory, its part of that shared with others.
        memory_files: bytes behind the memory files of graphs that it has descriptors of, each file once.
        fds: open descriptors.
        threads: threads.
        mappings: mapped ranges.
    """

    process: str
    at: float
    executions: int
    rss: int
    pss: int
    memory_files: int
    fds: int
    threads: int
    mappings: int


def take_samples(pids: Mapping[str, int], began: float, executions: int) -> list[Sample]:
    """A sample of each process; none of one that has ended.

    Args:
        pids: by the names of the processes.
        began: when the run began (`time.monotonic`).
        executions: done so far.
    """
    samples = []
    for process, pid in pids.items():
        at = time.monotonic() - began
        try:
            samples.append(Sample(process, at, executions, **figures_of(Path(f"/proc/{pid}"))))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return samples


def peaks(samples: Sequence[Sample]) -> dict[str, tuple[int, int]]:
    """The most and the last memory (PSS) of each process that was sampled, in bytes."""
    found: dict[str, tuple[int, int]] = {}
    for sample in samples:
        most, _ = found.get(sample.process, (0, 0))
        found[sample.process] = max(most, sample.pss), sample.pss
    return found


def figures_of(process: Path) -> dict[str, int]:
    """The `FIGURES` of a process, by its directory in /proc."""
    rollup = {}
    for line in (process / "smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes, *_ = line.split()
        rollup[name] = int(kilobytes) * 1024
    fds = os.listdir(process / "fd")
    return {
        "rss": rollup["Rss:"],
        "pss": rollup["Pss:"],
        "memory_files": _memory_files(process / "fd", fds),
        "fds": len(fds),
        "threads": len(os.listdir(process / "task")),
        "mappings": (process / "maps").read_text().count("\n"),
    }


def _memory_files(directory: Path, fds: list[str]) -> int:
    files = {}
    for fd in fds:
        try:
            if os.readlink(directory / fd).startswith(NAME):
                stat = os.stat(directory / fd)
                files[stat.st_ino] = stat.st_blocks * 512
        except FileNotFoundError:
            pass  # closed meanwhile
    return sum(files.values())
