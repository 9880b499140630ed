"""The loop of a synchronous actor: a thread that reads, computes and writes, in the order of the plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from async_adag.actor.calls import Call, ChannelFailed, calls_of, first_registers, unpack
from async_adag.actor.children import Origin, end_child
from async_adag.actor.control import TRACE, Control, LoopState
from async_adag.actor.moved import Movers, move_tensors
from async_adag.actor.records import Recorder, records_in
from async_adag.actor.traced import traced_calls
from async_adag.actor.turn import Turn, always, never
from async_adag.actor.wiring import Endpoints
from async_adag.channels.codec import Encoded
from async_adag.channels.failures import formatted
from async_adag.channels.interface import STOP, Failure, Writer
from async_adag.channels.parking import Parking, SentinelFired
from async_adag.channels.processor import kept_on
from async_adag.collectives.over_nccl import OutOfStep
from async_adag.graph.plan import ActorPlan
from async_adag.protocol.frame import ChannelError, FrameError
from async_adag.protocol.placement import own_in_place_of
from async_adag.protocol.polling import Poller


class _Ended(Exception):
    """The driver wants the loop to end, or is gone."""


class _Exit(Exception):
    """A method has raised SystemExit."""


class _Again(Exception):
    """The execution that is to begin begins anew, with what the driver has asked for."""


LONG_NS = 1_000_000
BRIEF_NS = 20_000  # about what it takes to wake another CPU


class ThreadLoop:
    """Runs an actor's share of a graph until it is stopped, told to end, or its driver dies.

    Args:
        instance: the actor.
        plan: its share.
        ends: its channel ends; the loop closes them.
        movers: what moves the tensors of some channels; become those ends' own.
        control: its control page.
        sentinels: descriptors that become readable when the driver is gone.
        poller: for how long a wait polls before it parks; None: it does not.
        turn: so that methods of this actor never overlap across graphs.
        end_actor: what a ``SystemExit`` in a method calls.
        on_end: called last, with what broke the loop, or "".
        cpu: on which its thread is to stay, or on one that it may use in that place; None leaves it alone.
    """

    def __init__(
        self,
        instance: object,
        plan: ActorPlan,
        ends: Endpoints,
        movers: Movers,
        control: Control,
        sentinels: list[int],
        poller: Poller | None,
        turn: Turn,
        end_actor: Callable[[], None],
        on_end: Callable[[str], None],
        cpu: int | None = None,
    ) -> None:
        move_tensors(movers, ends, self._apart)
        self._lanes = movers.lanes
        self._calls = self._plain = calls_of(plan, instance, ends.readers, ends.writers)
        self._heeded = 0  # what the driver asks for, as far as this loop does it
        self._recorder: Recorder | None = None  # made when first asked for
        self._first = first_registers(plan)
        self._ends = ends
        self._writers = list(ends.writers.values())
        self._control = control
        self._parking = Parking(ends.doorbell, sentinels, poller, network=ends.network)
        self._turn = turn
        self._end_actor = end_actor
        self._on_end = on_end
        self._origin = Origin()
        self._seat = None if cpu is None else partial(own_in_place_of, cpu)
        self._runner = threading.Thread(target=self._run, name=f"async_adag {plan.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._control.set_state(LoopState.WAITING)
        lead = self._calls[0].reads[0][1]  # every execution begins with a read
        network = self._ends.network
        self._place = self._turn.join(lead.may_read, None if network is None else network.turn)
        try:
            self._runner.start()
        except BaseException:
            self._turn.leave(self._place)
            raise

    def _run(self) -> None:
        broken = ""
        try:
            with kept_on(self._seat):
                self._go_on()
        except (_Ended, SentinelFired):
            pass
        except _Exit:
            # No goodbye: this process ends now, in the middle of a node, and that is what the driver is to see.
            self._end_actor()
            return
        except ChannelError as error:
            broken = str(error)
        except BaseException as error:
            broken = f"a fault in the loop: {formatted(error)}"
        self._turn.leave(self._place)
        self._control.set_state(LoopState.ENDED)
        if self._lanes is not None:
            self._lanes.stop()
        self._calls.clear()
        self._plain.clear()
        self._first.clear()
        self._writers.clear()
        self._parking.close()
        if broken and self._ends.pages:
            # The writing ends wait for their readers, who are told to end by the driver.
            self._on_end(broken)
            self._ends.close()
        else:
            self._ends.close()
            self._on_end(broken)

    def _go_on(self) -> None:
        seq, more = 0, True
        while more:
            try:
                more = self._execution(seq)
                seq += 1
            except _Again:
                pass

    def _execution(self, seq: int) -> bool:
        """One execution; False when the channels say stop."""
        channel = -1
        registers = self._first.copy()
        if self._control.asked() != self._heeded:
            self._heed()
        try:
            for call in self._calls:
                for channel, reader, targets in call.reads:  # noqa: B007 - for the error
                    while not reader.may_read():
                        self._wait(reader.may_read, reader.arm, reader.may_read)
                    try:
                        value = reader.read()
                    except ChannelError:
                        raise
                    except BaseException as error:  # as where a result is encoded
                        value = call.unreadable(error)
                    if value is STOP:
                        self._pass_on_stop()
                        return False
                    unpack(registers, targets, value)
                    del value
                if call.took < BRIEF_NS and self._control.is_alone():
                    for _, writer, _, _ in call.writes:
                        writer.call_up()  # its readers wake while the method runs
                call.store(registers, self._compute(call, seq, registers))
                for channel, writer, sources, done in call.writes:  # noqa: B007
                    encoded = call.encode(writer, registers, sources, done)
                    self._stage(call, writer, encoded)
                    del encoded  # it may hold what is to be given back before the frame is there
                    writer.publish()
                if self._turn.is_crowded():
                    self._place.has_run(time.monotonic_ns())
        except FrameError as error:
            raise ChannelFailed(self._ends.edges.get(channel, ""), seq, error) from error
        return True

    def _compute(self, call: Call, seq: int, registers: list[Any]) -> Any:
        control, turn, place = self._control, self._turn, self._place
        arguments = call.arguments(registers)
        if type(arguments) is Failure:
            return arguments
        args, kwargs = arguments  # type: ignore[misc]
        if not call.is_method:
            return self._collective(call, seq, args)
        place.wants = always
        with turn.lock:
            place.wants = place.has_work
            if turn.is_crowded():
                turn.has_begun(place)
            began = control.enter(call.number, seq)
            try:
                result = call.method(*args, **kwargs) if kwargs else call.method(*args)
            except SystemExit as leaving:
                if self._origin.left:
                    end_child(call.label, leaving)
                raise _Exit from None
            except BaseException as error:
                result = call.failure(error)
            if self._origin.left:
                end_child(call.label)
            took = call.took = control.leave(call.number, began)
        if took > LONG_NS:
            # The driver may have died meanwhile; executions that still lie in the ring are not to begin.
            self._parking.check()
        return result

    def _collective(self, call: Call, seq: int, args: list[Any]) -> Any:
        # Without a turn: it may wait for actors that wait for this one in another graph.
        self._place.wants = never
        self._turn.pauses(self._place)
        began = self._control.enter(call.number, seq)
        try:
            return call.method(*args)
        except OutOfStep as error:
            raise ChannelError(f"{call.label} failed in execution {seq}: {error}") from error
        except BaseException as error:
            return call.failure(error)
        finally:
            call.took = self._control.leave(call.number, began)
            self._place.wants = self._place.has_work

    @contextmanager
    def _apart(self, state: LoopState) -> Iterator[None]:
        """While a communicator is at work, which may wait for actors that wait for this one in another graph."""
        self._place.wants = never
        self._turn.pauses(self._place)
        self._control.begin(state)
        try:
            yield
        finally:
            self._control.set_state(LoopState.WAITING)
            self._place.wants = self._place.has_work

    def _stage(self, call: Call, writer: Writer, encoded: Encoded) -> None:
        while not writer.may_write():
            self._wait(writer.may_write, writer.arm, never)
        call.stage(writer, encoded)

    def _pass_on_stop(self) -> None:
        for call in self._calls:
            for _, writer, _, _ in call.writes:
                self._stage(call, writer, writer.encode(STOP))
                writer.publish()

    def _wait(self, ready: Callable[[], bool], arm: Callable[[], bool], wants: Callable[[], bool]) -> None:
        # The books are kept before the wait: what comes after it is on the path of an execution.
        control, parking = self._control, self._parking
        control.record_waits(parking.parked, parking.spun)
        control.record_bytes(sum([writer.bytes for writer in self._writers]))
        if control.asked() != self._heeded:
            self._heed(ready)
        place = self._place
        place.wants = wants
        self._turn.pauses(place)
        parking.wait(ready, arm)
        place.wants = place.has_work
        if self._turn.is_crowded():
            place.begins(time.monotonic_ns())
        if control.asked() != self._heeded:
            self._heed(ready)

    def _heed(self, awaited: Callable[[], bool] | None = None) -> None:
        """Do what the driver asks for: end; or record from now on, or no longer, between two executions.

        Args:
            awaited: what the loop waits for; None where it begins an execution.
        """
        control = self._control
        if control.should_end():
            raise _Ended
        if awaited is not None and awaited != self._calls[0].reads[0][1].may_read:
            return  # in the midst of an execution
        asked = self._heeded = control.asked()
        if asked & TRACE:
            if self._recorder is None:
                self._recorder = Recorder(records_in(control.records))
            seq = self._plain[0].reads[0][1].taken()
            if self._lanes is not None:
                self._lanes.start(self._recorder)
            self._calls = traced_calls(self._plain, control, seq, self._recorder, self._lanes)
        else:
            if self._lanes is not None:
                self._lanes.stop()
            self._calls = self._plain
        control.heed(asked)
        if awaited is not None:
            raise _Again
