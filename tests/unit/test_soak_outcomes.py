"""The model of the soak and of chaos: what may come of a call, given what was done to its graph."""

from __future__ import annotations

import asyncio
import faulthandler
import time
from dataclasses import replace
from random import Random

import pytest

from async_adag import CapacityExceeded, ExecutionTimeout, GraphBroken, GraphClosed, GraphError, RemoteError
from async_adag.errors import ActorDied, CompileActorDied
from tests.soak.outcomes import Call, Hung, Outcome, Subject, Tally, judge, judge_compile
from tests.soak.parcels import FAILURES, SIZES, Post, Refused, Spoiled
from tests.soak.shapes import SHAPES, Failing

CHAIN = next(shape for shape in SHAPES if shape.name == "chain")
TWO_ENDS = next(shape for shape in SHAPES if shape.name == "two ends")


@pytest.fixture
def post():
    return Post(Random(1))


def call_of(parcel, shape=CHAIN, **facts) -> Call:
    subject = Subject(shape, [])
    return Call(subject, parcel, **facts)


@pytest.mark.parametrize("form", ["bytes", "array"])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000])
def test_a_body_tells_whose_it_is(post, form, size):
    parcel, other = post.parcel(size, form=form), post.parcel(size, form=form)
    parcel.check()
    if size:
        with pytest.raises(Spoiled):
            replace(parcel, body=other.body).check()
    with pytest.raises(Spoiled):
        replace(parcel, body=bytes(size + 1)).check()


def test_the_last_byte_of_a_body_counts(post):
    parcel = post.parcel(1000, form="bytes")
    with pytest.raises(Spoiled):
        replace(parcel, body=parcel.body[:-1] + b"\xff").check()


def test_the_same_seed_makes_the_same_parcels():
    one, two = (Post(Random(7)) for _ in range(2))
    for _ in range(50):
        first, second = one.any(("a", "b")), two.any(("a", "b"))
        assert (first.size, first.orders, first.delay) == (second.size, second.orders, second.delay)
        assert first.size in SIZES


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_what_must_come_is_what_an_actor_would_make(post, shape):
    """Against a plain walk through the stages."""
    parcel = post.parcel(10)
    made = {"": parcel}
    for stage in shape.stages:
        made[stage.name] = made[stage.takes[0]].passed(stage.name)
    assert shape.expect(parcel) == [made[output] for output in shape.outputs]
    assert shape.seats == len({stage.seat for stage in shape.stages})


@pytest.mark.parametrize("order", FAILURES)
def test_a_failure_goes_to_the_outputs_behind_it(post, order):
    left, right = TWO_ENDS.expect(post.parcel(10, orders={"b": order}))
    assert isinstance(left, Failing)
    assert not isinstance(right, Failing)
    assert all(isinstance(end, Failing) for end in TWO_ENDS.expect(post.parcel(10, orders={"a": order})))


def test_a_right_result_and_wrong_ones(post):
    call = call_of(post.parcel(100))
    (right,) = call.expected
    assert judge(call, right) == (Outcome.RIGHT, "")
    for wrong in (
        replace(right, trail=right.trail[:-1]),
        replace(right, number=right.number + 1),
        replace(right, body=None),
        replace(right, body=b"x" * 100),
        replace(right, size=99),
        None,
        [right],
    ):
        outcome, why = judge(call, wrong)
        assert outcome is Outcome.WRONG
        assert why


def test_the_outputs_of_a_list_are_judged_together_and_one_by_one(post):
    call = call_of(post.parcel(10), TWO_ENDS)
    left, right = call.expected
    assert judge(call, [left, right])[0] is Outcome.RIGHT
    assert judge(call, [right, left])[0] is Outcome.WRONG
    assert judge(call, [left])[0] is Outcome.WRONG
    assert judge(call, left, 0)[0] is Outcome.RIGHT
    assert judge(call, left, 1)[0] is Outcome.WRONG


def test_a_failure_must_be_the_one_that_was_ordered(post):
    parcel = post.parcel(10, orders={"b": "fail"})
    call = call_of(parcel)
    assert judge(call, Refused(f"b of {parcel.number}"))[0] is Outcome.FAILED
    assert judge(call, Refused(f"a of {parcel.number}"))[0] is Outcome.WRONG
    assert judge(call, RemoteError(f"b of {parcel.number}"))[0] is Outcome.WRONG
    assert judge(call, parcel.passed("a").passed("b").passed("c"))[0] is Outcome.WRONG
    assert judge(call_of(post.parcel(10)), Refused("b of 1"))[0] is Outcome.WRONG


def killed(call):
    call.subject.deaths.append(time.monotonic())


