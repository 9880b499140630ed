"""How much memory processes hold: in all, and at most since they were last asked to begin anew."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024


@dataclass(frozen=True)
class Memory:
    """Bytes that are resident, shared ones included: each process counts what it has touched.

    Attributes:
        driver: of this process, at most.
        actors: of all actors together, each at its most.
        left: of this process and the actors afterwards.
    """

    driver: int = 0
    actors: int = 0
    left: int = 0

    def __or__(self, other: Memory) -> Memory:
        """The most of both."""
        return Memory(max(self.driver, other.driver), max(self.actors, other.actors), max(self.left, other.left))


class Peaks:
    """Watches this process and its actors from now on; the kernel keeps the peaks."""

    def __init__(self, actors: Sequence[int]) -> None:
        self._actors = actors
        for pid in (os.getpid(), *actors):
            with suppress(OSError):  # it has ended; or we may not, and the peak is an older one
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def read(self) -> Memory:
        """What they have held since."""
        pids = (os.getpid(), *self._actors)
        return Memory(
            driver=_status(os.getpid(), "VmHWM"),
            actors=sum(_status(pid, "VmHWM") for pid in self._actors),
            left=sum(_status(pid, "VmRSS") for pid in pids),
        )


def shared_by_this_process() -> int:
    """Bytes of memory files, and of files, that are resident here."""
    return _status(os.getpid(), "RssShmem") + _status(os.getpid(), "RssFile")


def _status(pid: int, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * _KIB
    return 0
