"""Interleavings that matter, each forced: something happens at a point of the ring, the ledger or the supervision.

A point is a method of one object; what the test gives runs right before or right after it, on whatever thread
comes there. Every test runs on the real rings, with actors that the test plays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from async_adag import GraphBroken, GraphClosed
from async_adag.driver.capacity import Line
from async_adag.driver.engine import Engine
from async_adag.driver.supervision import Supervision
from async_adag.protocol.ledger import Ledger
from tests.threads import in_thread
from tests.turns import turns, until


class Points:
    """Sequence points; each is passed with the test's company once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def before(self, owner: Any, name: str, do: Callable[[], object]) -> None:
        self._at(owner, name, do, None)

    def after(self, owner: Any, name: str, do: Callable[[], object]) -> None:
        self._at(owner, name, None, do)

    def _at(self, owner: Any, name: str, first: Any, last: Any) -> None:
        original = getattr(owner, name)
        passed = []

        def point(*args: Any, **kwargs: Any) -> Any:
            once = not passed
            passed.append(True)
            if once and first is not None:
                first()
            result = original(*args, **kwargs)
            if once and last is not None:
                last()
            return result

        self._patch.setattr(owner, name, point)


@pytest.fixture
def points(monkeypatch):
    return Points(monkeypatch)


def results(stage, number, value):
    """The answers of the first ``number`` parts."""
    for part in stage.parts[:number]:
        part.answer((part.number, value))


def is_empty(stage):
    ledger = stage.engine.ledger
    return (ledger.in_flight, ledger.reserved, len(stage.engine.line)) == (0, 0, 0)


# -- a death, at each point of an execution


@pytest.mark.interpreted(reason="it replaces methods")
@pytest.mark.parametrize("point", ["encode", "stage", "publish"])
async def test_an_actor_dies_while_an_execution_is_sent(make_stage, points, point):
    """It cannot be known in time: the execution is admitted, and fails when the death is seen."""
    stage = make_stage()
    (writer,) = stage.engine.inputs.writers
    points.before(writer, point, stage.parts[0].die)
    futures = await stage.compiled.execute_async(1)
    for result in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(result, GraphBroken)
        assert "execution 0" in str(result)
    with pytest.raises(GraphBroken):
        await stage.compiled.execute_async(2)
    assert is_empty(stage)


async def test_an_actor_dies_between_arrival_and_delivery(make_stage, points):
    """What it had written comes first; what the other one had not written fails."""
    stage = make_stage()
    futures = await stage.compiled.execute_async(1)

    def answer_and_die():
        stage.parts[0].answer("in time")
        stage.parts[0].die()

    points.before(Engine, "take_in", answer_and_die)
    stage.engine.notice_departures()
    stage.engine.take_in()
    assert await futures[0] == "in time"
    with pytest.raises(GraphBroken):
        await futures[1]


async def test_frames_arrive_while_the_death_is_being_looked_into(make_stage, points):
    stage = make_stage()
    futures = await stage.compiled.execute_async(1)
    stage.parts[0].die()
    points.before(Supervision, "departures", lambda: stage.parts[1].answer("in time"))
    assert await futures[1] == "in time"
    with pytest.raises(GraphBroken):
        await futures[0]


def test_a_thread_that_takes_in_sees_the_death_before_it_parks(make_stage, points):
    """The death comes after its look at what is there: the epoll it parks at holds the pidfd."""
    stage = make_stage()
    ref = stage.compiled.execute(1)
    points.after(Engine, "take_in", stage.parts[0].die)
    with pytest.raises(GraphBroken):
        ref.get()


async def test_two_die_at_once(make_stage):
    """One of them is named, everywhere."""
    stage = make_stage()
    futures = await stage.compiled.execute_async(1)
    refs = [stage.compiled.execute(n) for n in range(2)]
    for part in stage.parts:
        part.die()
    errors = await asyncio.gather(*futures, return_exceptions=True)
    for ref in refs:
        with pytest.raises(GraphBroken) as caught:
            ref.get(timeout=0)
        errors.append(caught.value)
    assert all(isinstance(error, GraphBroken) for error in errors)
    assert len({str(error).split(" died")[0] for error in errors}) == 1