def spoiled(call):
    call.subject.spoiled = True


def draining(call):
    call.subject.draining = True


def abandoned(call):
    call.subject.abandoned = True


def cancelled(call):
    call.cancelled = True


def with_deadline(call):
    call.deadline = True


def impatient(call):
    call.blocking = call.subject.impatient = True


def unsendable(call):
    call.sendable = False


REASONS = [
    (ActorDied("died"), killed, Outcome.BROKEN),
    (GraphBroken("a channel failed"), spoiled, Outcome.SPOILED),
    (GraphClosed("closed"), draining, Outcome.CLOSED),
    (GraphClosed("closed"), abandoned, Outcome.CLOSED),
    (asyncio.CancelledError(), cancelled, Outcome.CANCELLED),
    (ExecutionTimeout("late"), with_deadline, Outcome.TIMED_OUT),
    (CapacityExceeded("full"), impatient, Outcome.FULL),
    (TypeError("cannot pickle"), unsendable, Outcome.REFUSED),
]


@pytest.mark.parametrize(("error", "reason", "outcome"), REASONS, ids=[why.__name__ for _, why, _ in REASONS])
def test_every_error_needs_its_reason(post, error, reason, outcome):
    call = call_of(post.parcel(10))
    verdict, why = judge(call, error)
    assert verdict is Outcome.WRONG
    assert type(error).__name__ in why
    for _, other, of_other in REASONS:
        call = call_of(post.parcel(10))
        other(call)
        allowed = other is reason or of_other is outcome
        assert judge(call, error)[0] is (outcome if allowed else Outcome.WRONG), other.__name__


def test_a_broken_graph_must_say_that_an_actor_died(post):
    call = call_of(post.parcel(10))
    killed(call)
    assert judge(call, GraphBroken("a channel failed"))[0] is Outcome.WRONG


def test_a_graph_that_a_spoiled_frame_broke_is_counted_once(post):
    tally = Tally(patience=1)
    call = call_of(post.parcel(10))
    spoiled(call)
    for _ in range(3):
        tally.count(call, GraphBroken("a channel failed"))
    assert tally.outcomes == {Outcome.SPOILED: 3}
    assert tally.events == {"malformed frames refused": 1}


def test_what_was_in_flight_when_a_graph_was_drained_must_finish(post):
    call = call_of(post.parcel(10), admitted=True)
    draining(call)
    assert judge(call, GraphClosed("closed"))[0] is Outcome.WRONG


def test_what_cannot_be_pickled_must_be_refused(post):
    call = call_of(post.parcel(10), sendable=False)
    assert judge(call, call.expected[0])[0] is Outcome.WRONG


def test_compiling_may_fail_where_an_actor_was_killed(post):
    subject = Subject(CHAIN, [])
    assert judge_compile(subject, CompileActorDied("died"))
    subject.deaths.append(0.0)
    assert judge_compile(subject, CompileActorDied("died")) == ""
    assert judge_compile(subject, GraphError("did not answer"))
    assert judge_compile(subject, OSError("too many open files"))


def test_counters(post):
    tally = Tally(patience=1)
    call = call_of(post.parcel(10))
    tally.count(call, call.expected[0])
    call.subject.killed_at = call.began + 1
    killed(call)
    tally.count(call, ActorDied("died"), at=call.began + 1.25)
    later = Call(call.subject, call.parcel, began=call.began + 2)
    tally.count(later, ActorDied("died"), at=call.began + 9)
    tally.count(call, ValueError("nobody ordered this"))
    assert dict(tally.outcomes) == {Outcome.RIGHT: 1, Outcome.BROKEN: 2, Outcome.WRONG: 1}
    assert tally.executions == 1
    assert tally.slowest_failure == pytest.approx(0.25)
    assert len(tally.wrong) == 1
    assert "nobody ordered this" in tally.wrong[0]


async def test_results_errors_and_cancellations_are_results():
    tally = Tally(patience=30)
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(KeyError("x"))
    assert await tally.result_of(asyncio.sleep(0, "value"), "") == "value"
    assert isinstance(await tally.result_of(failed, ""), KeyError)
    assert isinstance(await tally.result_of(future, ""), asyncio.CancelledError)
    assert tally.wrong == []


async def test_what_does_not_end_is_a_hang(monkeypatch):
    dumped = []
    monkeypatch.setattr(faulthandler, "dump_traceback", lambda file: dumped.append(True))
    tally = Tally(patience=0)
    never = asyncio.get_running_loop().create_future()
    with pytest.raises(Hung, match="the one"):
        await tally.result_of(never, "the one")
    assert dumped == [True]
    assert len(tally.wrong) == 1
