"""The engine of a compiled graph: has what arrives taken in, grants places to those in line, and ends.

Executions are admitted by `admission.py`, and `closing.py` has the steps of an end that somebody wants. One lock
guards the ledger and the channel ends. Nothing is read in the background: whoever is there takes in what has
arrived (`arrivals.py`), the event loop when the doorbell rings, or a thread that waits for a result. Of several
such threads one parks at the doorbell and the others wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from async_adag.actor.records import Recorder
from async_adag.channels import forks
from async_adag.channels.pollers import make_poller
from async_adag.driver.arrivals import Arrivals, Sinks
from async_adag.driver.attention import Attention
from async_adag.driver.blocking import Blocking
from async_adag.driver.capacity import Line, Waiter
from async_adag.driver.deployment import Deployment
from async_adag.driver.event_loop import LoopBinding
from async_adag.driver.inputs import Inputs
from async_adag.driver.interrupts import Held
from async_adag.driver.life import Life
from async_adag.driver.reasons import Reason, broken_off, departure, in_the_midst, lost_edge, torn_down
from async_adag.driver.supervision import Departure
from async_adag.errors import GraphClosed
from async_adag.graph.plan import Plan
from async_adag.options import Options
from async_adag.protocol.ledger import Ledger
from async_adag.protocol.lifecycle import State


class Engine:
    """See the module.

    Attributes:
        plan: of the graph.
        options: of the graph.
        deployment: what it owns.
        began: when it was made, on `time.monotonic`.
        lock: guards all of this; reentrant.
        life: its state.
        ledger: which executions are in flight.
        line: who waits for a place.
        inputs: its writing ends.
        arrivals: its reading ends.
        is_taking_in: whether some thread takes in what has arrived, in the middle of it.
        doubt: what broke a step off, until it is known whether the books are right; None while they are.
        loop: the event loop that it serves.
        attention: what that listens by.
        blocking: the threads that wait for it.
        tracing: the trace that is being recorded.
    """

    def __init__(self, plan: Plan, deployment: Deployment, options: Options) -> None:
        self.plan = plan
        self.options = options
        self.began = time.monotonic()
        self.deployment = deployment
        self.lock = threading.RLock()
        self.life = Life()
        ends = deployment.ends
        self.inputs = Inputs(plan, ends.writers, self.fail)
        self.ledger: Ledger[Sinks] = Ledger(len(plan.results()), options.max_inflight)
        self.line = Line(self.ledger)
        self.blocking = Blocking(self)
        self.loop = LoopBinding(self)
        self.attention = Attention(self, make_poller(options.poll_ns, deployment.board, self.is_alone))
        if deployment.gpu_results is not None:
            deployment.gpu_results.poller = make_poller(options.poll_ns, deployment.board, self.is_alone)
        self.arrivals = Arrivals(
            plan, ends.readers, self.ledger, self.loop, self._may_stop, deployment.gpu_results
        )
        self.tracing: object | None = None
        self._network = ends.network
        self._deaf = False  # while taking in, and when nothing more will be taken in
        self.is_taking_in = False
        self.doubt: BaseException | None = None
        self._ending: Reason | None = None  # of an end that is not through
        self._is_stopped = False  # whether STOP was sent
        self._quiet: list[Waiter] = []  # who waits until nothing is in flight and STOP may be written
        self._leaving: list[Waiter] = []  # who waits until every actor has left
        forks.watch(self)

    # -- places

    def is_alone(self) -> bool:
        """Whether at most one execution is under way."""
        return self.ledger.in_flight <= 1

    def has_place(self) -> bool:
        """Whether an execution can be sent now; takes in what has arrived before it says no."""
        if self.ledger.has_place() and self.inputs.may_write():
            return True
        self.take_in()
        return self.life.refusal is None and self.ledger.has_place() and self.inputs.may_write()

    def grant(self) -> None:
        """Give the places there are to those who are first in line."""
        line = self.line
        if self.ledger.reserved:
            line.reclaim()
        granted = False
        while not line.is_empty() and self.ledger.has_place() and self.inputs.may_write():
            line.grant_next()
            granted = True
        if granted:
            self.blocking.tell()

    # -- arrival

    def take_in(self, here: bool = False) -> None:
        """Take in every frame that has arrived, settle its sinks, and let waiters have the places.

        Args:
            here: whether this is known to run on the graph's event loop; to ask takes a system call.
        """
        if self._network is not None:
            self._network.turn()  # also when deaf: what nobody receives would ring for ever
        if self.doubt is not None or self._ending is not None:
            self._go_on_failing()
        # Unpickling runs code of the user's, and handlers of signals come anywhere: either may come back here.
        if self._deaf or self.inputs.is_sending:
            return
        arrived = self.ledger.arrived
        try:
            self._deaf = self.is_taking_in = True
            broken = self.arrivals.take_in(here or self.loop.is_here())
            if broken is not None:
                self.fail(broken)
                return
        except BaseException as error:
            self.break_off(error)
            raise
        finally:
            self.is_taking_in = False
            self._deaf = self.life.refusal is not None and self.life.state is not State.DRAINING
        if self.ledger.arrived != arrived:
            self.blocking.tell()
        if not self.line.is_empty():
            self.grant()
        if self.ledger.in_flight == 0:
            self.loop.release()
            if self._quiet and self.inputs.may_write():
                _wake_all(self._quiet)
                self.blocking.tell()

    # -- steps, and those that were broken off

    def is_in_step(self) -> bool:
        """Whether this thread is in the middle of a step: in a signal's handler, or in what pickling runs."""
        return self.lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # as `threading.Condition` does

    def check_whole(self) -> None:
        """Before an execution is sent, where a step was broken off or is under way.

        Raises:
            RuntimeError: it is under way, on this very thread.
            GraphBroken: the one that was broken off has broken the graph.
        """
        if self.doubt is None:
            raise in_the_midst()
        self._go_on_failing()
        self.life.check_open()

    def break_off(self, error: BaseException) -> None:
        """A step was broken off by ``error``: break the graph, if that has left books and channels out of step.

        Near the limits of recursion and of memory this may raise too. So what is left to do is noted first, where
        nothing can be raised, and whoever comes next goes on with it.
        """
        self.doubt = error
        self._dispel()

    def _dispel(self) -> None:
        assert self.doubt is not None
        if self.inputs.is_sending or not self.arrivals.is_in_step():
            self.fail(broken_off(self.doubt))
            self.inputs.is_sending = False
        self.doubt = None

    def _go_on_failing(self) -> None:
        if self.doubt is not None:
            self._dispel()
        if self._ending is not None:
            self._end(self._ending)

    def _may_stop(self) -> bool:
        return self.life.state is State.DRAINING and self.ledger.in_flight == 0

    def arm_or_end(self) -> bool:
        """As `arm`; True too when nothing more will come."""
        with self.lock:
            return self._deaf or self.arm()

    def arm(self) -> bool:
        """Arm all that this process waits for; True if something of it is there already."""
        there = self.arrivals.arm()
        ledger = self.ledger
        if (self._quiet and ledger.in_flight == 0) or (not self.line.is_empty() and ledger.has_place()):
            # What is missing is room in every channel: once that is there, nobody rings any more.
            there |= self.inputs.arm()
        return there

    def on_doorbell(self) -> None:
        """What the event loop does when the doorbell rings."""
        self.attend(self._on_doorbell)

    def _on_doorbell(self) -> None:
        arrived = self.ledger.arrived
        self.deployment.ends.doorbell.silence()
        self.attention.on_ring()
        self.progress()
        if self.ledger.arrived != arrived:
            self.attention.on_arrival()

    def attend(self, step: Callable[[], None]) -> None:
        """Do a step of the event loop's, in the middle of which Ctrl-C must not raise."""
        try:
            if self.loop.is_raw:
                with Held(), self.lock:
                    step()
            else:
                with self.lock:
                    step()
        except BaseException:
            self.deployment.ends.doorbell.ring()  # what is left to do is done another time
            raise

    def progress(self) -> None:
        """Take in all there is, then arm what more is waited for. On the event loop."""
        with self.lock:
            self.take_in(here=True)
            while not self._deaf and (self.ledger.in_flight or self._quiet or not self.line.is_empty()):
                if not self.arm():
                    self.attention.is_armed = True
                    break
                self.take_in(here=True)

    def describe_computing(self) -> str:
        """What the actors compute now, as the end of a sentence."""
        computing = self.deployment.computing()
        return "; " + "; ".join(computing) if computing else "; no actor is computing"

    def record(self, recorder: Recorder | None) -> None:
        """Record what this process sends and takes in from now on, or no longer; under the graph's lock."""
        self.arrivals.record(recorder)
        self.inputs.record(recorder, self.ledger.admitted)

    def number_of(self, sinks: Sinks) -> int:
        """The number of the execution in flight that these wait for; -1 when it has just ended."""
        with self.lock:
            return next((entry.seq for entry, _ in self.ledger.pending() if entry.payload is sinks), -1)

    # -- departures and the end

    def notice_departures(self) -> None:
        """Look for actors that have left, and break the graph if one was not to."""
        with self.lock:
            self._notice_departures()

    def on_departure(self) -> None:
        """What the event loop does when an actor has left."""
        if self.loop.is_raw:
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
            self._ending = reason
            self._end(reason)

    def _end(self, reason: Reason) -> None:
        """Nothing more will be sent or taken in. ``reason`` makes the error of an execution, or (-1) of a call.

        Again is harmless, and does what a call before, in which something was raised, has left undone.
        """
        self.life.refusal = lambda: reason(-1)
        self._deaf = True
        self.arrivals.abandon(reason, self.loop.is_here())
        self.line.dismiss(self.life.refusal)
        _wake_all(self._quiet)
        self.deployment.end_loops()
        self.loop.release()
        self.blocking.tell()
        self._receive_no_more()
        self._ending = None

    # -- draining and teardown: see closing.py

    def begin_draining(self) -> bool:
        """Take no new executions; False if the graph is past that."""
        if not self.life.move(State.DRAINING):
            return False
        self.life.refusal = lambda: GraphClosed("the graph is being closed")
        self.line.dismiss(self.life.refusal)
        self.blocking.tell()
        return True

    def is_quiet(self) -> bool:
        """Whether nothing is in flight and STOP may be written; or nothing more will come."""
        self.take_in()
        # Where another has stopped the graph already, readers may be gone, and no channel has room any more.
        quiet = self._is_stopped or (self.ledger.in_flight == 0 and self.inputs.may_write())
        return quiet or self.life.state is not State.DRAINING

    def wait_quiet(self, waiter: Waiter) -> None:
        """Have ``waiter`` woken when `is_quiet`."""
        self._quiet.append(waiter)
        self.loop.settle_in()

    def wait_left(self, waiter: Waiter) -> None:
        """Have ``waiter`` woken when every actor has left."""
        self._leaving.append(waiter)

    def send_stop(self) -> None:
        """Write STOP behind the last execution, once; only when `is_quiet`."""
        if self.life.state is State.DRAINING and not self._is_stopped:
            self._is_stopped = True
            self._receive_no_more()
            self.inputs.send_stop()

    def close_now(self) -> None:
        """Abandon what is in flight, after taking in what has arrived; the loops are asked to end."""
        self._notice_departures()
        self.take_in()
        if self.life.move(State.CLOSED):
            self._ending = torn_down
            self._end(torn_down)

    def _receive_no_more(self) -> None:
        if self.deployment.gpu_results is not None:
            self.deployment.gpu_results.receive_no_more()

    def release(self, wait: bool) -> None:
        """Let go of every descriptor and mapping; again is harmless.

        Args:
            wait: whether to wait until an event loop on another thread has let go of them.
        """
        self.loop.unbind(self._release_now, wait)

    def _release_now(self) -> None:
        with self.lock:
            forks.forget(self)
            self.blocking.close()
            self.arrivals.let_go()
            self.inputs.let_go()
            self._network = None
            self.deployment.close()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`. Results that had arrived stay readable."""
        self.lock = threading.RLock()
        self.life.leave_to_parent()
        self._deaf = True
        self.is_taking_in = self.inputs.is_sending = False  # by another thread, of the parent's
        self.doubt = self._ending = None
        self.arrivals.let_go()
        self.inputs.let_go()
        self._network = None
        self.loop.leave_to_parent()
        self.blocking.leave_to_parent()
        self.deployment.leave_to_parent()


def _wake_all(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        waiter.granted = True
        waiter.wake()
    waiters.clear()
