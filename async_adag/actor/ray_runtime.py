"""Ray's processes: calling a function in an actor, and what is needed of Ray there.

One of the modules that know names which Ray does not promise to keep: ``__ray_call__``, the worker's event loop
and instance, and how an actor is ended from another thread than its own (Ray 2.60).
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from types import MethodType
from typing import Any

import ray


def is_ray_client() -> bool:
    """Whether this process is a Ray Client driver, which runs outside the cluster."""
    from ray.util.client import ray as client

    return bool(client.is_connected())


def is_worker() -> bool:
    """Whether this process is one of Ray's workers, in which actors live, and no driver."""
    from ray._private.worker import WORKER_MODE, global_worker

    return bool(global_worker.mode == WORKER_MODE)


def call_in_actor(handle: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function(instance, *args)`` in an actor, as one of its methods; returns the ObjectRef."""
    return handle.__ray_call__.remote(function, *args)


def actor_event_loop(instance: object, method: str) -> asyncio.AbstractEventLoop | None:
    """The event loop of this process's actor; None for a synchronous actor."""
    from ray._private.worker import global_worker
    from ray._raylet import PythonFunctionDescriptor  # type: ignore[attr-defined,unused-ignore]

    core = global_worker.core_worker
    if not core.current_actor_is_asyncio():
        return None
    cls = type(instance)
    descriptor = PythonFunctionDescriptor(cls.__module__, method, cls.__qualname__)
    loop, _ = core.get_event_loop(descriptor, "")
    assert isinstance(loop, asyncio.AbstractEventLoop)
    return loop


def node_of(instance: object) -> str:  # noqa: ARG001 - the actor
    """Run in an actor: the id of the node that it lives on, in hexadecimal."""
    node: str = ray.get_runtime_context().get_node_id()
    return node


def is_async_actor() -> bool:
    """Whether this process's actor runs its methods on an event loop."""
    from ray._private.worker import global_worker

    return bool(global_worker.core_worker.current_actor_is_asyncio())


def own_actor() -> tuple[str, object] | None:
    """This process's actor: its id, in hexadecimal, and the instance; None in a process that is no actor."""
    from ray._private.worker import global_worker

    if not ray.is_initialized() or global_worker.actor_id is None or global_worker.actor_id.is_nil():
        return None
    instance = global_worker.actors.get(global_worker.actor_id)
    return None if instance is None else (global_worker.actor_id.hex(), instance)


def plain_method(instance: object, name: str) -> Callable[..., Any]:
    """A method of the actor, without the wrapper by which Ray resumes a caller's trace.

    That wrapper does nothing when there is no trace to resume, as in a compiled graph, but costs a call.

    Raises:
        AttributeError: the actor has no such method.
    """
    method = getattr(instance, name)
    function = getattr(method, "__func__", None)
    if function is not None and "_ray_trace_ctx" in inspect.signature(function, follow_wrapped=False).parameters:
        return MethodType(inspect.unwrap(function), instance)
    bound: Callable[..., Any] = method
    return bound


def end_actor() -> None:
    """End this process's actor, of which a node has raised ``SystemExit``, from whichever thread.

    As when a method exits: calls under way are finished, those behind them fail, ``atexit`` handlers run, and Ray
    does not restart it. (``__ray_terminate__`` does the same seconds later, as its own call keeps the process.)
    """
    from ray._private.worker import global_worker

    try:
        global_worker.core_worker.drain_and_exit_worker("user", "a node of a compiled graph raised SystemExit")
    except Exception:
        os._exit(1)
