"""What a caller holds of an execution: futures for asyncio, refs for the blocking side.

Both are *sinks*: the graph settles each once, when its frame arrives or when it is known that none will.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from async_adag.driver.ray_refs import RefBase
from async_adag.options import check_timeout

if TYPE_CHECKING:
    from async_adag.driver.engine import Engine


class GraphRef(RefBase):
    """A result of `CompiledGraph.execute`: get it as often as you like, or drop it.

    ``ray.get(ref)`` and ``ray.get([ref, …])`` take it too. It cannot be copied or pickled, and ``ray.wait`` does
    not take it: it belongs to this process.
    """

    on_settled: Callable[[BaseException | None], None] | None = None  # told of the outcome, once

    def __init__(self, engine: Engine, owner: object, output: int) -> None:
        # ``owner`` is the compiled graph: a ref that may still be got keeps it from being torn down.
        self._engine = engine
        self.deadline: float | None = None  # on `time.monotonic`, of an execution that has one
        self.limit = 0.0  # seconds that this was from the call
        self._owner: object | None = owner
        self._output = output
        self._seq = -1
        self._settled = False
        self._value: Any = None
        self._error: BaseException | None = None

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the result.

        Args:
            timeout: seconds; 0 gives what has arrived; None waits for the graph's ``get_timeout``.

        Raises:
            ExecutionTimeout: it has not arrived yet. Nothing is consumed: get it again later.
            GraphClosed: the graph was torn down before it arrived.
            GraphBroken: an actor died, or a channel failed, before it arrived.
            Exception: what a node raised; the same object each time.
        """
        if timeout is not None:
            check_timeout(timeout)
        if not self._settled:
            self._engine.blocking.wait_for(self, timeout)
        if self._error is not None:
            # The object is shared by every get: each starts its traceback afresh.
            raise self._error.with_traceback(None)
        return self._value

    def is_settled(self) -> bool:
        """Whether the result, or an error, has arrived."""
        return self._settled

    def number(self, seq: int) -> None:
        """Say which execution this belongs to."""
        self._seq = seq

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Keep the result; the graph is no longer needed for it."""
        if self._settled:  # abandoned at its deadline
            return
        self._value = value
        self._error = error
        self._settled = True
        self._owner = None
        if self.on_settled is not None:
            self.on_settled(error)

    def __repr__(self) -> str:
        state = "failed" if self._error is not None else "arrived" if self._settled else "in flight"
        return f"<GraphRef execution={self._seq} output={self._output} {state}>"

    __str__ = __repr__

    def __copy__(self) -> GraphRef:
        raise ValueError(
            "a GraphRef cannot be copied: it stands for one result in this process; pass it on as it is"
        )

    def __deepcopy__(self, memo: object) -> GraphRef:
        raise ValueError("a GraphRef cannot be copied: get() its value, and copy that")

    def __reduce__(self) -> Any:
        raise ValueError("a GraphRef cannot be pickled or sent to another process: get() its value, and send that")

    def __del__(self) -> None:
        pass  # Ray's own class cleans up here; there is nothing to clean up


class RefList(list[GraphRef]):
    """The refs of an execution with several outputs."""

    _first: Exception | None = None  # the error that somebody was told first

    def get(self, timeout: float | None = None) -> list[Any]:
        """Wait for all results.

        Args:
            timeout: seconds for all of them together, as in `GraphRef.get`.

        Raises:
            Exception: as `GraphRef.get`; the first error, as soon as it is there, and the same one each time.
        """
        if timeout is not None:
            check_timeout(timeout)
        if self._first is not None:
            raise self._first.with_traceback(None)
        if self:
            self[0]._engine.blocking.wait_for_all(self, timeout)
        try:
            for ref in self:
                if ref._error is not None:
                    ref.get(0)
        except Exception as error:
            self._first = error
            raise
        return [ref.get(0) for ref in self]


class FutureList(list["asyncio.Future[Any]"]):
    """The futures of an execution with several outputs; awaitable for the list of their values.

    The first error wins there, and stays the first; each future has its own outcome all the same.
    """

    _first: Exception | None = None

    __hash__ = object.__hash__  # type: ignore[assignment]  # gather() and wait() put awaitables into a set

    def __await__(self) -> Generator[Any, None, list[Any]]:
        if self._first is not None:
            raise self._first.with_traceback(None)
        try:
            for future in self:
                if not future.done():
                    return (yield from asyncio.gather(*self).__await__())
            return [future.result() for future in self]
        except Exception as error:
            self._first = error
            raise