async def test_a_death_is_told_before_a_goodbye_of_the_same_moment(make_stage):
    stage = make_stage()
    futures = await stage.compiled.execute_async(1)
    stage.parts[1].leave()
    stage.parts[1].die()
    for result in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(result, ActorDiedError)


async def test_the_second_dies_while_the_first_death_breaks_the_graph(make_stage, points):
    stage = make_stage()
    futures = await stage.compiled.execute_async(1)
    points.before(Ledger, "abandon", stage.parts[1].die)
    stage.parts[0].die()
    errors = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(error, GraphBroken) and "Actor0" in str(error) for error in errors)
    await stage.compiled.aclose()
    with pytest.raises(GraphBroken, match="Actor0"):
        stage.compiled.execute(1)


# -- a death, and the end


async def test_an_actor_dies_while_the_graph_drains(make_stage):
    stage = make_stage()
    futures = await stage.compiled.execute_async(1)
    closing = asyncio.ensure_future(stage.compiled.aclose())
    await turns()
    stage.parts[1].die()
    await closing
    for result in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(result, GraphBroken)
    assert "broken" in repr(stage.compiled)


@pytest.mark.interpreted(reason="it replaces methods")
async def test_a_second_task_closes_when_the_first_has_sent_stop_and_the_readers_have_gone(
    make_stage, points, monkeypatch
):
    stage = make_stage()
    gone = {"target": stage.engine.inputs, "name": "may_write", "value": lambda: False}
    points.after(Engine, "send_stop", lambda: monkeypatch.setattr(**gone))
    closing = [asyncio.ensure_future(stage.compiled.aclose()) for _ in range(2)]
    await turns()
    for part in stage.parts:
        assert part.should_end()
        part.leave()
    await asyncio.gather(*closing)


async def test_an_actor_dies_as_stop_is_written(make_stage, points):
    """Nothing was in flight any more: the graph is closed, and says what happened."""
    stage = make_stage()
    closing = None
    points.before(Engine, "send_stop", stage.parts[0].die)
    closing = asyncio.ensure_future(stage.compiled.aclose())
    await closing
    with pytest.raises(GraphBroken):
        await stage.compiled.execute_async(1)


@pytest.mark.parametrize("point", ["close_now", "_end", "release"])
def test_an_actor_dies_while_the_graph_is_torn_down(make_stage, points, point):
    stage = make_stage()
    arrived, lost = stage.compiled.execute(1), stage.compiled.execute(2)
    results(stage, 2, 1)
    points.before(Engine, point, stage.parts[0].die)
    stage.compiled.teardown()
    assert arrived.get() == [(0, 1), (1, 1)]
    with pytest.raises((GraphClosed, GraphBroken)):
        lost.get()
    stage.compiled.teardown()


async def test_torn_down_in_the_turn_in_which_a_result_arrives(make_stage):
    stage = make_stage()
    futures = await stage.compiled.execute_async(1)
    results(stage, 1, 1)
    stage.compiled.teardown()
    assert await futures[0] == (0, 1)
    with pytest.raises(GraphClosed):
        await futures[1]


# -- places


async def test_a_place_is_granted_and_the_graph_breaks_before_the_task_runs(make_stage, points):
    stage = make_stage(max_inflight=1)
    await stage.compiled.execute_async(1)
    waiting = asyncio.ensure_future(stage.compiled.execute_async(2))
    await until(lambda: stage.compiled.stats().waiting == 1)
    results(stage, 2, 1)
    points.after(Line, "grant_next", lambda: stage.engine.fail(lambda seq: GraphBroken(f"forced, {seq}")))
    with pytest.raises(GraphBroken, match="forced"):
        await waiting
    assert is_empty(stage)


async def test_a_place_is_granted_and_the_task_is_cancelled_before_it_runs(make_stage, points):
    """The place goes to the next in line."""
    stage = make_stage(max_inflight=1)
    await stage.compiled.execute_async(1)
    first, second = (asyncio.ensure_future(stage.compiled.execute_async(n)) for n in (2, 3))
    await until(lambda: stage.compiled.stats().waiting == 2)
    results(stage, 2, 1)
    points.after(Line, "grant_next", first.cancel)
    await second
    assert first.cancelled()
    assert [part.take() for part in stage.parts] == [[3], [3]]
    results(stage, 2, 3)
    assert await (await second) == [(0, 3), (1, 3)]
    assert is_empty(stage)


