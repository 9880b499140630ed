"""Ray on this machine, and the actors that are measured.

Ray 2.60 keeps the shared buffers of a compiled graph after its teardown, until the driver leaves. What it has no
room for goes to files, one for each buffer, and when its daemon has as many files open as it may, it aborts. So
whoever compiles many graphs of Ray's has to start Ray anew in between.
"""

from __future__ import annotations

import gc
import logging
from contextlib import suppress
from typing import Any

import ray

from benchmarks.graphs import start_actors
from benchmarks.memory import shared_by_this_process

KEPT_AT_MOST = 1_500_000_000  # bytes that this process may share with Ray; its store takes a third of the memory
ANSWER = 20.0  # seconds for an actor that is alive


class Cluster:
    """A Ray of our own.

    Attributes:
        actors: that are up.
        pids: theirs.
        starts: how often Ray was started.
    """

    def __init__(self) -> None:
        self.actors: list[Any] = []
        self.pids: list[int] = []
        self.starts = 0

    def have(self, count: int) -> None:
        """Have at least so many actors."""
        if not ray.is_initialized():
            # The actors ask for no CPU of Ray's, so they fit anywhere. Its INFO lines would spoil the table.
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            self.starts += 1
        more, pids = start_actors(count - len(self.actors))
        self.actors += more
        self.pids += pids

    def tidy(self) -> None:
        """Start Ray and as many actors anew where Ray keeps too much."""
        if shared_by_this_process() > KEPT_AT_MOST:
            gc.collect()  # what the last graph left behind is not Ray's to keep
            if shared_by_this_process() > KEPT_AT_MOST:
                self._renew()

    def recover(self) -> None:
        """Start Ray and as many actors anew where actors do not answer."""
        try:
            ray.get([actor.pid.remote() for actor in self.actors], timeout=ANSWER)
        except Exception:
            self._renew()

    def _renew(self) -> None:
        count = len(self.actors)
        self.close()
        self.have(count)

    def close(self) -> None:
        """End it all."""
        self.actors, self.pids = [], []
        with suppress(Exception):  # it may be dead already
            ray.shutdown()
