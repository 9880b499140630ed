"""The compiled graph: what users hold."""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Self, TextIO

from async_adag.driver import closing
from async_adag.driver.admission import Admission
from async_adag.driver.arrivals import Sinks
from async_adag.driver.engine import Engine
from async_adag.driver.event_loop import settle_here
from async_adag.driver.joint import Part
from async_adag.driver.results import FutureList, GraphRef, RefList
from async_adag.driver.snapshots import state_of, stats_of
from async_adag.driver.stream import stream
from async_adag.driver.trace import Target, Trace
from async_adag.errors import CapacityExceeded, ExecutionTimeout
from async_adag.observe.shares import shares_between
from async_adag.observe.stats import Stats
from async_adag.observe.visualize import Format, draw
from async_adag.options import check_timeout
from async_adag.protocol.lifecycle import State

if TYPE_CHECKING:
    from async_adag.driver.spans import SpannedGraph
    from async_adag.observe.watch import Watch


class GraphCalls:
    """The calls that run executions; shared by a graph and its `CompiledGraph.options` views."""

    _engine: Engine
    _admission: Admission
    _timeout: float | None = None

    @property
    def _owner(self) -> CompiledGraph:
        """The graph that executions keep alive while tasks wait for them."""
        raise NotImplementedError

    async def execute_async(self, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any] | FutureList:
        """Admit an execution; waits, first come first served, while the graph is full.

        The arguments are serialised when the execution is admitted. Cancelling this wait admits nothing.

        Returns:
            An `asyncio.Future` of the result; for a ``MultiOutputNode`` a list of one future per output, which
            can be awaited itself for the list of values. Cancelling a future abandons that result only.

        Raises:
            TypeError: not the arguments that the graph takes.
            GraphClosed: the graph was torn down.
            GraphBroken: an actor died or a channel failed.
            Exception: whatever pickling the arguments raised; nothing was sent.
        """
        sinks = self._submit_now(args, kwargs, together=False)
        if sinks is None:
            sinks = await self._submit(args, kwargs, together=False)
        return FutureList(sinks) if self._engine.plan.graph.multi else sinks[0]

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Admit an execution and wait for its result.

        Returns:
            The value; for a ``MultiOutputNode`` the list of values. Arrays that crossed a process are read-only.

        Raises:
            Exception: as `execute_async`; or what a node raised, as the very class, with the remote traceback as
                its ``__cause__``.
            ExecutionTimeout: a deadline of `options` was missed.
        """
        sinks = self._submit_now(args, kwargs, together=True)
        if sinks is None:
            sinks = await self._submit(args, kwargs, together=True)
        return await self._whole(sinks)

    def execute(self, /, *args: Any, **kwargs: Any) -> GraphRef | RefList:
        """Admit an execution from a thread; waits up to ``submit_timeout`` while the graph is full.

        Returns:
            A `GraphRef`; for a ``MultiOutputNode`` a list of one per output, with a ``get`` of its own.

        Raises:
            CapacityExceeded: no place came free in time.
            Exception: otherwise as `execute_async`.
        """
        engine = self._engine
        refs = self._admission.submit(args, kwargs, self._owner, engine.options.submit_timeout)
        return RefList(refs) if engine.plan.graph.multi else refs[0]

    def map(
        self, items: Iterable[Any] | AsyncIterable[Any], window: int | None = None, ordered: bool = True
    ) -> AsyncGenerator[Any, None]:
        """Run an execution for each item, many at once, and iterate over the results.

        Args:
            items: a plain or async iterable; each item is the one positional argument of an execution.
            window: items taken and not yet yielded, at most; ``max_inflight`` by default.
            ordered: whether results come in the order of the items, or as they complete.

        Raises:
            ValueError: a window that is no positive integer.
            Exception: the first error, in its place; it ends the iteration.
        """
        if window is None:
            window = self._engine.options.max_inflight
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ValueError(f"window must be an integer of at least 1, not {window!r}")
        return stream(items, self._submit_one, self._try_submit_one, window, ordered)

    def with_spans(self, name: str = "graph", tracer_provider: Any = None) -> SpannedGraph:
        """A view of this graph that has a span of OpenTelemetry for each execution.

        Args:
            name: of the spans.
            tracer_provider: by default OpenTelemetry's global one.

        Raises:
            ImportError: OpenTelemetry is not installed; says what to do.
        """
        from async_adag.driver.spans import SpannedGraph

        return SpannedGraph(self, name, tracer_provider)

    def _submit_now(self, args: tuple[Any, ...], kwargs: dict[str, Any], together: bool) -> Sinks | None:
        """Admit an execution without a deadline; None where it has one, or would have to wait."""
        if self._timeout is not None:
            return None
        return self._admission.submit_now(args, kwargs, self._owner, together)

    async def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], together: bool) -> Sinks:
        """Admit an execution, waiting for a place; with a deadline, which counts from here, if there is one."""
        engine, timeout = self._engine, self._timeout
        loop = asyncio.get_running_loop()
        began = loop.time()
        sinks = self._admission.submit_now(args, kwargs, self._owner, together)
        if sinks is None:
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    sinks = await self._admission.submit_async(args, kwargs, self._owner, together)
            except TimeoutError:
                if not limit.expired():
                    raise  # the user's own, of pickling
                raise ExecutionTimeout(
                    f"no place came free within the deadline of {timeout:g} s{engine.describe_computing()}"
                ) from None
            finally:
                del limit  # it holds the task, and a cancelled one holds this frame: its arguments would stay
        if timeout is not None:
            _set_deadline(sinks, loop, began + timeout, timeout, engine)
        return sinks

    async def _submit_one(self, item: Any) -> asyncio.Future[Any]:
        return self._whole(await self._submit((item,), {}, together=True))

    def _try_submit_one(self, item: Any) -> asyncio.Future[Any] | None:
        sinks = self._admission.submit_now((item,), {}, self._owner, together=True)
        if sinks is not None and self._timeout is not None:
            loop = asyncio.get_running_loop()
            _set_deadline(sinks, loop, loop.time() + self._timeout, self._timeout, self._engine)
        return None if sinks is None else self._whole(sinks)

    def _whole(self, sinks: Sinks) -> asyncio.Future[Any]:
        """The one future of an execution whose outputs were asked for together."""
        future: asyncio.Future[Any] = sinks[0].whole if self._engine.plan.graph.multi else sinks[0]
        return future


def _set_deadline(
    sinks: Sinks, loop: asyncio.AbstractEventLoop, at: float, timeout: float, engine: Engine
) -> None:
    futures = [sinks[0].whole] if isinstance(sinks[0], Part) else sinks
    handle = loop.call_at(at, _expire, sinks, futures, timeout, engine)
    left = len(futures)

    def settled(_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            handle.cancel()

    for future in futures:
        future.add_done_callback(settled)


def _expire(sinks: Sinks, futures: list[asyncio.Future[Any]], timeout: float, engine: Engine) -> None:
    late = [future for future in futures if not future.done()]
    error = ExecutionTimeout(
        f"execution {engine.number_of(sinks)} missed its deadline of {timeout:g} s and is "
        f"abandoned{engine.describe_computing()}"
    )
    for future in late:
        settle_here(future, None, error)


class CompiledGraph(GraphCalls):
    """A DAG of actor methods, compiled: channels and loops are in place until it is closed.

    Made by `async_adag.compile`. Use it as a context manager, sync or async: a clean exit drains what is in
    flight, an exception abandons it. Threads may use the blocking calls while one event loop uses the others.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._admission = Admission(engine)
        # The last net, for a graph that is dropped without teardown, or alive when the interpreter exits.
        self._finalizer = weakref.finalize(self, closing.abandon, engine)

    @property
    def _owner(self) -> CompiledGraph:
        return self

    def options(self, *, timeout: float | None = None) -> GraphView:
        """A view of this graph whose executions have a deadline.

        Args:
            timeout: seconds from the call, the wait for a place included, until the result; an execution that
                misses it fails with `ExecutionTimeout` and is abandoned, and the graph goes on. None for no
                deadline.

        Raises:
            ValueError: a timeout that is no number of seconds, or less than 0.
        """
        check_timeout(timeout)
        return GraphView(self, timeout)

    def stats(self) -> Stats:
        """What the graph has done so far and is doing now: a frozen snapshot."""
        return stats_of(self._engine)

    def dump(self, file: TextIO | None = None) -> None:
        """Print what every loop does, how far every channel is, and where each execution in flight is.

        Nothing is stopped or asked: it reads what the actors keep in shared memory, so it works while they hang.

        Args:
            file: where to; standard error by default.
        """
        print(state_of(self._engine), file=sys.stderr if file is None else file)

    def trace(self, file: Target | None = None) -> Trace:
        """Record a timeline of all processes of the graph: ``with compiled.trace("trace.json"): ...``.

        A context manager, also for ``async with``, which writes the file on another thread. The file is in
        Chrome's trace event format, to be opened at https://ui.perfetto.dev. Each process keeps its latest 65,536
        records, which take 2 MiB meanwhile; a node takes about four in an execution. Times of other hosts are put
        on this one's clock; the `Trace` says how far off those may be.

        Args:
            file: where to write the timeline when the block is left: a path, or a file open for text. None for
                none: the `Trace` has the events.

        Raises:
            RuntimeError: on entering, where the graph is being traced already.
            GraphClosed: on entering, where the graph was torn down.
            OSError: on entering, where the file cannot be opened, or there is no memory for the records.
        """
        return Trace(self._engine, file)

    def watch(self, *, console: Any = None, refresh: float = 4.0) -> Watch:
        """Show in the terminal what the graph does: ``with compiled.watch(): ...``, in asyncio code too.

        Executions per second, those in flight, callers in line; for each node how often it runs, how long a call
        takes, how busy it is; for each actor how idle. Figures are of the last second.

        Args:
            console: a ``rich.console.Console``; by default the terminal.
            refresh: how often to draw, in a second.

        Raises:
            ImportError: rich is not installed; says what to do.
            ValueError: a ``refresh`` that is 0 or less.
        """
        from async_adag.observe.watch import Watch

        return Watch(self.stats, repr(self), console, refresh)

    def visualize(self, format: Format = "text", *, times: bool | Stats = False) -> str:  # noqa: A002 - the word that callers expect
        """A picture of the graph: actors, methods, channels with their transports and sizes. The same each time.

        Args:
            format: "text", in the order of flow; "dot" for Graphviz; "svg" to be shown as it is.
            times: whether "dot" and "svg" say where time goes too: how busy each node and actor was since the
                graph was compiled, or since a snapshot that `stats` gave.

        Raises:
            ValueError: another format; lists those there are. Or times for "text", which is the same each time.
        """
        shares = None
        if times is not False:
            shares = shares_between(None if times is True else times, self.stats())
        return draw(self._engine.plan, self._engine.deployment.transport, format, shares)

    def _repr_svg_(self) -> str:
        return self.visualize("svg")  # what notebooks show

    def teardown(self) -> None:
        """Abandon what is in flight, after taking in what has arrived, and free the actors. Idempotent.

        Bounded in time: an actor whose method is still running gives its share back when it returns. Called in the
        middle of another call of this graph, by a signal's handler for one, it returns at once, and another thread
        does it when that call has come to where nothing is half done.

        Raises:
            GraphClosed: this process was forked from the graph's own, whose graph goes on.
        """
        self._engine.life.check_process()
        if closing.teardown(self._engine):
            self._finalizer.detach()

    async def aclose(self) -> None:
        """Let what is in flight finish, then free the actors. Idempotent. Cancelling it abandons the graph.

        Raises:
            GraphClosed: this process was forked from the graph's own, whose graph goes on.
        """
        self._engine.life.check_process()
        await closing.aclose(self._engine)
        self._finalizer.detach()

    def __enter__(self) -> Self:
        self._engine.life.check_open()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._engine.life.is_forked():
            return  # a forked child leaves the block: the graph is its parent's
        if kind is None:
            closing.close(self._engine)
            self._finalizer.detach()
        else:
            self.teardown()

    async def __aenter__(self) -> Self:
        self._engine.life.check_open()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if self._engine.life.is_forked():
            return
        if kind is None:
            await self.aclose()
        else:
            await closing.ateardown(self._engine)
            self._finalizer.detach()

    def __repr__(self) -> str:
        graph = self._engine.plan.graph
        state = self._engine.life.state
        words = {State.DRAINING: "closed"}.get(state, state.value)
        return f"<CompiledGraph {len(graph.actors)} actors, {len(graph.nodes)} nodes, {words}>"

    def __reduce__(self) -> Any:
        raise TypeError("a CompiledGraph cannot be pickled: compile the DAG in the process that runs it")


