"""The errors of async_adag: one family under `AdagError`.

Each is also the built-in or Ray class that a caller would catch without knowing this library, so that code
written for Ray's compiled graph keeps its ``except`` clauses.
"""

from __future__ import annotations

from typing import Any

from ray.exceptions import (
    ActorDiedError,
    RayCgraphCapacityExceeded,
    RayChannelError,
    RayChannelTimeoutError,
)

__all__ = [
    "ActorDied",
    "AdagError",
    "CapacityExceeded",
    "CompileActorDied",
    "ExecutionTimeout",
    "GpuUnavailable",
    "GraphBroken",
    "GraphClosed",
    "GraphError",
    "RemoteError",
]


class AdagError(Exception):
    """Base of every error that async_adag raises on its own account.

    An exception raised by a node is not one of these: it arrives as the object that the node raised.
    """

    def __init__(self, *args: object) -> None:
        # Not through the bases: Ray's take other arguments, and OSError keeps none when its __init__ is replaced.
        self.args: tuple[Any, ...] = args

    def __str__(self) -> str:
        # Ray's classes format themselves from private fields; here the message is simply the argument.
        return str(self.args[0]) if self.args else type(self).__name__


class GraphError(AdagError, ValueError):
    """The DAG cannot be compiled, or an actor did not answer within ``compile_timeout``; names the node."""


class CompileActorDied(GraphError, ActorDiedError):
    """`GraphError` because an actor of the DAG is dead: an ``ActorDiedError`` too."""

    def __init__(self, message: str) -> None:
        ActorDiedError.__init__(self)
        self.args: tuple[Any, ...] = (message,)


class CapacityExceeded(AdagError, TimeoutError, RayCgraphCapacityExceeded):
    """A blocking ``execute`` waited ``submit_timeout`` seconds and the graph was still full.

    Nothing was sent. Not raised by ``execute_async``, which waits for as long as it is awaited.
    """


class ExecutionTimeout(AdagError, RayChannelTimeoutError):
    """A wait for a result ran out of time; names the method that is computing now.

    From ``ref.get(timeout=…)`` it is no failure: nothing is consumed and the same ref can be got later. From a
    deadline of ``compiled.options(timeout=…)`` it is final: the execution is abandoned and the graph goes on.
    """


class GraphClosed(AdagError, RayChannelError, RuntimeError):
    """The graph was torn down by its owner, and this call came after, or its result had not arrived.

    Also what calls raise in a process that was forked from the graph's own.

    Compare `GraphBroken`, where nobody asked for the end; Ray raises a ``RayChannelError`` for both.
    """


class GraphBroken(AdagError, RayChannelError):
    """A peer died or a channel failed; names the actor, its node and the execution.

    Results that had arrived stay readable; every later call raises this at once. The surviving actors are free:
    tear down, and compile again.
    """


class ActorDied(GraphBroken, ActorDiedError):
    """`GraphBroken` because an actor's process ended: an ``ActorDiedError`` too."""

    def __init__(self, message: str) -> None:
        ActorDiedError.__init__(self)
        self.args: tuple[Any, ...] = (message,)


class GpuUnavailable(AdagError, RuntimeError):
    """The plan needs a GPU stack that is not here; names the edge and the extra to install."""


class RemoteError(AdagError):
    """A node raised something that cannot be rebuilt or raised here.

    The text holds the type's name, the message and the remote traceback.
    """
