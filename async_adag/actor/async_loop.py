"""The loop of an async actor: every execution is a task on the actor's own event loop.

Several executions interleave, at most ``limit`` of them. They begin in order, each when its first frame is
there, and their outputs are written in order, whichever ends first.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from async_adag.actor.boxes import Inbox, Outbox, Unreadable
from async_adag.actor.calls import Call, ChannelFailed, calls_of, first_registers, unpack
from async_adag.actor.children import Origin, end_child
from async_adag.actor.control import TRACE, Control, LoopState
from async_adag.actor.moved import Movers, move_tensors
from async_adag.actor.records import Activity, Recorder, records_in
from async_adag.actor.wiring import Endpoints
from async_adag.channels.failures import formatted
from async_adag.channels.interface import Failure, Stop
from async_adag.graph.plan import ActorPlan
from async_adag.protocol.frame import ChannelError, FrameError


class AsyncLoop:
    """Runs an async actor's share of a graph. Arguments as `ThreadLoop`'s, where they have the same names.

    Args:
        loop: the actor's event loop. All but `__init__` and `start` runs on it.
        limit: executions that may interleave.
    """

    def __init__(
        self,
        instance: object,
        plan: ActorPlan,
        ends: Endpoints,
        movers: Movers,
        control: Control,
        sentinels: list[int],
        limit: int,
        loop: asyncio.AbstractEventLoop,
        end_actor: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> None:
        # Readers' alone, which wait for nobody.
        self._waits_at_end = bool(movers.receivers or movers.placers)
        self._lanes = movers.lanes
        move_tensors(movers, ends, lambda _: contextlib.nullcontext())
        self._loop = loop
        self._calls = calls_of(plan, instance, ends.readers, ends.writers)
        self._first = first_registers(plan)
        self._ends = ends
        self._control = control
        self._sentinels = sentinels
        self._limit = limit
        self._end_actor = end_actor
        self._on_end = on_end
        self._origin = Origin()
        edge = ends.edges.get
        self._inboxes = {number: Inbox(reader, edge(number, "")) for number, reader in ends.readers.items()}
        self._outboxes = {number: Outbox(writer, edge(number, "")) for number, writer in ends.writers.items()}
        self._lead = self._calls[0].reads[0]
        self._heeded = 0  # what the driver asks for, as far as this loop does it
        self._records: Recorder | None = None  # made when first asked for
        self._recorder: Recorder | None = None  # the same, while asked for
        self._begun = 0
        self._running: set[asyncio.Task[None]] = set()
        self._unwritten: set[int] = set()  # executions of which some output has not been made
        self._computing: dict[int, tuple[int, int]] = {}  # execution: its task, and since when
        self._stopping = False
        self._over = False
        self._exiting = False
        self._winding_up: asyncio.Task[None] | None = None  # held here: event loops hold tasks weakly

    def start(self) -> None:
        """Start; from any thread."""
        self._control.set_state(LoopState.WAITING)
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._loop.add_reader(self._ends.doorbell.fd, self._on_doorbell)
        for fd in self._sentinels:
            self._loop.add_reader(fd, self._finish, "")
        if self._ends.network is not None:
            self._loop.add_reader(self._ends.network.fileno(), self._turn)
        self._turn()

    def _on_doorbell(self) -> None:
        self._ends.doorbell.silence()
        self._turn()

    def _turn(self) -> None:
        """Look at everything once: deliver, write, begin; then arm what is waited for."""
        try:
            while not self._over:
                if self._control.asked() != self._heeded and not self._heed():
                    self._finish("")
                    return
                if self._ends.network is not None:
                    self._ends.network.turn()
                for inbox in self._inboxes.values():
                    inbox.deliver()
                for outbox in self._outboxes.values():
                    outbox.flush()
                self._begin_executions()
                if self._stopping and not self._running and self._all_written():
                    self._finish("")
                    return
                if not self._arm():
                    return
        except ChannelError as error:
            self._finish(str(error))
        except BaseException as error:
            self._finish(f"a fault in the loop: {formatted(error)}")

    def _heed(self) -> bool:
        """Do what the driver asks for: record from now on, or no longer; False where it is to end."""
        control = self._control
        if control.should_end():
            return False
        asked = self._heeded = control.asked()
        if asked & TRACE and self._records is None:
            self._records = Recorder(records_in(control.records))
        self._recorder = self._records if asked & TRACE else None
        if self._lanes is not None:
            if self._recorder is None:
                self._lanes.stop(0)  # the actor's other calls are on this loop too
            else:
                self._lanes.start(self._recorder)
        control.heed(asked)
        for number, inbox in self._inboxes.items():
            inbox.record(number, self._recorder)
        channel, _, targets = self._lead
        self._lead = channel, self._inboxes[channel].reader, targets
        return True

    def _begin_executions(self) -> None:
        _, reader, _ = self._lead
        inbox = self._inboxes[self._lead[0]]
        while not self._stopping and self._may_begin() and reader.may_read():
            value = inbox.take_next()
            if type(value) is Stop:
                self._stopping = True
                for outbox in self._outboxes.values():
                    outbox.end(self._begun)
                return
            inbox.keep(self._begun, value)
            # A context of its own: what one execution sets, no other sees.
            task = self._loop.create_task(self._execution(self._begun), context=contextvars.Context())
            self._running.add(task)
            self._unwritten.add(self._begun)
            task.add_done_callback(partial(self._execution_done, self._begun))
            self._begun += 1

    def _may_begin(self) -> bool:
        unwritten = max((len(outbox.waiting) for outbox in self._outboxes.values()), default=0)
        return max(len(self._running), unwritten) < self._limit

    def _all_written(self) -> bool:
        return not any(outbox.waiting for outbox in self._outboxes.values())

    def _arm(self) -> bool:
        """Arm all that is waited for; True when something of it is there already."""
        there = False
        for inbox in self._inboxes.values():
            if inbox.is_starved():
                there |= inbox.reader.arm()
        for outbox in self._outboxes.values():
            if outbox.is_blocked():
                there |= outbox.arm()
        if not self._stopping and self._may_begin():
            there |= self._lead[1].arm()
        return there

    def _execution_done(self, seq: int, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._over:
            return
        error: BaseException | None
        if not task.cancelled():
            error = task.exception()
        else:  # by the user's code, maybe when all was done
            error = asyncio.CancelledError(f"execution {seq} was cancelled") if seq in self._unwritten else None
        if error is None:
            self._turn()
        elif isinstance(error, ChannelError):
            self._finish(str(error))
        else:
            self._finish(f"a fault in the loop: {formatted(error)}")

    async def _execution(self, seq: int) -> None:
        registers = self._first.copy()
        for call in self._calls:
            for channel, _, targets in call.reads:
                value = await self._value(self._inboxes[channel], seq)
                if isinstance(value, Unreadable):
                    value = call.unreadable(value.error)
                try:
                    unpack(registers, targets, value)
                except FrameError as error:
                    raise ChannelFailed(self._inboxes[channel].edge, seq, error) from error
            arguments = call.arguments(registers)
            if isinstance(arguments, Failure):
                call.store(registers, arguments)
            else:
                recorder = self._recorder
                began = time.monotonic_ns() if recorder is not None else 0
                result = await self._compute(call, seq, *arguments)
                if recorder is not None:
                    failed = isinstance(result, Failure)
                    recorder.add(Activity.COMPUTE, call.number, seq, began, time.monotonic_ns(), failed)
                    if self._lanes is not None:
                        self._lanes.collect()
                call.store(registers, result)
                del result
            del arguments
            for channel, writer, sources, done in call.writes:
                recorder = self._recorder
                began = time.monotonic_ns() if recorder is not None else 0
                encoded = call.encode(writer, registers, sources, done)
                if recorder is not None:  # before the frame can be read, as in `TracedWriter`
                    recorder.add(Activity.WRITE, channel, seq, began, time.monotonic_ns())
                self._outboxes[channel].put(seq, call, encoded)
                del encoded
        self._unwritten.discard(seq)

    async def _value(self, inbox: Inbox, seq: int) -> Any:
        if seq not in inbox.kept:
            inbox.wanted[seq] = self._loop.create_future()
            self._turn()
            if seq not in inbox.kept:
                await inbox.wanted[seq]
            inbox.wanted.pop(seq, None)
        return inbox.kept.pop(seq)

    async def _compute(self, call: Call, seq: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
        began = self._enters(call.number, seq)
        exiting = False
        try:
            result = call.method(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
            if self._origin.left:
                end_child(call.label)
            return result
        except SystemExit as leaving:
            if self._origin.left:
                end_child(call.label, leaving)
            # No goodbye: this process ends now, in the middle of a node, and that is what the driver is to see.
            exiting = self._exiting = True
            self._finish("")
            self._end_actor()
            raise asyncio.CancelledError from None
        except asyncio.CancelledError as error:
            if self._over:
                raise
            return call.failure(error)
        except BaseException as error:
            if self._origin.left:
                end_child(call.label)
            return call.failure(error)
        finally:
            if not exiting:
                self._leaves(call.number, seq, began)

    # The control page has room for one execution: it shows the one that computes the longest.

    def _enters(self, task: int, seq: int) -> int:
        began = time.monotonic_ns() if self._computing else self._control.enter(task, seq)
        self._computing[seq] = task, began
        return began

    def _leaves(self, task: int, seq: int, began: int) -> None:
        self._control.leave(task, began)
        del self._computing[seq]
        for other, (its_task, since) in self._computing.items():
            self._control.show(its_task, other, since)
            break

    def _finish(self, broken: str) -> None:
        if self._over:
            return
        self._over = True
        for fd in (self._ends.doorbell.fd, *self._sentinels):
            self._loop.remove_reader(fd)
        if self._ends.network is not None:
            self._loop.remove_reader(self._ends.network.fileno())
        for task in self._running:
            task.cancel()
        self._winding_up = self._loop.create_task(self._wind_up(broken), context=contextvars.Context())

    async def _wind_up(self, broken: str) -> None:
        if self._running:
            await asyncio.wait(set(self._running))
        if self._exiting:
            return
        self._control.set_state(LoopState.ENDED)
        if self._lanes is not None:
            self._lanes.stop(0)
        self._calls.clear()
        self._first.clear()
        self._inboxes.clear()
        self._outboxes.clear()
        del self._lead
        if self._waits_at_end:  # for the device, which is not to hold up the actor's other calls
            await self._loop.run_in_executor(None, self._ends.close)
        else:
            self._ends.close()
        self._on_end(broken)
