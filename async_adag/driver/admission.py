"""Who gets in, and when: admits executions, for tasks and for threads, as long as there are places.

Who finds no place stands in line (`capacity.py`); the engine grants places as executions end.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from async_adag.channels.failures import annotate
from async_adag.driver.arguments import part
from async_adag.driver.arrivals import Sinks
from async_adag.driver.capacity import Waiter
from async_adag.driver.engine import Engine
from async_adag.driver.interrupts import Held
from async_adag.driver.joint import parts_of
from async_adag.driver.results import GraphRef
from async_adag.errors import CapacityExceeded
from async_adag.graph.model import FromInput
from async_adag.observe.words import counted
from async_adag.protocol.frame import FrameError
from async_adag.protocol.ledger import Entry

T = TypeVar("T")


class Admission:
    """Admits the executions of one graph."""

    def __init__(self, engine: Engine) -> None:
        plan = engine.plan
        self._engine = engine
        self._life = engine.life
        self._ledger = engine.ledger
        self._line = engine.line
        self._loop = engine.loop
        self._attention = engine.attention
        self._inputs = engine.inputs
        self._controls = engine.deployment.controls
        self._check = engine.inputs.check
        self._has_results = bool(plan.results())
        self._outputs = range(len(plan.outputs))
        self._is_multi = plan.graph.multi
        self._echoes = [
            (number, output.key) for number, output in enumerate(plan.outputs) if isinstance(output, FromInput)
        ]
        self._alone = False  # whether executions come one at a time

    # -- for tasks

    def submit_now(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, together: bool
    ) -> Sinks | None:
        """Admit an execution for a task, one future for each output; None where it would have to wait.

        Args:
            args: of the execution.
            kwargs: the same.
            owner: the compiled graph that users hold; it lives while tasks wait for it.
            together: whether several outputs are to be the parts of one future (`joint.py`).
        """
        self._check(args, kwargs)
        loop: asyncio.AbstractEventLoop | None = self._loop.quiet()
        if loop is None:
            with Held():
                return self._submit_now(loop, args, kwargs, owner, together)
        return self._submit_now(loop, args, kwargs, owner, together)

    def _submit_now(
        self,
        loop: asyncio.AbstractEventLoop | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        owner: object,
        together: bool,
    ) -> Sinks | None:
        engine = self._engine
        with engine.lock:
            if self._life.refusal is not None:
                self._life.check_open()
            self._call_up()
            if loop is None:
                loop = self._loop.bind()
                self._life.check_open()  # a new loop takes in what has arrived, which may break the graph
            # Behind those as well whose place is granted and whose task has not run yet.
            if engine.has_place() and self._line.is_empty() and not self._ledger.reserved:
                return self._admit_futures(loop, args, kwargs, owner, together, reserved=False)
        return None

    async def submit_async(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, together: bool
    ) -> Sinks:
        """Admit an execution for a task, after those who came before; otherwise as `submit_now`."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(place)
        try:
            self._undisturbed(lambda: self._join_line(waiter))
            while True:
                await place
                if waiter.error is not None:
                    raise waiter.error.with_traceback(None)
                sinks = self._undisturbed(lambda: self._admit_granted(waiter, args, kwargs, owner, together))
                if sinks is not None:
                    return sinks
                assert waiter.future is not None
                place = waiter.future
        except BaseException:
            self._undisturbed(lambda: self._leave_line(waiter))
            raise

    def _undisturbed(self, step: Callable[[], T]) -> T:
        """Do a step of a task's, in the middle of which Ctrl-C must not raise."""
        if self._loop.quiet() is None:
            with Held():
                return step()
        return step()

    def _join_line(self, waiter: Waiter) -> None:
        engine = self._engine
        with engine.lock:
            self._life.check_open()
            self._loop.bind()
            self._life.check_open()
            self._line.join(waiter)
            engine.grant()
            self._loop.settle_in()

    def _leave_line(self, waiter: Waiter) -> None:
        with self._engine.lock:
            self._line.leave(waiter)
            self._engine.grant()

    def _admit_granted(
        self, waiter: Waiter, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, together: bool
    ) -> Sinks | None:
        """None: a thread took the place, and it stands in line again, with another future."""
        with self._engine.lock:
            self._life.check_open()
            loop = self._loop.bind()
            if not waiter.granted:
                waiter.future = loop.create_future()
                return None
            self._line.take(waiter)
            return self._admit_futures(loop, args, kwargs, owner, together, reserved=True)

    def _admit_futures(
        self,
        loop: asyncio.AbstractEventLoop,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        owner: object,
        together: bool,
        reserved: bool,
    ) -> Sinks:
        sinks: Sinks
        if not self._is_multi:
            sinks = [loop.create_future()]
        elif together:
            sinks = list(parts_of(loop.create_future(), len(self._outputs)))
        else:
            sinks = [loop.create_future() for _ in self._outputs]
        self._admit(args, kwargs, sinks, reserved)
        if self._ledger.in_flight:
            self._loop.keep(owner)
            if self._engine.arrivals.is_partial:
                self._attention.is_armed = False
            if not self._attention.is_armed:
                self._attention.expect(loop, may_poll=not self._loop.is_raw)
        return sinks

    # -- for threads

    def submit(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, timeout: float | None
    ) -> list[GraphRef]:
        """Admit an execution for a thread; one ref for each output.

        Raises:
            CapacityExceeded: no place was free within ``timeout`` seconds.
        """
        self._check(args, kwargs)
        with Held() as held:
            return self._submit(args, kwargs, owner, timeout, held)

    def _submit(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, timeout: float | None, held: Held
    ) -> list[GraphRef]:
        engine = self._engine
        with engine.lock:
            self._life.check_open()
            self._call_up()
            if self._line.is_empty() and engine.has_place():
                return self._admit_refs(args, kwargs, owner, reserved=False)
            self._life.check_open()  # the look for a place may have broken the graph
            waiter = Waiter()
            loop = asyncio._get_running_loop()
            if loop is None:
                self._line.join(waiter)
            else:
                self._line.join_before_tasks(waiter, loop)
                engine.grant()
        self._stand_in_line(waiter, timeout, held)
        with engine.lock:
            if self._life.refusal is not None:
                self._ledger.release()
                self._life.check_open()
            return self._admit_refs(args, kwargs, owner, reserved=True)

    def _admit_refs(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, reserved: bool
    ) -> list[GraphRef]:
        refs = [GraphRef(self._engine, owner, number) for number in self._outputs]
        entry = self._admit(args, kwargs, [weakref.ref(ref) for ref in refs], reserved)
        for ref in refs:
            ref.number(entry.seq)
        return refs

    def _stand_in_line(self, waiter: Waiter, timeout: float | None, held: Held) -> None:
        engine = self._engine
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            if timeout != 0:
                engine.blocking.check_loop()
            engine.blocking.wait(lambda: waiter.granted or waiter.error is not None, deadline, held)
        except BaseException:
            self._leave_line(waiter)
            raise
        with engine.lock:
            if waiter.error is not None:
                raise waiter.error.with_traceback(None)
            if waiter.granted:
                return
            self._line.leave(waiter)
        count = self._ledger.in_flight
        raise CapacityExceeded(
            f"{counted(count, 'execution')} {'is' if count == 1 else 'are'} in flight "
            f"(max_inflight={engine.options.max_inflight}), none arrived within "
            f"submit_timeout={timeout:g} s{engine.describe_computing()}"
        )

    # -- for both

    def _call_up(self) -> None:
        """An execution comes: where it will be the only one, have the actors wake while it is made ready."""
        alone = self._ledger.in_flight == 0 and self._has_results
        if alone is not self._alone:
            self._alone = alone
            for control in self._controls:
                control.set_alone(alone)
        if alone:
            for writer in self._inputs.writers:
                writer.call_up()

    def _admit(self, args: tuple[Any, ...], kwargs: dict[str, Any], sinks: Sinks, reserved: bool) -> Entry[Sinks]:
        """Send an execution whose place is free, or ``reserved``."""
        engine, ledger = self._engine, self._ledger
        if self._inputs.is_sending or engine.doubt is not None:
            try:
                engine.check_whole()
            except BaseException:
                if reserved:
                    ledger.reserved -= 1
                raise
        if not reserved:
            ledger.reserve()  # pickling runs code of the user's, which may come back here
        try:
            self._inputs.stage(args, kwargs)
        except BaseException as error:
            ledger.reserved -= 1  # no call: where one was too many, the next is too
            if isinstance(error, FrameError):
                self._life.check_open()
            engine.grant()
            annotate(error, "async_adag: the input could not be sent; no execution was started")
            raise
        try:
            self._inputs.publish()  # first: while the actor wakes, there is time for the books
            for number, key in self._echoes:
                engine.arrivals.settle(sinks[number], part(key, args, kwargs), None, self._loop.is_here())
            entry = ledger.admit(sinks)
            self._inputs.is_sending = False
            return entry
        except BaseException as error:
            engine.break_off(error)
            raise
