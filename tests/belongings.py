"""What a process holds: descriptors, threads, mappings."""

from __future__ import annotations

import gc
import os
import re
import threading
from collections import Counter
from dataclasses import dataclass

ANONYMOUS = "memory"
SLACK = 12  # Ray starts threads of its own at its own times, each with a stack, a guard and an arena


@dataclass(frozen=True)
class Belongings:
    """Counts, by what is behind them, so that a difference says what leaked."""

    fds: Counter[str]
    threads: Counter[str]
    mappings: Counter[str]

    def of_graphs(self) -> Counter[str]:
        """What only a graph holds: a loop's thread, memory files, watched processes."""
        everything = self.fds + self.threads + self.mappings
        return Counter({kind: n for kind, n in everything.items() if "adag" in kind or "pidfd" in kind})

    def more_than(self, before: Belongings) -> str:
        """What is here and was not ``before``; "" when nothing is."""
        mappings = self.mappings - before.mappings
        if mappings[ANONYMOUS] <= SLACK:
            del mappings[ANONYMOUS]
        kinds = {"fd": self.fds - before.fds, "thread": self.threads - before.threads, "mapping": mappings}
        return ", ".join(f"{n} {kind} {name}" for kind, found in kinds.items() for name, n in found.items())


def take_stock() -> Belongings:
    """What this process holds now."""
    gc.collect()
    fds: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[re.sub(r":\[\d+\]", "", os.readlink(f"/proc/self/fd/{fd}"))] += 1
        except FileNotFoundError:
            pass  # that of the directory itself
    threads = Counter(thread.name for thread in threading.enumerate())
    with open("/proc/self/maps") as maps:
        files = [line.split(maxsplit=5)[5].strip() if "/" in line else ANONYMOUS for line in maps]
    mappings = Counter(file for file in files if not file.endswith(".so"))  # code, which stays
    return Belongings(fds, threads, mappings)