async def test_a_newcomer_does_not_overtake_a_task_whose_place_is_granted(make_stage):
    """Places for both are free; they are sent in the order in which they came."""
    stage = make_stage(max_inflight=2)
    for number in range(2):
        await stage.compiled.execute_async(number)
    first = asyncio.ensure_future(stage.compiled.execute_async("first"))
    await until(lambda: stage.compiled.stats().waiting == 1)
    for number in range(2):
        results(stage, 2, number)
    stage.engine.progress()  # the place is granted, and its task has had no turn
    await stage.compiled.execute_async("second")
    await first
    assert [part.take() for part in stage.parts] == [["first", "second"]] * 2


@pytest.mark.interpreted(reason="it replaces methods")
async def test_cancelled_from_outside_while_the_place_is_being_granted(make_stage, points):
    """As `asyncio.run` does in the handler of Ctrl-C."""
    stage = make_stage(max_inflight=1)
    seen = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    futures = await stage.compiled.execute_async(1)
    waiting = asyncio.ensure_future(stage.compiled.execute_async(2))
    await until(lambda: stage.compiled.stats().waiting == 1)
    results(stage, 2, 1)
    points.after(Ledger, "reserve", waiting.cancel)
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert await futures == [(0, 1), (1, 1)]
    assert is_empty(stage)
    assert not seen


def test_a_thread_is_granted_a_place_and_the_graph_is_torn_down(make_stage, points):
    stage = make_stage(max_inflight=1)
    stage.compiled.execute(1)
    waiting = in_thread(stage.compiled.execute, 2)
    while not stage.compiled.stats().waiting:
        pass
    points.after(Line, "grant_next", stage.engine.close_now)
    results(stage, 2, 1)
    with pytest.raises(GraphClosed):
        waiting.result()
    assert is_empty(stage)


# -- a cancellation, and an arrival


@pytest.mark.interpreted(reason="it replaces methods")
@pytest.mark.parametrize("point", ["first", "arrive"])
async def test_a_future_is_cancelled_as_its_frame_arrives(make_stage, points, point):
    """The neighbour and the next execution get what is theirs."""
    stage = make_stage()
    futures = await stage.compiled.execute_async(1)
    following = await stage.compiled.execute_async(2)
    points.before(Ledger, point, futures[0].cancel)
    for value in (1, 2):
        results(stage, 2, value)
    assert await following == [(0, 2), (1, 2)]
    assert futures[0].cancelled()
    assert await futures[1] == (1, 1)
    assert is_empty(stage)


class Hasty(asyncio.Future):
    """A future that is cancelled between the look whether it is done, and its result."""

    def done(self):
        before = super().done()
        self.cancel()
        return before


@pytest.mark.parametrize("fails", [False, True])
async def test_a_future_is_cancelled_between_the_look_and_its_result(make_stage, monkeypatch, fails):
    """Only a signal's handler comes there: the frame's other outputs and later frames are not lost by it."""
    stage = make_stage()
    seen = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    stage.engine.loop.bind()
    monkeypatch.setattr(stage.engine.loop, "_loop", LoopWithHasty(loop))
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: stage.engine.loop._loop)
    futures = await stage.compiled.execute_async(1)
    monkeypatch.undo()
    following = await stage.compiled.execute_async(2)
    for part in stage.parts:
        part.fail(ZeroDivisionError()) if fails else part.answer(1)
        part.answer((part.number, 2))
    assert await following == [(0, 2), (1, 2)]
    assert all(future.cancelled() for future in futures)
    assert not seen


class LoopWithHasty:
    """An event loop whose futures are `Hasty`."""

    def __init__(self, loop):
        self._inner = loop

    def create_future(self):
        return Hasty(loop=self._inner)

    def __getattr__(self, name):
        return getattr(self._inner, name)
