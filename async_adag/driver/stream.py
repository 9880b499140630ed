"""`CompiledGraph.map`: many executions, a window of them in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

Submit = Callable[[Any], Awaitable[asyncio.Future[Any]]]
"""Waits for a place, and gives the future of the execution's value."""

TrySubmit = Callable[[Any], asyncio.Future[Any] | None]
"""As `Submit`, but None where it would wait."""


async def stream(
    items: Iterable[Any] | AsyncIterable[Any],
    submit: Submit,
    try_submit: TrySubmit,
    window: int,
    ordered: bool,
) -> AsyncGenerator[Any, None]:
    """Yield the results of ``items``; see `CompiledGraph.map`."""
    source = _Source(items, submit, try_submit)
    pending: deque[asyncio.Future[Any]] = deque()
    try:
        while True:
            while len(pending) < window and (future := source.take_now()) is not None:
                pending.append(future)
            fetch = source.fetching() if len(pending) < window else None
            ready = _ready(pending, ordered)
            if ready is not None:
                pending.remove(ready)
                yield ready.result()
            elif fetch is None and not pending:
                return
            elif fetch is not None and fetch.done():
                source.fetched(fetch, pending)
            else:
                waiting = {pending[0]} if ordered and pending else set(pending)
                await asyncio.wait(waiting | ({fetch} if fetch else set()), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in pending:
            future.cancel()
        await source.close()


def _ready(pending: deque[asyncio.Future[Any]], ordered: bool) -> asyncio.Future[Any] | None:
    if ordered:
        return pending[0] if pending and pending[0].done() else None
    return next((future for future in pending if future.done()), None)


class _Source:
    """Takes items and submits them: at once where that is possible, in a task where it has to wait."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any], submit: Submit, try_submit: TrySubmit) -> None:
        self._submit = submit
        self._try_submit = try_submit
        self._async: AsyncIterator[Any] | None = None
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
        else:
            self._plain = iter(items)
        self._exhausted = False
        self._held: list[Any] = []  # an item that was taken and found no place yet
        self._error: BaseException | None = None
        self._fetch: asyncio.Task[asyncio.Future[Any] | None] | None = None

    def take_now(self) -> asyncio.Future[Any] | None:
        """The future of the next item, if neither the item nor the graph has to be waited for."""
        if self._fetch is not None or self._exhausted:
            return None
        if not self._held:
            if self._async is not None:
                return None
            try:
                self._held.append(next(self._plain))
            except StopIteration:
                self._exhausted = True
                return None
            except BaseException as error:
                return self._failed(error)
        try:
            future = self._try_submit(self._held[0])
        except (Exception, asyncio.CancelledError) as error:
            return self._failed(error)
        if future is not None:
            self._held.clear()
        return future

    def fetching(self) -> asyncio.Task[asyncio.Future[Any] | None] | None:
        """The task that waits for the next item and a place for it; None at the end."""
        if self._fetch is None and not self._exhausted:
            self._fetch = asyncio.ensure_future(self._next())
        return self._fetch

    def fetched(
        self, fetch: asyncio.Task[asyncio.Future[Any] | None], pending: deque[asyncio.Future[Any]]
    ) -> None:
        """Put what ``fetch`` got among the pending ones."""
        self._fetch = None
        try:
            future = fetch.result()
        except (Exception, asyncio.CancelledError) as error:
            # The source's own: a cancellation of the task that iterates is raised where it waits, never here.
            future = self._failed(error)
        if future is None:
            self._exhausted = True
        else:
            pending.append(future)

    async def _next(self) -> asyncio.Future[Any] | None:
        if not self._held:
            assert self._async is not None
            try:
                self._held.append(await anext(self._async))
            except StopAsyncIteration:
                return None
        future = await self._submit(self._held[0])
        self._held.clear()
        return future

    def _failed(self, error: BaseException) -> asyncio.Future[Any]:
        # In its place: results of the items before it come first.
        self._exhausted = True
        self._held.clear()
        future = asyncio.get_running_loop().create_future()
        future.set_exception(_raisable(error))
        future._log_traceback = False
        return future

    async def close(self) -> None:
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            fetch.cancel()
            await asyncio.wait([fetch])
            if not fetch.cancelled() and fetch.exception() is None and (future := fetch.result()) is not None:
                future.cancel()
        close = getattr(self._async, "aclose", None)
        if close is not None:
            await close()


def _raisable(error: BaseException) -> BaseException:
    """``error`` as a future takes it: a StopIteration becomes a RuntimeError, as in coroutines."""
    if not isinstance(error, StopIteration):
        return error
    instead = RuntimeError("submitting an item raised StopIteration")
    instead.__cause__ = error
    return instead
