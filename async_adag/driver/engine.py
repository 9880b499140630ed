"""The engine of a compiled graph: admits executions, has what arrives taken in (`arrivals.py`), and ends.

One lock guards the ledger and the channel ends. Nothing is read in the background: whoever is there takes in what
has arrived, the event loop when the doorbell rings, or a thread that waits for a result. Of several such threads
one parks at the doorbell and the others wait for it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from async_adag.actor.records import Recorder
from async_adag.actor.traced import TracedWriter
from async_adag.channels import forks
from async_adag.channels.failures import annotate
from async_adag.channels.interface import STOP, Writer
from async_adag.channels.pollers import make_poller
from async_adag.driver.arguments import Arguments, part
from async_adag.driver.arrivals import Arrivals, Sinks
from async_adag.driver.attention import Attention
from async_adag.driver.blocking import Blocking
from async_adag.driver.capacity import Line, Waiter
from async_adag.driver.deployment import Deployment
from async_adag.driver.event_loop import LoopBinding
from async_adag.driver.interrupts import Held
from async_adag.driver.reasons import (
    Reason,
    broken_off,
    channel_failure,
    departure,
    forked,
    lost_edge,
    torn_down,
)
from async_adag.driver.results import GraphRef
from async_adag.driver.supervision import Departure
from async_adag.errors import (
    AdagError,
    CapacityExceeded,
    GraphClosed,
)
from async_adag.graph.model import FromInput
from async_adag.graph.plan import Plan
from async_adag.options import Options
from async_adag.protocol.frame import FrameError
from async_adag.protocol.ledger import Entry, Ledger
from async_adag.protocol.lifecycle import Lifecycle, State

T = TypeVar("T")


class Engine:
    """See the module. ``owner`` is the compiled graph that users hold; it lives while tasks wait for it."""

    def __init__(self, plan: Plan, deployment: Deployment, options: Options) -> None:
        self.plan = plan
        self.options = options
        self.began = time.monotonic()
        self.deployment = deployment
        self.lock = threading.RLock()
        self.life = Lifecycle()
        self._arguments = Arguments(plan)
        ends = deployment.ends
        self._writers: list[Writer] = [ends.writers[channel.number] for channel in plan.inputs()]
        results = plan.results()
        self._echoes = [
            (number, output.key) for number, output in enumerate(plan.outputs) if isinstance(output, FromInput)
        ]
        self.ledger: Ledger[Sinks] = Ledger(len(results), options.max_inflight)
        self.line = Line(self.ledger)
        # Makes what calls raise once the graph is no longer open. A new error for each: one that was raised holds
        # the frames that it went through, and so the graph, which an event loop would then hold through this.
        self._refusal: Callable[[], AdagError] | None = None
        self.blocking = Blocking(self)
        self._loop = LoopBinding(self)
        self.attention = Attention(self, make_poller(options.poll_ns, deployment.board, self.is_alone))
        self._arrivals = Arrivals(
            plan, ends.readers, self.ledger, self._loop, self._may_stop, deployment.gpu_results
        )
        self._has_results = bool(results)
        self._network = ends.network
        self._outputs = range(len(plan.outputs))
        self._alone = False  # whether executions come one at a time
        self._deaf = False  # while taking in, and when nothing more will be taken in
        self._quiet: list[Waiter] = []  # who waits until nothing is in flight and STOP may be written
        self._leaving: list[Waiter] = []  # who waits until every actor has left
        self.tracing: object | None = None  # the trace that is being recorded
        self._process = os.getpid()
        self._forked: Callable[[], AdagError] | None = None  # makes what every call raises in a forked child
        forks.watch(self)

    # -- admission

    def check_open(self) -> None:
        """Raise what calls on this graph raise now, if it is no longer open."""
        if self._refusal is not None:
            raise self._refusal()

    def check_process(self) -> None:
        """Raise what calls raise in a process that was forked from the graph's own, if this is one."""
        if self._forked is not None:
            raise self._forked()

    def is_forked(self) -> bool:
        """Whether this process was forked from the graph's own."""
        return self._forked is not None

    def leave_to_parent(self) -> None:
        """See `forks.Holder`. Results that had arrived stay readable."""
        self.lock = threading.RLock()
        parent, child = self._process, os.getpid()
        self._refusal = self._forked = lambda: forked(parent, child)
        self._deaf = True
        self.life.move(State.CLOSED)
        self._arrivals.let_go()
        self._writers.clear()
        self._network = None
        self._loop.leave_to_parent()
        self.blocking.leave_to_parent()
        self.deployment.leave_to_parent()

    def submit_now(self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object) -> Sinks | None:
        """Admit an execution for a task, one future for each output; None where it would have to wait."""
        self._arguments.check(args, kwargs)
        loop = self._loop.quiet()
        if loop is None:
            with Held():
                return self._submit_now(loop, args, kwargs, owner)
        return self._submit_now(loop, args, kwargs, owner)

    def _submit_now(
        self, loop: asyncio.AbstractEventLoop | None, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object
    ) -> Sinks | None:
        with self.lock:
            if self._refusal is not None:
                self.check_open()
            self._call_up()
            if loop is None:
                loop = self._loop.bind()
                self.check_open()  # a new loop takes in what has arrived, which may break the graph
            # Behind those as well whose place is granted and whose task has not run yet.
            if self._has_place() and self.line.is_empty() and not self.ledger.reserved:
                return self._admit_futures(loop, args, kwargs, owner, reserved=False)
        return None

    def is_open(self) -> bool:
        """Whether calls are welcome."""
        return self._refusal is None

    async def submit_async(self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object) -> Sinks:
        """Admit an execution for a task, after those who came before; one future for each output."""
        place = asyncio.get_running_loop().create_future()
        waiter = Waiter(place)
        try:
            self._undisturbed(lambda: self._join_line(waiter))
            await place
            if waiter.error is not None:
                raise waiter.error.with_traceback(None)
            return self._undisturbed(lambda: self._admit_granted(waiter, args, kwargs, owner))
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
        with self.lock:
            self.check_open()
            self._loop.bind()
            self.check_open()
            self.line.join(waiter)
            self._grant()
            self._loop.settle_in()

    def _leave_line(self, waiter: Waiter) -> None:
        with self.lock:
            self.line.leave(waiter)
            self._grant()

    def _admit_granted(
        self, waiter: Waiter, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object
    ) -> Sinks:
        with self.lock:
            self.check_open()
            loop = self._loop.bind()
            waiter.granted = False  # from here on the place is the execution's
            return self._admit_futures(loop, args, kwargs, owner, reserved=True)

    def _admit_futures(
        self,
        loop: asyncio.AbstractEventLoop,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        owner: object,
        reserved: bool,
    ) -> Sinks:
        sinks: Sinks = [loop.create_future() for _ in self._outputs]
        self._admit(args, kwargs, sinks, reserved)
        if self.ledger.in_flight:
            self._loop.keep(owner)
            self.attention.expect(loop, may_poll=not self._loop.is_raw)
        return sinks

    def submit(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, timeout: float | None
    ) -> list[GraphRef]:
        """Admit an execution for a thread; one ref for each output.

        Raises:
            CapacityExceeded: no place was free within ``timeout`` seconds.
        """
        self._arguments.check(args, kwargs)
        with Held() as held:
            return self._submit(args, kwargs, owner, timeout, held)

    def _submit(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, timeout: float | None, held: Held
    ) -> list[GraphRef]:
        with self.lock:
            self.check_open()
            self._call_up()
            if self.line.is_empty() and self._has_place():
                return self._admit_refs(args, kwargs, owner, reserved=False)
            self.check_open()  # the look for a place may have broken the graph
            waiter = Waiter()
            self.line.join(waiter)
        self._stand_in_line(waiter, timeout, held)
        with self.lock:
            if self._refusal is not None:
                self.ledger.release()
                self.check_open()
            return self._admit_refs(args, kwargs, owner, reserved=True)

    def _admit_refs(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object, reserved: bool
    ) -> list[GraphRef]:
        refs = [GraphRef(self, owner, number) for number in self._outputs]
        entry = self._admit(args, kwargs, [weakref.ref(ref) for ref in refs], reserved)
        for ref in refs:
            ref.number(entry.seq)
        return refs

    def _stand_in_line(self, waiter: Waiter, timeout: float | None, held: Held) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            if timeout != 0:
                self.blocking.check_loop()
            self.blocking.wait(lambda: waiter.granted or waiter.error is not None, deadline, held)
        except BaseException:
            self._leave_line(waiter)
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

    def _admit(self, args: tuple[Any, ...], kwargs: dict[str, Any], sinks: Sinks, reserved: bool) -> Entry[Sinks]:
        """Send an execution whose place is free, or ``reserved``."""
        writers = self._writers
        if not reserved:
            self.ledger.reserve()  # pickling runs code of the user's, which may come back here
        try:
            if len(writers) == 1:
                (writer,) = writers
                writer.stage(writer.encode(self._arguments.values(args, kwargs)[0]))
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
            if isinstance(error, FrameError):
                self._spoiled(writer, error)
                self.check_open()
            self._grant()
            annotate(error, "async_adag: the input could not be sent; no execution was started")
            raise
        try:
            for writer in writers:  # first: while the actor wakes, there is time for the books
                writer.publish()
            for number, key in self._echoes:
                self._arrivals.settle(sinks[number], part(key, args, kwargs), None, self._loop.is_here())
            return self.ledger.admit(sinks)
        except BaseException as error:
            self.fail(broken_off(error))
            raise

    def _call_up(self) -> None:
        """An execution comes: where it will be the only one, have the actors wake while it is made ready."""
        alone = self.ledger.in_flight == 0 and self._has_results
        if alone is not self._alone:
            self._alone = alone
            for control in self.deployment.controls:
                control.set_alone(self._alone)
        if self._alone:
            for writer in self._writers:
                writer.call_up()

    def is_alone(self) -> bool:
        """Whether at most one execution is under way."""
        return self.ledger.in_flight <= 1

    def _has_place(self) -> bool:
        """Whether an execution can be sent now; takes in what has arrived before it says no."""
        if self.ledger.has_place() and self._may_write():
            return True
        self.take_in()
        return self._refusal is None and self.ledger.has_place() and self._may_write()

    def _may_write(self) -> bool:
        try:
            for writer in self._writers:
                if not writer.may_write():
                    return False
        except FrameError as error:
            self._spoiled(writer, error)
            return False
        return True

    def _spoiled(self, writer: Writer, error: FrameError) -> None:
        """A channel that the driver writes cannot go on."""
        channel = self.plan.inputs()[self._writers.index(writer)]
        self.fail(channel_failure(self.plan, channel, str(error)))

    def _grant(self) -> None:
        line = self.line
        granted = False
        while not line.is_empty() and self.ledger.has_place() and self._may_write():
            line.grant_next()
            granted = True
        if granted:
            self.blocking.tell()

    # -- arrival

    def take_in(self) -> None:
        """Take in every frame that has arrived, settle its sinks, and let waiters have the places."""
        if self._network is not None:
            self._network.turn()  # also when deaf: what nobody receives would ring for ever
        if self._deaf:
            return
        arrived = self.ledger.arrived
        try:
            self._deaf = True  # unpickling runs code of the user's, which may come back here
            broken = self._arrivals.take_in(self._loop.is_here())
            if broken is not None:
                self.fail(broken)
                return
        except BaseException as error:
            if not self._arrivals.is_in_step():
                self.fail(broken_off(error))
            raise
        finally:
            self._deaf = self._refusal is not None and self.life.state is not State.DRAINING
        if self.ledger.arrived != arrived:
            self.blocking.tell()
        if not self.line.is_empty():
            self._grant()
        if self.ledger.in_flight == 0:
            self._loop.release()
            if self._quiet and self._may_write():
                _wake_all(self._quiet)
                self.blocking.tell()

    def may_read(self) -> bool:
        """Whether a frame has arrived that was not taken in."""
        return self._arrivals.may_read()

    def _may_stop(self) -> bool:
        return self.life.state is State.DRAINING and self.ledger.in_flight == 0

    def arm_or_end(self) -> bool:
        """As `arm`; True too when nothing more will come."""
        with self.lock:
            return self._deaf or self.arm()

    def arm(self) -> bool:
        """Arm all that this process waits for; True if something of it is there already."""
        there = self._arrivals.arm()
        ledger = self.ledger
        if (self._quiet and ledger.in_flight == 0) or (not self.line.is_empty() and ledger.has_place()):
            # What is missing is room in every channel: once that is there, nobody rings any more.
            try:
                full = [writer for writer in self._writers if not writer.may_write()]
                there |= not full or any(writer.arm() for writer in full)
            except FrameError:
                return not self._may_write()  # which breaks the graph
        return there

    def on_doorbell(self) -> None:
        """What the event loop does when the doorbell rings."""
        self.attend(self._on_doorbell)

    def _on_doorbell(self) -> None:
        self.deployment.ends.doorbell.silence()
        self.attention.on_ring()
        self.progress()

    def attend(self, step: Callable[[], None]) -> None:
        """Do a step of the event loop's, in the middle of which Ctrl-C must not raise."""
        try:
            if self._loop.is_raw:
                with Held(), self.lock:
                    step()
            else:
                with self.lock:
                    step()
        except BaseException:
            self.deployment.ends.doorbell.ring()  # what is left to do is done another time
            raise

    def progress(self) -> None:
        """Take in all there is, then arm what more is waited for."""
        with self.lock:
            self.take_in()
            while not self._deaf and (self.ledger.in_flight or self._quiet or not self.line.is_empty()):
                if not self.arm():
                    self.attention.is_armed = True
                    break
                self.take_in()

    def describe_computing(self) -> str:
        """What the actors compute now, as the end of a sentence."""
        computing = self.deployment.computing()
        return "; " + "; ".join(computing) if computing else "; no actor is computing"

    def bytes_written(self) -> int:
        """Bytes of payload that the driver has written."""
        return sum(writer.bytes for writer in self._writers)

    def record(self, recorder: Recorder | None) -> None:
        """Record what this process sends and takes in from now on, or no longer; under the graph's lock."""
        self._arrivals.record(recorder)
        writers: list[Writer] = []
        for writer, channel in zip(self._writers, self.plan.inputs(), strict=False):  # none of a closed graph
            end = writer.plain if isinstance(writer, TracedWriter) else writer
            if recorder is not None:
                end = TracedWriter(end, channel.number, self.ledger.admitted, recorder, waits=False)
            writers.append(end)
        self._writers = writers

    def number_of(self, sinks: Sinks) -> int:
        """The number of the execution in flight that these wait for; -1 when it has just ended."""
        with self.lock:
            return next((entry.seq for entry, _ in self.ledger.pending() if entry.payload is sinks), -1)

    def outputs_of(self, channels: list[int]) -> tuple[int, ...]:
        """The outputs that these channels of the ledger bring, by number."""
        return self._arrivals.outputs_of(channels)

    # -- departures and the end

    def notice_departures(self) -> None:
        """Look for actors that have left, and break the graph if one was not to."""
        with self.lock:
            self._notice_departures()

    def on_departure(self) -> None:
        """What the event loop does when an actor has left."""
        if self._loop.is_raw:
            with Held():
                self.notice_departures()
        else:
            self.notice_departures()

    def _notice_departures(self) -> None:
        for left in self.deployment.supervision.departures():
            if self.life.state in (State.CLOSED, State.BROKEN):
                continue
            if self.life.state is State.DRAINING and left.how is Departure.GOODBYE:
                continue
            # Whatever it had written is there: that comes first.
            self.take_in()
            if left.how is Departure.LOST:
                self.fail(lost_edge(self.plan, left))
            else:
                self.fail(departure(self.plan, left, self.deployment.controls[left.actor].snapshot()))
        if not self.deployment.supervision.present:
            _wake_all(self._leaving)

    def fail(self, reason: Reason) -> None:
        """The graph is broken: fail what is in flight, and free the survivors."""
        if self.life.move(State.BROKEN):
            self._end(reason)

    def _end(self, reason: Reason) -> None:
        """Nothing more will be sent or taken in. ``reason`` makes the error of an execution, or (-1) of a call."""
        self._refusal = lambda: reason(-1)
        self._deaf = True
        self._arrivals.abandon(reason, self._loop.is_here())
        self.line.dismiss(self._refusal)
        _wake_all(self._quiet)
        self.deployment.end_loops()
        self._loop.release()
        self.blocking.tell()
        self._receive_no_more()

    # -- draining and teardown: see closing.py

    def begin_draining(self) -> bool:
        """Take no new executions; False if the graph is past that."""
        if not self.life.move(State.DRAINING):
            return False
        self._refusal = lambda: GraphClosed("the graph is being closed")
        self.line.dismiss(self._refusal)
        self.blocking.tell()
        return True

    def is_quiet(self) -> bool:
        """Whether nothing is in flight and STOP may be written; or nothing more will come."""
        self.take_in()
        quiet = self.ledger.in_flight == 0 and self._may_write()
        return quiet or self.life.state is not State.DRAINING

    def wait_quiet(self, waiter: Waiter) -> None:
        """Have ``waiter`` woken when `is_quiet`."""
        self._quiet.append(waiter)
        self._loop.settle_in()

    def wait_left(self, waiter: Waiter) -> None:
        """Have ``waiter`` woken when every actor has left."""
        self._leaving.append(waiter)

    def bind_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, which this graph watches from now on."""
        return self._loop.bind()

    def send_stop(self) -> None:
        """Write STOP behind the last execution; only when `is_quiet`."""
        if self.life.state is State.DRAINING:
            self._receive_no_more()
            for writer in self._writers:
                writer.stage(writer.encode(STOP))
                writer.publish()

    def close_now(self) -> None:
        """Abandon what is in flight, after taking in what has arrived; the loops are asked to end."""
        self._notice_departures()
        self.take_in()
        if self.life.move(State.CLOSED):
            self._end(torn_down)

    def _receive_no_more(self) -> None:
        if self.deployment.gpu_results is not None:
            self.deployment.gpu_results.receive_no_more()

    def release(self, wait: bool) -> None:
        """Let go of every descriptor and mapping; again is harmless.

        Args:
            wait: whether to wait until an event loop on another thread has let go of them.
        """
        self._loop.unbind(self._release_now, wait)

    def _release_now(self) -> None:
        with self.lock:
            forks.forget(self)
            self.blocking.close()
            self._arrivals.let_go()
            self._writers.clear()
            self._network = None
            self.deployment.close()


def _wake_all(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        waiter.granted = True
        waiter.wake()
    waiters.clear()
