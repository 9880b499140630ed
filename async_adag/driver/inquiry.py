"""Questions to actors, while a graph is compiled and before anything is installed in them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from async_adag.actor.ray_runtime import call_in_actor, own_actor
from async_adag.driver.meeting import LOOK_AGAIN, Cancelled
from async_adag.driver.reasons import calling, dead_at_compile
from async_adag.errors import GraphError
from async_adag.graph.model import Graph


class Inquiry:
    """Asks actors, all at once, before they are installed.

    Args:
        graph: the graph.
        handles: its actors' handles, by actor.
        timeout: seconds that all questions together may take.
        cancelled: whether whoever compiles has given up.

    Attributes:
        deadline: until when it asks, on `time.monotonic`; what is done with the answers is to be done by then too.
    """

    def __init__(
        self, graph: Graph, handles: tuple[Any, ...], timeout: float, cancelled: Callable[[], bool]
    ) -> None:
        self._graph = graph
        self._handles = handles
        self._timeout = timeout
        self.deadline = time.monotonic() + timeout
        self._cancelled = cancelled

    def about(self, graph: Graph, handles: tuple[Any, ...]) -> Inquiry:
        """The same, with the same time left, for the same actors in another order."""
        other = Inquiry(graph, handles, self._timeout, self._cancelled)
        other.deadline = self.deadline
        return other

    def ask(self, function: Callable[..., Any], asked: dict[int, tuple[Any, ...]], what: str) -> dict[int, Any]:
        """Call ``function(instance, *args)`` in these actors; the answers, by actor. ``what``: for errors.

        Raises:
            GraphError: an actor is dead, cannot answer, or did not in time; names it.
            Cancelled: whoever compiles has given up.
        """
        answers: dict[int, Any] = {}
        own = own_actor()
        refs: dict[Any, int] = {}
        for actor, args in asked.items():
            if own is not None and own[0] == self._graph.actors[actor].id:
                answers[actor] = function(own[1], *args)  # it cannot answer a call while it is busy compiling
            else:
                refs[self._call(actor, function, args)] = actor
        while refs:
            if self._cancelled():
                raise Cancelled
            left = self.deadline - time.monotonic()
            if left <= 0:
                names = ", ".join(
                    f"{self._graph.actors[actor]} (for {self._labels(actor)[0]})"
                    for actor in sorted(refs.values())
                )
                raise GraphError(
                    f"no answer within compile_timeout={self._timeout:g} s from {names}, asked {what}: "
                    "busy with another call, or not started yet. Compile again when it is free"
                )
            for ref in ray.wait(list(refs), timeout=min(left, LOOK_AGAIN))[0]:
                actor = refs.pop(ref)
                try:
                    answers[actor] = self._answer(ref, actor)
                except ActorUnavailableError:  # Ray is restarting it, or cannot reach it just now
                    time.sleep(LOOK_AGAIN)
                    refs[self._call(actor, function, asked[actor])] = actor
        return answers

    def _call(self, actor: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        with calling(*self._named(actor)):
            return call_in_actor(self._handles[actor], function, *args)

    def _named(self, actor: int) -> tuple[str, str]:
        """An actor, and its nodes, in words."""
        return str(self._graph.actors[actor]), ", ".join(self._labels(actor))

    def _labels(self, actor: int) -> list[str]:
        """The nodes of an actor, in words."""
        return [self._graph.label(node.number) for node in self._graph.nodes if node.actor == actor]

    def _answer(self, ref: Any, actor: int) -> Any:
        name = self._graph.actors[actor]
        try:
            return ray.get(ref)
        except ActorUnavailableError:
            raise
        except RayActorError as error:
            raise dead_at_compile(*self._named(actor), error) from error
        except Exception as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(cause, ModuleNotFoundError) and "async_adag" in str(cause):
                raise GraphError(
                    f"the process of {name} cannot import what the driver's async_adag has: install the same "
                    "where the workers run (runtime_env={'pip': ['async-adag==…']} does it)"
                ) from error
            raise GraphError(f"{name} cannot answer: {cause}") from error
