"""Ray's compiled graph and async_adag behind one small interface.

Each is called in the way its own documentation shows; what this layer adds is at most one coroutine or one
function per call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ray
from ray.dag import MultiOutputNode

from benchmarks.graphs import set_ray_buffers

MAX_INFLIGHT = 10  # Ray's default, given to both

BusyPoll = float | Literal["auto"]
Placement = Literal["together", "apart"] | None


@dataclass(frozen=True)
class Graph:
    """A compiled graph, ready to be called."""

    call: Callable[[Any], Awaitable[Any]]
    """One awaited round trip."""
    submit: Callable[[Any], Awaitable[Awaitable[Any]]]
    """Admits one execution and gives what is awaited for its result."""
    call_blocking: Callable[[Any], Any]
    """One round trip that blocks the thread."""
    close: Callable[[], None]


class Backend(Protocol):
    """Something that compiles a Ray DAG."""

    @property
    def name(self) -> str: ...

    def compile(
        self,
        dag: Any,
        actors: Sequence[Any] = (),
        *,
        asynchronous: bool,
        max_inflight: int = MAX_INFLIGHT,
        buffer_size: int | None = None,
    ) -> Graph:
        """Compiles a DAG over some of `actors` (`graphs.Stage`), which are told what Ray has to be told.

        `asynchronous` says which side of the graph will be called; `buffer_size` None is the default.
        """
        ...


@dataclass(frozen=True)
class RayBackend:
    """`dag.experimental_compile()`."""

    name: str = "ray"

    def compile(
        self,
        dag: Any,
        actors: Sequence[Any] = (),
        *,
        asynchronous: bool,
        max_inflight: int = MAX_INFLIGHT,
        buffer_size: int | None = None,
    ) -> Graph:
        with _buffers_of(buffer_size, actors):
            compiled = dag.experimental_compile(
                enable_asyncio=asynchronous,
                _max_inflight_executions=max_inflight,
                _buffer_size_bytes=buffer_size,
            )

        async def call(value: Any) -> Any:
            return await (await compiled.execute_async(value))

        async def call_many(value: Any) -> Any:
            # One future per output, and the first await brings them all in: a gather would only cost.
            return [await future for future in await compiled.execute_async(value)]

        def call_blocking(value: Any) -> Any:
            return ray.get(compiled.execute(value))

        return Graph(
            call=call_many if isinstance(dag, MultiOutputNode) else call,
            submit=compiled.execute_async,
            call_blocking=call_blocking,
            close=compiled.teardown,
        )


@dataclass(frozen=True)
class AdagBackend:
    """`async_adag.compile(dag)`."""

    busy_poll: BusyPoll = "auto"
    placement: Placement = None
    name: str = "async_adag"

    def compile(
        self,
        dag: Any,
        actors: Sequence[Any] = (),  # noqa: ARG002 - it finds them in the DAG
        *,
        asynchronous: bool,  # noqa: ARG002 - one graph has both sides
        max_inflight: int = MAX_INFLIGHT,
        buffer_size: int | None = None,
    ) -> Graph:
        import async_adag  # here: `--backend ray` runs without it

        options: dict[str, Any] = {} if buffer_size is None else {"buffer_size": buffer_size}
        if self.placement is not None:  # so that commits without it can be measured
            options["placement"] = self.placement
        compiled = async_adag.compile(dag, max_inflight=max_inflight, busy_poll=self.busy_poll, **options)

        def call_blocking(value: Any) -> Any:
            return compiled.execute(value).get()

        return Graph(
            call=compiled,
            submit=compiled.execute_async,
            call_blocking=call_blocking,
            close=compiled.teardown,
        )


@contextmanager
def _buffers_of(size: int | None, actors: Sequence[Any]) -> Iterator[None]:
    """Have Ray make buffers of so many bytes.

    Each end of a channel takes the size from the context of its process, whatever `experimental_compile` is told.
    """
    if size is None:
        yield
        return
    before = set_ray_buffers(size)
    ray.get([actor.set_ray_buffers.remote(size) for actor in actors])
    try:
        yield
    finally:
        set_ray_buffers(before)
        ray.get([actor.set_ray_buffers.remote(before) for actor in actors])
