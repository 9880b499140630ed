"""The communicators of users that an actor's share of a graph calls: started with its loop, destroyed with it."""

from __future__ import annotations

import logging
from typing import Any

from async_adag.graph.plan import ActorPlan

_log = logging.getLogger(__name__)


class Communicators:
    """Those of one actor."""

    def __init__(self, plan: ActorPlan) -> None:
        self._ranks: dict[int, tuple[Any, int]] = {}
        for task in plan.tasks:
            if task.collective is not None and task.collective.communicator is not None:
                communicator = task.collective.communicator
                self._ranks[id(communicator)] = communicator, task.collective.rank
        self._started: list[Any] = []

    def __bool__(self) -> bool:
        return bool(self._ranks)

    def start(self) -> None:
        """Initialize each with the actor's rank, once.

        Raises:
            Exception: what ``initialize`` raised; those that it had initialized are destroyed.
        """
        try:
            for communicator, rank in self._ranks.values():
                communicator.initialize(rank)
                self._started.append(communicator)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Destroy each; what that raises is logged."""
        started, self._started = self._started, []
        for communicator in started:
            try:
                communicator.destroy()
            except Exception:
                _log.exception("a communicator's destroy() failed")
