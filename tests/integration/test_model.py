"""Real actors against a model: calls, cancellations, failures, deaths and ends, in any order.

`tests/engine/test_model.py` looks into every corner with actors that it plays; here all processes are there.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
import ray
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from ray.dag import InputNode

import async_adag
from async_adag import CapacityExceeded, GraphBroken, GraphClosed
from tests.actors import Worker
from tests.turns import turns

LIMIT = 3


def invert(value: int) -> float:
    return 1 / value


class GraphAgainstModel(RuleBasedStateMachine):
    """A chain of two actors that gives ``1 / value``; for 0 its first node fails."""

    actors: list[Any]

    @initialize()
    def make(self):
        self.loop = asyncio.new_event_loop()
        self.compile()

    def compile(self):
        first, second = self.actors
        with InputNode() as x:
            dag = second.echo.bind(first.call.bind(invert, x))
        self.compiled = async_adag.compile(dag, max_inflight=LIMIT, submit_timeout=0)
        self.tasks: dict[asyncio.Task[Any], int] = {}
        self.refs: list[tuple[Any, int]] = []
        self.may_be: tuple[type[Exception], ...] = ()  # what the end may have made of an execution

    @rule(values=st.lists(st.integers(0, 9), max_size=6))
    def call(self, values):
        for value in values:
            self.tasks[self.loop.create_task(self.compiled(value))] = value

    @rule(count=st.integers(0, 4))
    def take_turns(self, count):
        self.loop.run_until_complete(turns(count))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from(list(self.tasks))).cancel()

    @rule(value=st.integers(0, 9))
    def execute(self, value):
        try:
            self.refs.append((self.compiled.execute(value), value))
        except CapacityExceeded:
            assert self.compiled.stats().in_flight + len(self.tasks) >= LIMIT
        except (GraphBroken, GraphClosed) as error:
            self.check(error, value)

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def drop(self, data):
        self.refs.pop(data.draw(st.integers(0, len(self.refs) - 1)))

    @rule()
    def kill(self):
        """The first actor dies, whatever it does."""
        pid = ray.get(self.actors[0].pid.remote())
        os.kill(pid, signal.SIGKILL)
        self.actors[0] = Worker.remote()
        self.may_be += (GraphBroken,)
        self.finish()

    @rule()
    def tear_down(self):
        self.compiled.teardown()
        self.may_be += (GraphClosed,)
        self.finish()

    @rule()
    def close(self):
        self.loop.run_until_complete(self.compiled.aclose())
        self.may_be += (GraphClosed,)
        self.finish()

    def finish(self):
        """Everything has an outcome, and it is one of those that it may have; then begin anew."""
        self.settle()
        self.compiled.teardown()
        self.compile()

    def settle(self):
        for ref, value in self.refs:
            self.check(self.outcome(ref.get), value)
        results = self.loop.run_until_complete(asyncio.wait_for(self._all(), 30))
        for (task, value), result in zip(self.tasks.items(), results, strict=True):
            if task.cancelled():
                assert isinstance(result, asyncio.CancelledError)
            else:
                self.check(result, value)

    async def _all(self) -> list[Any]:
        return await asyncio.gather(*self.tasks, return_exceptions=True)

    def outcome(self, get: Any) -> Any:
        try:
            return get(timeout=100)
        except Exception as error:
            return error

    def check(self, result: Any, value: int) -> None:
        if self.may_be and isinstance(result, self.may_be):
            return
        assert isinstance(result, ZeroDivisionError) if value == 0 else result == 1 / value

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        self.settle()
        if not self.may_be:
            stats = self.compiled.stats()
            assert (stats.in_flight, stats.waiting) == (0, 0)
        self.compiled.teardown()
        self.loop.run_until_complete(turns())
        self.loop.close()


@pytest.fixture
def actors(cluster):
    """Two; the first may be another one at the end."""
    made = [Worker.remote(), Worker.remote()]
    yield made
    for actor in made:
        ray.kill(actor)


def test_a_graph_against_its_model(actors):
    class Machine(GraphAgainstModel):
        pass

    Machine.actors = actors
    quick = settings(
        max_examples=6,
        stateful_step_count=14,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=quick)