class GraphView(GraphCalls):
    """A compiled graph with other execution options; see `CompiledGraph.options`."""

    def __init__(self, graph: CompiledGraph, timeout: float | None) -> None:
        self._engine = graph._engine
        self._admission = graph._admission
        self._graph = graph
        self._timeout = timeout

    @property
    def _owner(self) -> CompiledGraph:
        return self._graph

    def options(self, *, timeout: float | None = None) -> GraphView:
        """Another view of the same graph, with that deadline in place of this one's; see `CompiledGraph.options`.

        Raises:
            ValueError: a timeout that is no number of seconds, or less than 0.
        """
        return self._graph.options(timeout=timeout)

    def execute(self, /, *args: Any, **kwargs: Any) -> GraphRef | RefList:
        """As `CompiledGraph.execute`, with the deadline; it is checked when the refs are got.

        Raises:
            ExecutionTimeout: no place came free before the deadline.
        """
        engine, timeout = self._engine, self._timeout
        patience = engine.options.submit_timeout
        if timeout is None:
            return super().execute(*args, **kwargs)
        at = time.monotonic() + timeout
        try:
            within = timeout if patience is None else min(patience, timeout)
            refs = self._admission.submit(args, kwargs, self._owner, within)
        except CapacityExceeded as error:
            if patience is not None and patience <= timeout:
                raise
            raise ExecutionTimeout(f"no place came free within the deadline of {timeout:g} s: {error}") from None
        for ref in refs:
            ref.deadline, ref.limit = at, timeout
        return RefList(refs) if engine.plan.graph.multi else refs[0]

    def __repr__(self) -> str:
        deadline = "no deadline" if self._timeout is None else f"a deadline of {self._timeout:g} s"
        return f"<GraphView of {self._graph!r} with {deadline}>"
