"""How long until those who wait for an execution learn that its actor has died."""

from __future__ import annotations

import asyncio
import mmap
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import ray
from ray.dag import InputNode
from ray.exceptions import RayError

from benchmarks.backends import MAX_INFLIGHT, AdagBackend, Backend
from benchmarks.floor import Floor
from benchmarks.rows import Figures, Row
from benchmarks.site import Site

DEATHS = 5
MEGABYTE = 1 << 20
PATIENCE = 30.0  # seconds for a backend to notice


class _Victim:
    def __init__(self, megabytes: int) -> None:
        self._memory = _touched(megabytes)

    def ready(self) -> None:
        pass

    def die(self, path: str) -> None:
        """Kills its own process in the middle of an execution, and leaves the moment in a file."""
        Path(path).write_text(str(monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)


Victim: Any = ray.remote(num_cpus=0, max_restarts=0)(_Victim)


@dataclass(frozen=True)
class Deaths:
    """From the SIGKILL to the exception: of a future that is awaited, and of a ref that a thread waits for."""

    megabytes: int

    @property
    def name(self) -> str:
        return f"death, {self.megabytes} MB"

    @property
    def rows(self) -> list[Row]:
        holding = f"holding {self.megabytes} MB, " if self.megabytes else ""
        section = "Death of an actor, up to the failure of an execution in it, p50"
        return [Row(section, f"{holding}{side}", "s") for side in ("awaited", "blocking")]

    def measure(self, backend: Backend, site: Site) -> Figures:
        if not isinstance(backend, AdagBackend):
            return Figures()  # Ray's compiled graph (2.60) lets its callers wait: half a minute was not enough
        awaited, blocking = self.rows
        return Figures(
            {
                awaited: median(self._one(backend, site, asynchronous=True) for _ in range(DEATHS)),
                blocking: median(self._one(backend, site, asynchronous=False) for _ in range(DEATHS)),
            }
        )

    def _one(self, backend: Backend, site: Site, *, asynchronous: bool) -> float:
        victim = Victim.remote(self.megabytes)
        ray.get(victim.ready.remote())
        with InputNode() as path:
            dag = victim.die.bind(path)
        graph = backend.compile(dag, asynchronous=asynchronous, max_inflight=MAX_INFLIGHT)
        with TemporaryDirectory() as folder:
            path = os.path.join(folder, "moment")

            async def wait() -> float:
                async with asyncio.timeout(PATIENCE):
                    try:
                        await graph.call(path)
                    except RayError:
                        return monotonic()
                raise AssertionError("an execution outlived its actor")

            if asynchronous:
                with asyncio.Runner(loop_factory=site.new_loop) as runner:
                    noticed = runner.run(wait())
            else:
                noticed = self._wait_blocking(graph.call_blocking, path)
            died = float(Path(path).read_text())
        graph.close()
        return noticed - died

    def _wait_blocking(self, call: Any, path: str) -> float:
        try:
            call(path)
        except RayError:
            return monotonic()
        raise AssertionError("an execution outlived its actor")

    def floor(self, floor: Floor, site: Site) -> Figures:  # noqa: ARG002 - nothing here is compiled
        """A child that holds as much is killed, and its pidfd is waited for."""
        return Figures(dict.fromkeys(self.rows, median(_end_of_child(self.megabytes) for _ in range(DEATHS))))


def _end_of_child(megabytes: int) -> float:
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        memory = _touched(megabytes)
        os.write(tell, b"x")
        signal.pause()
        os._exit(len(memory))
    os.read(ready, 1)
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    began = monotonic()
    os.kill(pid, signal.SIGKILL)
    poll.poll()
    took = monotonic() - began
    os.waitpid(pid, 0)
    for fd in (ready, tell, pidfd):
        os.close(fd)
    return took


def _touched(megabytes: int) -> mmap.mmap:
    """Memory whose every page is there, each of the small kind."""
    memory = mmap.mmap(-1, max(1, megabytes) * MEGABYTE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    return memory
