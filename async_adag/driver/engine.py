"""The engine of a compiled graph: admits executions, takes in what arrives, and settles futures and refs.

One lock guards the ledger and the channel ends. Nothing is read in the background: whoever is there takes in what
has arrived, the event loop when the doorbell rings, or a thread that waits for a result. Of several such threads
one parks at the doorbell and the others wait for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from async_adag.actor.control import LoopState
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.failures import annotate, decode_failure
from async_adag.channels.interface import STOP, Failure, Reader, Writer
from async_adag.channels.parking import Parking, SentinelFired
from async_adag.driver.arguments import Arguments
from async_adag.driver.capacity import Line, Waiter
from async_adag.driver.deploy import Deployment
from async_adag.driver.event_loop import LoopBinding
from async_adag.driver.results import GraphRef
from async_adag.driver.supervision import Departure, Left
from async_adag.errors import (
    ActorDied,
    AdagError,
    CapacityExceeded,
    ExecutionTimeout,
    GraphBroken,
    GraphClosed,
)
from async_adag.graph.model import FromNode
from async_adag.graph.plan import Plan
from async_adag.observe.stats import Stats, take_stats
from async_adag.options import Options, check_timeout
from async_adag.protocol.frame import FrameError
from async_adag.protocol.ledger import Entry, Ledger
from async_adag.protocol.lifecycle import Lifecycle, State

Sinks = list[Any]
"""What waits for an execution: for each output a future or a `GraphRef`."""


class Engine:
    """See the module. ``owner`` is the compiled graph that users hold; it lives while tasks wait for it."""

    def __init__(self, plan: Plan, deployment: Deployment, options: Options) -> None:
        self.plan = plan
        self.options = options
        self.deployment = deployment
        self.lock = threading.RLock()
        self.life = Lifecycle()
        self._arguments = Arguments(plan)
        ends = deployment.ends
        self._writers: list[Writer] = [ends.writers[channel.number] for channel in plan.inputs()]
        results = plan.results()
        self._results: list[tuple[int, Reader, Callable[[], bool]]] = [
            (place, ends.readers[channel.number], ends.readers[channel.number].may_read)
            for place, channel in enumerate(results)
        ]
        self._routes = [
            [
                (number, output.position)
                for number, output in enumerate(plan.outputs)
                if output.channel == channel.number
            ]
            for channel in results
        ]
        self.ledger: Ledger[Sinks] = Ledger(len(results), options.max_inflight)
        self.line = Line(self.ledger)
        self._error: AdagError | None = None  # what every call raises once the graph is no longer open
        self._changed = threading.Condition(self.lock)
        self._followers = 0
        self._leading = False
        self._parking: Parking | None = None
        self._nudge = Doorbell(-1)  # wakes the thread that is parked there
        self._loop = LoopBinding(self)
        self._outputs = range(len(plan.outputs))
        self._warned = False
        self._deaf = False  # while taking in, and when nothing more will be taken in
        self._quiet: list[Waiter] = []  # who waits until nothing is in flight and STOP may be written
        self._leaving: list[Waiter] = []  # who waits until every actor has left

    # -- admission

    def check_open(self) -> None:
        """Raise what calls on this graph raise now, if it is no longer open."""
        if self._error is not None:
            raise self._error.with_traceback(None)

    def submit_now(self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object) -> Sinks | None:
        """Admit an execution for a task, one future for each output; None where it would have to wait."""
        self._arguments.check(args, kwargs)
        with self.lock:
            if self._error is not None:
                self.check_open()
            loop = self._loop.bind()
            if self._has_place() and self.line.is_empty():
                self.ledger.reserve()
                return self._admit_futures(loop, args, kwargs, owner)
        return None

    async def submit_async(self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object) -> Sinks:
        """Admit an execution for a task, after those who came before; one future for each output."""
        with self.lock:
            self.check_open()
            loop = self._loop.bind()
            waiter = Waiter(loop.create_future())
            self.line.join(waiter)
            self._loop.settle_in()
        try:
            assert waiter.future is not None
            await waiter.future
        except BaseException:
            with self.lock:
                self.line.leave(waiter)
                self._grant()
            raise
        if waiter.error is not None:
            raise waiter.error.with_traceback(None)
        with self.lock:
            if self._error is not None:
                self.line.leave(waiter)
                self.check_open()
            return self._admit_futures(loop, args, kwargs, owner)

    def _admit_futures(
        self, loop: asyncio.AbstractEventLoop, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object
    ) -> Sinks:
        sinks: Sinks = [loop.create_future() for _ in self._outputs]
        self._admit(args, kwargs, sinks)
        self._loop.keep(owner)
        return sinks

    def submit(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, timeout: float | None
    ) -> list[GraphRef]:
        """Admit an execution for a thread; one ref for each output.

        Raises:
            CapacityExceeded: no place was free within ``timeout`` seconds.
        """
        self._arguments.check(args, kwargs)
        with self.lock:
            self.check_open()
            waiter = None
            if self.line.is_empty() and self._has_place():
                self.ledger.reserve()
            else:
                waiter = Waiter()
                self.line.join(waiter)
        if waiter is not None:
            self._stand_in_line(waiter, timeout)
        with self.lock:
            if self._error is not None:
                self.ledger.release()
                self.check_open()
            refs = [GraphRef(self, owner, number) for number in self._outputs]
            entry = self._admit(args, kwargs, refs)
            for ref in refs:
                ref.number(entry.seq)
            return refs

    def _stand_in_line(self, waiter: Waiter, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            if timeout != 0:
                self._warn_if_on_loop("execute_async")
            self._wait(lambda: waiter.granted or waiter.error is not None, deadline)
        except BaseException:
            with self.lock:
                self.line.leave(waiter)
                self._grant()
            raise
        with self.lock:
            if waiter.error is not None:
                raise waiter.error.with_traceback(None)
            if waiter.granted:
                return
            self.line.leave(waiter)
        raise CapacityExceeded(
            f"{self.ledger.in_flight} executions are in flight (max_inflight={self.options.max_inflight}), none "
            f"arrived within submit_timeout={timeout:g} s{self.describe_computing()}"
        )

    def _admit(self, args: tuple[Any, ...], kwargs: dict[str, Any], sinks: Sinks) -> Entry[Sinks]:
        """Send an execution whose place is reserved."""
        writers = self._writers
        try:
            if len(writers) == 1:
                writers[0].stage(writers[0].encode(self._arguments.values(args, kwargs)[0]))
            else:
                # All are pickled before any is staged, and all staged before any is sent.
                values = self._arguments.values(args, kwargs)
                frames = [writer.encode(value) for writer, value in zip(writers, values, strict=True)]
                for writer, frame in zip(writers, frames, strict=True):
                    writer.stage(frame)
        except BaseException as error:
            for writer in writers:
                writer.unstage()
            self.ledger.release()
            self._grant()
            annotate(error, "async_adag: the input could not be sent; no execution was started")
            raise
        for writer in writers:  # first: while the actor wakes, there is time for the books
            writer.publish()
        return self.ledger.admit(sinks)

    def _has_place(self) -> bool:
        """Whether an execution can be sent now; takes in what has arrived before it says no."""
        if self.ledger.has_place() and self._may_write():
            return True
        self.take_in()
        return self.ledger.has_place() and self._may_write()

    def _may_write(self) -> bool:
        for writer in self._writers:  # noqa: SIM110 - a generator costs more than the question
            if not writer.may_write():
                return False
        return True

    def _grant(self) -> None:
        line = self.line
        granted = False
        while not line.is_empty() and self.ledger.has_place() and self._may_write():
            line.grant_next()
            granted = True
        if granted:
            self._tell()

    # -- arrival

    def take_in(self) -> None:
        """Take in every frame that has arrived, settle its sinks, and let waiters have the places."""
        if self._deaf:
            return
        arrived = self.ledger.arrived
        self._deaf = True  # unpickling runs code of the user's, which may come back here
        here = self._loop.is_here()
        try:
            for channel, reader, may_read in self._results:
                while may_read():
                    self._arrive(channel, reader, here)
        except FrameError as error:
            self.fail(self._channel_failed(channel, str(error)))
            return
        finally:
            self._deaf = self._error is not None and self.life.state is not State.DRAINING
        if self.ledger.arrived != arrived:
            self._tell()
        if not self.line.is_empty():
            self._grant()
        if self.ledger.in_flight == 0:
            self._loop.release()
            if self._quiet and self._may_write():
                _wake_all(self._quiet)

    def _arrive(self, channel: int, reader: Reader, here: bool) -> None:
        error: BaseException | None = None
        value: Any = None
        try:
            value = reader.read()
        except FrameError:
            raise
        except Exception as unreadable:
            annotate(unreadable, "async_adag: the result could not be unpickled here")
            error = unreadable
        if type(value) is Failure:
            error = decode_failure(value.encoded)
        elif value is STOP:
            return
        sinks = self.ledger.arrive(channel).payload
        for number, position in self._routes[channel]:
            part = value if position is None or error is not None else value[position]
            sink = sinks[number]
            if type(sink) is GraphRef:
                sink.settle(part, error)
            else:
                self._loop.settle(sink, part, error, here)

    def arm(self) -> bool:
        """Arm all that this process waits for; True if something of it is there already."""
        there = False
        for _, reader, _ in self._results:
            there |= reader.arm()
        if self._quiet or not self.line.is_empty():
            for writer in self._writers:
                if not writer.may_write():
                    there |= writer.arm()
        return there

    def on_doorbell(self) -> None:
        """What the event loop does when the doorbell rings."""
        self.deployment.ends.doorbell.silence()
        self.progress()

    def progress(self) -> None:
        """Take in all there is, then arm."""
        with self.lock:
            self.take_in()
            while not self._deaf and self.arm():
                self.take_in()

    def _tell(self) -> None:
        """Let waiting threads look again."""
        if self._followers:
            self._changed.notify_all()
        if self._leading:
            self._nudge.ring()

    # -- waiting threads

    def wait_for(self, ref: GraphRef, timeout: float | None) -> None:
        """Wait until ``ref`` is settled. Raises as `GraphRef.get`."""
        deadline = ref.deadline
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if left is None or (timeout is not None and timeout <= left):
            self._wait_for(ref.is_settled, timeout, f"execution {ref._seq}")
            return
        try:
            self._wait_for(ref.is_settled, left, f"execution {ref._seq}")
        except ExecutionTimeout:
            missed = ExecutionTimeout(
                f"execution {ref._seq} missed its deadline and is abandoned{self.describe_computing()}"
            )
            ref.settle(None, missed)

    def wait_for_all(self, refs: list[GraphRef], timeout: float | None) -> None:
        """Wait until all ``refs`` are settled, or one has failed. Raises as `GraphRef.get`."""

        def done() -> bool:
            return any(ref._error is not None for ref in refs) or all(ref._settled for ref in refs)

        self._wait_for(done, timeout, f"execution {refs[0]._seq}")

    def _wait_for(self, done: Callable[[], bool], timeout: float | None, what: str) -> None:
        check_timeout(timeout)
        if timeout is None:
            timeout = self.options.get_timeout
        if timeout != 0:
            self._warn_if_on_loop("execute_async")
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._wait(done, deadline):
            raise ExecutionTimeout(f"{what} has not arrived within {timeout:g} s{self.describe_computing()}")

    def _wait(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Take in frames until ``done``; False when the deadline has passed first."""
        while True:
            with self.lock:
                self._notice_departures()
                self.take_in()
                if done():
                    return True
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                if self._leading:
                    self._followers += 1
                    try:
                        self._changed.wait(left)
                    finally:
                        self._followers -= 1
                    continue
                parking = self._parking_place()
                self._leading = True
            try:
                parking.wait(self._may_read, self._arm_locked, deadline)
            except SentinelFired:
                pass  # looked at in the next turn
            except (OSError, ValueError):
                if self._error is None:
                    raise
                # Torn down by another thread, and the descriptors with it: the next turn says so.
            finally:
                with self.lock:
                    self._leading = False
                    if self._followers:
                        self._changed.notify_all()

    def _may_read(self) -> bool:
        return any(may_read() for _, _, may_read in self._results)

    def _arm_locked(self) -> bool:
        with self.lock:
            return self._deaf or self.arm()

    def _parking_place(self) -> Parking:
        if self._parking is None:
            deployment = self.deployment
            self._nudge = Doorbell.create()
            self._parking = Parking(
                deployment.ends.doorbell, [deployment.supervision.fd], self.options.spin_ns, self._nudge
            )
        return self._parking

    def is_on_own_loop(self) -> bool:
        """Whether this is a blocking moment on the event loop that runs nodes of this very graph."""
        own = self.deployment.own_loop
        return own is not None and own is asyncio._get_running_loop()

    def _warn_if_on_loop(self, instead: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if loop is self.deployment.own_loop:
            raise RuntimeError(
                "a node of this graph runs on this very event loop, so that a blocking call here would wait for "
                f"ever: use `await compiled.{instead}(...)`"
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"a blocking call on the thread of a running event loop stops every task there; use `await "
                f"compiled.{instead}(...)` instead",
                RuntimeWarning,
                stacklevel=_stack_level(),
            )

    def describe_computing(self) -> str:
        """What the actors compute now, as the end of a sentence."""
        computing = self.deployment.computing()
        return "; " + "; ".join(computing) if computing else "; no actor is computing"

    def snapshot(self) -> Stats:
        """What the graph has done, and does now."""
        with self.lock:
            parking = self._parking
            return take_stats(
                self.plan,
                self.deployment.controls,
                executions=self.ledger.admitted,
                in_flight=self.ledger.in_flight,
                waiting=len(self.line),
                waits=self.line.waited,
                written=sum(writer.bytes for writer in self._writers),
                parked=parking.parked if parking else 0,
                spun=parking.spun if parking else 0,
            )

    # -- departures and the end

    def notice_departures(self) -> None:
        """What the event loop does when supervision has something to tell."""
        with self.lock:
            self._notice_departures()

    def _notice_departures(self) -> None:
        for left in self.deployment.supervision.departures():
            if self.life.state in (State.CLOSED, State.BROKEN):
                continue
            if self.life.state is State.DRAINING and left.how is Departure.GOODBYE:
                continue
            # Whatever it had written is there: that comes first.
            self.take_in()
            self.fail(self._reason(left))
        if not self.deployment.supervision.present:
            _wake_all(self._leaving)

    def _reason(self, left: Left) -> Callable[[int], AdagError]:
        actor = self.plan.actors[left.actor]
        snapshot = self.deployment.controls[left.actor].snapshot()
        computing = snapshot.state is LoopState.COMPUTING
        doing = f"in {snapshot.node} of execution {snapshot.execution}" if computing else "between nodes"
        if left.how is Departure.DIED:
            nodes = ", ".join(task.label for task in actor.tasks)
            return lambda seq: ActorDied(
                f"the process of {actor.name} died, {doing}; it ran {nodes}; "
                + (f"execution {seq} had not arrived" if seq >= 0 else "the graph is broken")
            )
        said = "its loop ended" if left.how is Departure.GOODBYE else left.text
        return lambda seq: GraphBroken(
            f"{actor.name} left the graph, {doing}: {said}; "
            + (f"execution {seq} had not arrived" if seq >= 0 else "the graph is broken")
        )

    def _channel_failed(self, result: int, text: str) -> Callable[[int], AdagError]:
        channel = self.plan.results()[result]
        actor = self.plan.graph.actors[channel.writer]
        nodes = ", ".join(
            self.plan.graph.label(value.node) for value in channel.values if isinstance(value, FromNode)
        )
        return lambda seq: GraphBroken(
            f"the channel of {nodes} to the driver failed: {text}; {actor} wrote it; "
            + (f"execution {seq} had not arrived" if seq >= 0 else "the graph is broken")
        )

    def fail(self, reason: Callable[[int], AdagError]) -> None:
        """The graph is broken: fail what is in flight, and free the survivors."""
        if self.life.move(State.BROKEN):
            self._end(reason)

    def _end(self, reason: Callable[[int], AdagError]) -> None:
        """Nothing more will be sent or taken in. ``reason`` makes the error of an execution, or (-1) of a call."""
        self._error = reason(-1)
        self._deaf = True
        for entry, channels in self.ledger.abandon():
            error = reason(entry.seq)
            for channel in channels:
                for number, _ in self._routes[channel]:
                    sink = entry.payload[number]
                    if type(sink) is GraphRef:
                        sink.settle(None, error)
                    else:
                        self._loop.settle(sink, None, error, self._loop.is_here())
        self.line.dismiss(self._error)
        _wake_all(self._quiet)
        self.deployment.end_loops()
        self._loop.release()
        self._tell()

    # -- draining and teardown: see closing.py

    def begin_draining(self) -> bool:
        """Take no new executions; False if the graph is past that."""
        if not self.life.move(State.DRAINING):
            return False
        self._error = GraphClosed("the graph is being closed")
        self.line.dismiss(self._error)
        self._tell()
        return True

    def is_quiet(self) -> bool:
        """Whether nothing is in flight and STOP may be written; or nothing more will come."""
        self.take_in()
        return self.life.state is not State.DRAINING or (self.ledger.in_flight == 0 and self._may_write())

    def wait_quiet(self, waiter: Waiter) -> None:
        """Have ``waiter`` woken when `is_quiet`."""
        self._quiet.append(waiter)
        self._loop.settle_in()

    def wait_left(self, waiter: Waiter) -> None:
        """Have ``waiter`` woken when every actor has left."""
        self._leaving.append(waiter)

    def wait_sync(self, done: Callable[[], bool]) -> None:
        """Wait in this thread until ``done``, taking in frames meanwhile."""
        self._wait(done, None)

    def bind_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, which this graph watches from now on."""
        return self._loop.bind()

    def send_stop(self) -> None:
        """Write STOP behind the last execution; only when `is_quiet`."""
        if self.life.state is State.DRAINING:
            for writer in self._writers:
                writer.stage(writer.encode(STOP))
                writer.publish()

    def close_now(self) -> None:
        """Abandon what is in flight, after taking in what has arrived; the loops are asked to end."""
        self._notice_departures()
        self.take_in()
        if self.life.move(State.CLOSED):
            self._end(_closed)

    def release(self, wait: bool) -> None:
        """Let go of every descriptor and mapping; again is harmless.

        Args:
            wait: whether to wait until an event loop on another thread has let go of them.
        """
        self._loop.unbind(self._release_now, wait)

    def _release_now(self) -> None:
        with self.lock:
            parking, self._parking = self._parking, None
            if parking is not None:
                parking.close()
            self._nudge.close()
            self._results.clear()
            self._writers.clear()
            self.deployment.close()


def _wake_all(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        waiter.granted = True
        waiter.wake()
    waiters.clear()


def _closed(seq: int) -> AdagError:
    if seq < 0:
        return GraphClosed("the graph was torn down: compile the DAG again to go on")
    return GraphClosed(f"the graph was torn down before execution {seq} arrived")


def _stack_level() -> int:
    """How far up the stack the caller's own code is, for a warning."""
    import sys

    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and __package__.partition(".")[0] in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
        level += 1
    return level
