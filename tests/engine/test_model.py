"""The engine against a model: whatever callers, actors and deaths do at once, every outcome is the right one.

The model is a table of what must hold once all have come to rest, whatever order got them there: it takes from the
actors which executions they were sent, in which order, and from the test what was answered before the end.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from async_adag import CapacityExceeded, ExecutionTimeout, GraphBroken, GraphClosed
from async_adag.channels.interface import STOP
from tests.engine.conftest import two_parts
from tests.stage import Stage
from tests.turns import turns

OUTPUTS = (0, 1)
PHASES = [Phase.explicit, Phase.generate]  # no shrinking: each example starts processes
ACTIONS = (
    *["submit"] * 4,
    *["answer"] * 3,
    "execute",
    "execute",
    "fail",
    "get",
    "cancel",
    "cancel_output",
    "drop",
)
ENDS = ("die", "tear_down", "aclose", "cancel_close")


class Call:
    """One execution that somebody asked for."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.task: asyncio.Task[None] | None = None
        self.results: Any = None  # futures or refs, once it is admitted
        self.cancelled: set[int] = set()  # outputs
        self.dropped = False

    async def run(self, compiled: Any) -> None:
        self.results = await compiled.execute_async(self.value)


class EngineAgainstModel(RuleBasedStateMachine):
    new_loop = staticmethod(asyncio.new_event_loop)

    @initialize(limit=st.integers(1, 4))
    def make(self, limit):
        self.loop = self.new_loop()
        self.limit = limit
        self.stage = Stage(two_parts(), max_inflight=limit, submit_timeout=0)
        self.compiled = self.stage.compiled
        self.calls: dict[int, Call] = {}
        self.answers: list[list[Any]] = [[], []]  # by output: what was answered before the end
        self.dead: set[int] = set()
        self.end: type[Exception] | None = None
        self.draining: asyncio.Task[None] | None = None
        self.drains = False  # whether that has begun

    @rule(data=st.data(), count=st.integers(1, 5))
    def at_once(self, data, count):
        """A few things happen before anybody has had a turn."""
        for _ in range(count):
            # The end comes seldom, so that there is something for it to hit.
            action = data.draw(st.sampled_from(ACTIONS * 3 + ENDS))
            getattr(self, action)(data)
        self.rest()

    # -- what callers do

    def _new(self) -> Call:
        call = Call(len(self.calls))
        self.calls[call.value] = call
        return call

    def submit(self, data):
        call = self._new()
        call.task = self.loop.create_task(call.run(self.compiled))

    def execute(self, data):
        call = self._new()
        try:
            call.results = self.compiled.execute(call.value)
        except CapacityExceeded:
            call.dropped = True
            self.notice()
            assert self.end is None
        except (GraphBroken, GraphClosed) as error:
            call.dropped = True
            self.notice()
            self.check_refusal(error)

    def get(self, data):
        """A ref that is looked at between two turns of the loop gives what has arrived, and no more."""
        refs = [call for call in self.calls.values() if call.results is not None and call.task is None]
        if not refs:
            return
        call = data.draw(st.sampled_from(refs))
        for output in OUTPUTS:
            try:
                got = call.results[output].get(timeout=0)
            except ExecutionTimeout:
                got = None
            except Exception as error:
                got = error
            self.notice()
            self.check_outcome(call, output, got)

    def cancel(self, data):
        waiting = [call for call in self.calls.values() if call.task is not None and not call.task.done()]
        if waiting:
            data.draw(st.sampled_from(waiting)).task.cancel()

    def cancel_output(self, data):
        futures = [
            (call, output)
            for call in self.calls.values()
            if call.task is not None and call.results is not None and not call.dropped
            for output in OUTPUTS
        ]
        if futures:
            call, output = data.draw(st.sampled_from(futures))
            if call.results[output].cancel():
                call.cancelled.add(output)

    def drop(self, data):
        held = [call for call in self.calls.values() if call.results is not None]
        if held:
            call = data.draw(st.sampled_from(held))
            call.results, call.dropped = None, True

    # -- what actors do

    def _reply(self, data, fails):
        living = [part for part in self.stage.parts if part.number not in self.dead and STOP not in part.take()]
        ready = [part for part in living if part.inbox]
        if not ready or self.end is not None:
            return
        part = data.draw(st.sampled_from(ready))
        for _ in range(data.draw(st.integers(1, len(part.inbox)))):
            value = part.inbox[0]
            if fails:
                part.fail(ZeroDivisionError(value))
            else:
                part.answer(("answer", part.number, value))
            self.answers[part.number].append(None if fails else ("answer", part.number, value))

    def answer(self, data):
        self._reply(data, fails=False)

    def fail(self, data):
        self._reply(data, fails=True)

    def die(self, data):
        living = [part for part in self.stage.parts if part.number not in self.dead]
        if living and self.end is None:
            part = data.draw(st.sampled_from(living))
            part.die()
            self.dead.add(part.number)

    def notice(self):
        """The driver has looked at who is there."""
        if self.dead and self.end is None:
            self.end = GraphBroken

    # -- the end

    def tear_down(self, data):
        self.compiled.teardown()
        self.notice()
        self.end = self.end or GraphClosed

    def aclose(self, data):
        if self.draining is None and self.end is None:
            self.draining = self.loop.create_task(self.drain())

    async def drain(self):
        self.drains = True
        await self.compiled.aclose()

    def cancel_close(self, data):
        if self.draining is not None and not self.draining.done():
            self.draining.cancel()

    def rest(self):
        """Everybody has had as many turns as they want."""
        for _ in range(3):
            self.loop.run_until_complete(turns(12))
            for part in self.stage.parts:
                if part.number not in self.dead and self.end is None and STOP in part.take():
                    part.leave()
        if all(call.task is None for call in self.calls.values()) and self.draining is None:
            # No loop has met the graph, and nothing is read in the background: somebody has to look.
            self.stage.engine.notice_departures()
            self.stage.engine.take_in()
        self.notice()
        if self.draining is not None and self.draining.done():
            if not self.drains:  # it was cancelled before it had begun, and has done nothing
                self.draining = None
                return
            assert self.draining.cancelled() or self.draining.exception() is None
            self.end = self.end or GraphClosed

    # -- what must hold

    def sent(self) -> list[int]:
        """The executions that were admitted, in their order."""
        for part in self.stage.parts:
            if part.number not in self.dead and self.end is None:
                part.take()
        histories = [[value for value in part.history if value is not STOP] for part in self.stage.parts]
        shorter, longer = sorted(histories, key=len)
        assert longer[: len(shorter)] == shorter, "the actors were sent different things"
        return longer

    @invariant()
    def every_outcome_is_right(self):
        if not hasattr(self, "calls"):
            return
        self.order = self.sent()
        assert len(set(self.order)) == len(self.order), "something was sent twice"
        tasks = [value for value in self.order if self.calls[value].task is not None]
        assert tasks == sorted(tasks), "those in line were not served in turn"
        for call in self.calls.values():
            if call.dropped:
                continue
            if call.results is None:
                self.check_waiting(call)
                continue
            for output in OUTPUTS:
                self.check_outcome(call, output, self.look(call, output))

    def look(self, call: Call, output: int) -> Any:
        """A value, an error, or None while there is neither."""
        result = call.results[output]
        if call.task is None:
            return (result._error or result._value) if result.is_settled() else None
        if not result.done():
            return None
        if result.cancelled():
            return asyncio.CancelledError()
        return result.exception() or result.result()

    def check_outcome(self, call: Call, output: int, got: Any) -> None:
        order = self.sent()
        place = order.index(call.value) if call.value in order else len(self.answers[output])
        if output in call.cancelled:
            assert isinstance(got, asyncio.CancelledError)
        elif place < len(self.answers[output]):
            answer = self.answers[output][place]
            assert isinstance(got, ZeroDivisionError) if answer is None else got == answer
        elif self.end is not None:
            assert isinstance(got, self.end)
        else:
            assert got is None

    def check_waiting(self, call: Call) -> None:
        assert call.task is not None
        if call.task.done() and not call.task.cancelled():
            self.check_refusal(call.task.exception())
        elif not call.task.done():
            assert self.end is None
            assert self.draining is None
            assert self.in_flight() == self.limit, "it waits although a place is free"

    def check_refusal(self, error: BaseException | None) -> None:
        """What a call got that was not admitted; one that came while the graph was being closed may say that."""
        expected = {self.end} if self.end is not None else set()
        if self.draining is not None:
            expected.add(GraphClosed)
        assert isinstance(error, tuple(expected))

    def in_flight(self) -> int:
        return len(self.order) - min(map(len, self.answers))

    @invariant()
    def places_are_counted_right(self):
        if not hasattr(self, "calls") or self.end is not None:
            return
        stats = self.compiled.stats()
        waiting = [c for c in self.calls.values() if c.task is not None and not c.task.done()]
        assert stats.in_flight == self.in_flight() <= self.limit
        assert stats.waiting == len(waiting)
        assert stats.executions == len(self.order)
        assert self.stage.engine.ledger.reserved == 0

    def teardown(self):
        if not hasattr(self, "calls"):
            return
        self.stage.close()
        self.loop.run_until_complete(turns(12))
        for call in self.calls.values():
            if call.task is not None:
                assert call.task.done(), "left waiting for ever"
                assert call.task.cancelled() or call.task.exception() or True  # looked at
        if self.draining is not None:
            assert self.draining.done()
        self.loop.close()


class EngineOnUvloop(EngineAgainstModel):
    new_loop = staticmethod(uvloop.new_event_loop)


for machine in EngineAgainstModel, EngineOnUvloop:
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, phases=PHASES)
TestEngineAgainstModel = EngineAgainstModel.TestCase
TestEngineOnUvloop = EngineOnUvloop.TestCase
