"""Executions as spans of OpenTelemetry. Its API comes with ``pip install 'async-adag[opentelemetry]'``.

Only executions that are started through a `SpannedGraph` pay for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from async_adag._version import __version__
from async_adag.driver.graph import GraphCalls
from async_adag.driver.results import FutureList, GraphRef, RefList
from async_adag.observe.timeline import Timeline

if TYPE_CHECKING:
    from async_adag.driver.graph import CompiledGraph


def _api() -> Any:
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise ImportError(
            "spans need the API of OpenTelemetry: pip install 'async-adag[opentelemetry]', and an SDK"
        ) from error
    return trace


class SpannedGraph(GraphCalls):
    """A compiled graph with a span for each execution; made by `CompiledGraph.with_spans`.

    A span begins with the call, in the context that is current then, and ends when the last result has arrived. It
    has an event ``admitted``, for when a place was free, and the status of the first error.
    """

    def __init__(self, graph: GraphCalls, name: str, tracer_provider: Any = None) -> None:
        self._api = _api()
        self._tracer = self._api.get_tracer("async_adag", __version__, tracer_provider)
        self._name = name
        self._graph = graph
        self._engine = graph._engine
        self._admission = graph._admission
        self._timeout = graph._timeout

    @property
    def _owner(self) -> CompiledGraph:
        return self._graph._owner

    async def execute_async(self, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any] | FutureList:
        """As `CompiledGraph.execute_async`."""
        with self._admitted() as span:
            result = await self._graph.execute_async(*args, **kwargs)
        span.follow_futures(result if isinstance(result, FutureList) else [result])
        return result

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """As `CompiledGraph`'s."""
        return await (await self.execute_async(*args, **kwargs))

    def execute(self, /, *args: Any, **kwargs: Any) -> GraphRef | RefList:
        """As `CompiledGraph.execute`. A span ends when its results are taken in, or dropped."""
        with self._admitted() as span:
            result = self._graph.execute(*args, **kwargs)
        with self._engine.lock:
            span.follow_refs(result if isinstance(result, RefList) else [result])
        return result

    async def _submit_one(self, item: Any) -> asyncio.Future[Any]:
        with self._admitted() as span:
            future = await super()._submit_one(item)
        span.follow_futures([future])
        return future

    def _try_submit_one(self, item: Any) -> asyncio.Future[Any] | None:
        began = time.time_ns()
        try:
            future = super()._try_submit_one(item)
        except BaseException as error:
            self._span(began).fail(error)
            raise
        if future is not None:  # else `_submit_one` is called
            self._span(began).follow_futures([future])
        return future

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[_Span]:
        span = self._span(time.time_ns())
        try:
            yield span
        except BaseException as error:
            span.fail(error)
            raise

    def _span(self, began: int) -> _Span:
        attributes = {"async_adag.graph": self._name}
        return _Span(self._api, self._tracer.start_span(self._name, attributes=attributes, start_time=began))


class _Span:
    """The span of one execution, until all its results have arrived."""

    def __init__(self, api: Any, span: Any) -> None:
        self._api = api
        self._span = span
        self._left = 1
        self._failed = False

    def follow_futures(self, futures: Sequence[asyncio.Future[Any]]) -> None:
        self._span.add_event("admitted")
        self._left = len(futures)
        for future in futures:
            future.add_done_callback(self._on_future)

    def follow_refs(self, refs: Sequence[GraphRef]) -> None:
        """Follow refs; under the graph's lock, so that none is settled meanwhile."""
        self._span.add_event("admitted")
        self._left = len(refs)
        for ref in refs:
            if ref.is_settled():
                self._settled(ref._error)
                continue
            dropped = weakref.finalize(ref, self._settled, None)  # nobody will learn of its outcome
            dropped.atexit = False
            ref.on_settled = partial(self._ref_settled, dropped)

    def _ref_settled(self, dropped: weakref.finalize[..., Any], error: BaseException | None) -> None:
        dropped.detach()
        self._settled(error)

    def fail(self, error: BaseException) -> None:
        """The execution was not begun."""
        self._settled(error)

    def _on_future(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._span.set_attribute("async_adag.cancelled", True)
            self._settled(None)
        else:
            self._settled(future.exception())

    def _settled(self, error: BaseException | None) -> None:
        if error is not None and not self._failed:
            self._failed = True
            self._span.record_exception(error)
            status = self._api.Status(self._api.StatusCode.ERROR, f"{type(error).__name__}: {error}")
            self._span.set_status(status)
        self._left -= 1
        if self._left == 0:
            self._end()

    def _end(self) -> None:
        span, self._span = self._span, self._api.INVALID_SPAN  # it is ended once
        if span is not self._api.INVALID_SPAN:
            span.end()


def export_spans(timeline: Timeline, name: str, tracer_provider: Any = None) -> None:
    """Send what was traced as spans: one for each execution that has ended, in it one for each of its nodes."""
    api = _api()
    tracer = api.get_tracer("async_adag", __version__, tracer_provider)
    to_epoch = time.time_ns() - time.monotonic_ns()
    for execution in timeline.executions():
        if execution.ended is None:
            continue
        attributes = {"async_adag.graph": name, "async_adag.execution": execution.number}
        span = tracer.start_span(name, attributes=attributes, start_time=execution.began + to_epoch)
        inside = api.set_span_in_context(span)
        if execution.failed:
            span.set_status(api.Status(api.StatusCode.ERROR))
        for number, record in execution.nodes:
            attributes = {"async_adag.node": number, "async_adag.execution": execution.number}
            node = tracer.start_span(
                timeline.label(number), inside, attributes=attributes, start_time=record.began + to_epoch
            )
            if record.failed:
                node.set_status(api.Status(api.StatusCode.ERROR))
            node.end(record.ended + to_epoch)
        span.end(execution.ended + to_epoch)
