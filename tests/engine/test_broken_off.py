"""Steps that are broken off where not even the breaking of the graph can be done: whoever comes next does it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from async_adag.driver.deployment import Deployment
from async_adag.driver.results import GraphRef
from async_adag.errors import GraphBroken

REACH = 150  # frames: more than any step here is deep


class SendsNothing:
    """A writing end that cannot send what was staged."""

    def __init__(self, end):
        self._end = end

    def __getattr__(self, name):
        return getattr(self._end, name)

    def publish(self):
        raise MemoryError


@pytest.fixture(params=["at once", "in the midst"])
def fail_once(request, monkeypatch):
    """Has the breaking of a stage's graph raise the first time, at its beginning or when half is done."""

    def have(stage):
        engine = stage.engine
        left = [MemoryError("no more")]

        def raising(*args):
            if left:
                raise left.pop()
            return whole(*args)

        if request.param == "at once":
            whole = engine.fail
            monkeypatch.setattr(engine, "fail", raising)
        else:
            whole = Deployment.end_loops
            monkeypatch.setattr(Deployment, "end_loops", raising)
        return left

    return have


def test_an_execution_that_was_sent_and_not_written_down(make_stage, fail_once):
    stage = make_stage(1)
    earlier = stage.compiled.execute("earlier")
    writers = stage.engine.inputs.writers
    left = fail_once(stage)
    writers[0] = SendsNothing(writers[0])
    with pytest.raises(MemoryError, match="no more"):
        stage.compiled.execute("half")
    assert not left
    with pytest.raises(GraphBroken, match="in the middle of a step"):
        stage.compiled.execute("later")
    with pytest.raises(GraphBroken, match="execution 0 had not arrived"):
        earlier.get()
    stage.compiled.teardown()
    assert all(part.should_end() for part in stage.parts)


async def test_futures_are_settled_by_the_next_call(make_stage, fail_once):
    stage = make_stage(1)
    earlier = await stage.compiled.execute_async("earlier")
    writers = stage.engine.inputs.writers
    fail_once(stage)
    writers[0] = SendsNothing(writers[0])
    with pytest.raises(MemoryError, match="no more"):
        await stage.compiled.execute_async("half")
    with pytest.raises(GraphBroken):
        await stage.compiled.execute_async("later")
    async with asyncio.timeout(60):
        with pytest.raises(GraphBroken, match="in the middle of a step"):
            await earlier


def test_a_result_that_was_taken_and_not_handed_on(make_stage, fail_once, monkeypatch):
    stage = make_stage(1)
    refs = [stage.compiled.execute(number) for number in range(2)]
    stage.parts[0].answer("first")
    fail_once(stage)
    settle, left = GraphRef.settle, [MemoryError(), MemoryError()]  # for the result, and for that it was lost

    def settle_later(*args):
        if left:
            raise left.pop()
        settle(*args)

    monkeypatch.setattr(GraphRef, "settle", settle_later)
    with pytest.raises(MemoryError):
        refs[0].get()
    assert not left
    for ref in refs:
        with pytest.raises(GraphBroken, match="in the middle of a step"):
            ref.get()


def frames():
    """How deep the stack is."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


def echo(stage):
    """Answer all that was sent."""
    for value in list(stage.parts[0].take()):
        stage.parts[0].answer(value)
    stage.parts[0].reader.arm()  # so that the next one has to ring, which is the deepest there is


@pytest.mark.parametrize("way", ["execute", "get"])
def test_who_runs_out_of_stack_leaves_no_result_to_others(make_stage, way):
    """At each depth: the result is right, or there is none, and then it is nobody else's."""
    outcomes = set()
    stage = make_stage(1)

    def deep(levels):
        if levels:
            return deep(levels - 1)
        return stage.compiled.execute("deep") if way == "execute" else ref.get(timeout=60)

    limit = sys.getrecursionlimit()
    for levels in range(limit - frames() - REACH, limit - frames()):
        ref = stage.compiled.execute("outer")
        echo(stage)
        try:
            found = deep(levels)
            outcomes.add("came")
            echo(stage)
            assert found == "outer" if way == "get" else found.get(timeout=60) == "deep"
        except RecursionError:
            outcomes.add("too deep")
        try:
            later = stage.compiled.execute("later")
            echo(stage)
            assert later.get(timeout=60) == "later"
            assert ref.get(timeout=60) == "outer"
        except GraphBroken as error:
            outcomes.add("broken" if "RecursionError" in str(error) else str(error))
            stage = make_stage(1)
        except RecursionError:
            outcomes.add("its own")  # of unpickling it there, and so for good
    assert (
        {"came", "too deep"} <= outcomes <= {"came", "too deep", "broken", *(["its own"] if way == "get" else [])}
    )
