"""Ctrl-C, and other exceptions, at every single step of the driver's code: no frame is lost or counted twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import async_adag
from async_adag import AdagError, CapacityExceeded, GraphClosed, RemoteError
from async_adag.channels.parking import Parking
from tests.stage import Stage
from tests.threads import join_all

PACKAGE = os.path.dirname(async_adag.__file__)
PLACES = 2
CLOSING = "async_adag teardown"  # a thread


class Strike:
    """Runs something, and does ``what`` ahead of step ``at`` of this package's code: a bytecode, line or call."""

    def __init__(self, what: Callable[[], None], at: int, event: str = "opcode") -> None:
        self.what = what
        self.left = at
        self.event = event
        self.struck = False

    def run(self, function: Callable[[], Any]) -> Any:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return function()
        finally:
            sys.settrace(before)

    def _enter(self, frame: Any, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "__del__":
            return None  # Python swallows what is raised in a finalizer
        if self.event == "call":
            return self._step(frame, event, arg) and None
        frame.f_trace_opcodes = self.event == "opcode"
        return self._step

    def _step(self, frame: Any, event: str, arg: object) -> Any:
        if event == self.event and not self.struck:
            if self.left == 0:
                self.struck = True
                sys.settrace(None)
                self.what()
            self.left -= 1
        return self._step


def strike_everywhere(what: Callable[[], None], function: Callable[[Strike], None], event: str = "opcode") -> int:
    """Call ``function`` with a strike at each of its steps; how many there are."""
    at = 0
    while True:
        strike = Strike(what, at, event)
        function(strike)
        if not strike.struck:
            return at
        at += 1


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class Boom(BaseException):
    """Not to be confused with anything."""


def explode() -> None:
    raise Boom


@pytest.fixture(autouse=True)
def _plain_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "a handler was left behind"
    signal.signal(signal.SIGINT, before)


def play(stage: Stage) -> None:
    """Both actors answer all they have been sent: with their number and the value."""
    for part in stage.parts:
        while part.take():
            part.answer((part.number, part.inbox[0]))


def is_well(stage: Stage, number: int) -> None:
    """All of the graph's places are free, and results go to those who asked."""
    play(stage)
    refs = [(value, stage.compiled.execute(value)) for value in range(number, number + PLACES)]
    with pytest.raises(CapacityExceeded):
        stage.compiled.execute(-1)
    play(stage)
    for value, got in refs:
        assert got.get(timeout=0) == [(0, value), (1, value)]
    ledger = stage.engine.ledger
    assert (ledger.in_flight, ledger.reserved, len(stage.engine.line)) == (0, 0, 0)


@pytest.mark.interpreted(reason="it stops between steps of Python")
def test_ctrl_c_at_every_step_of_execute(make_stage):
    stage = make_stage(max_inflight=PLACES, submit_timeout=0)
    interrupted = []

    def once(strike):
        try:
            ref = strike.run(lambda: stage.compiled.execute("x"))
        except KeyboardInterrupt:
            interrupted.append(True)
        else:
            play(stage)
            assert ref.get(timeout=0) == [(0, "x"), (1, "x")]
        is_well(stage, len(interrupted))

    steps = strike_everywhere(interrupt, once)
    assert len(interrupted) == steps > 300


def test_ctrl_c_at_every_step_of_get(make_stage):
    """Nothing is consumed: the same ref gives the result the next time."""
    stage = make_stage(max_inflight=PLACES, submit_timeout=0)
    interrupted = []

    def once(strike):
        before, ref = stage.compiled.execute(1), stage.compiled.execute({"size": 2})
        play(stage)
        try:
            assert strike.run(ref.get) == [(0, {"size": 2}), (1, {"size": 2})]
        except KeyboardInterrupt:
            interrupted.append(True)
        assert ref.get(timeout=0) == [(0, {"size": 2}), (1, {"size": 2})]
        assert before.get(timeout=0) == [(0, 1), (1, 1)]
        is_well(stage, len(interrupted))

    assert strike_everywhere(interrupt, once) == len(interrupted) > 300


def test_ctrl_c_at_every_step_of_waiting_for_a_place(make_stage, monkeypatch):
    """Whoever parks finds the actors at work."""
    stage = make_stage(max_inflight=PLACES)
    interrupted = []

    def work(parking, ready, arm, deadline=None):
        if not arm():
            play(stage)

    monkeypatch.setattr(Parking, "wait", work)

    def once(strike):
        refs = [stage.compiled.execute(n) for n in range(PLACES)]
        try:
            refs.append(strike.run(lambda: stage.compiled.execute(PLACES)))
        except KeyboardInterrupt:
            interrupted.append(True)
        for value, ref in enumerate(refs):
            assert ref.get() == [(0, value), (1, value)]
        play(stage)
        assert len(stage.engine.line) == 0
        refs += [stage.compiled.execute(value) for value in range(PLACES)]
        play(stage)
        assert refs[-1].get() == [(0, PLACES - 1), (1, PLACES - 1)]
        assert (stage.engine.ledger.in_flight, stage.engine.ledger.reserved) == (0, 0)

    assert strike_everywhere(interrupt, once, "line") == len(interrupted) > 100


async def awaited(stage: Stage) -> list[Any]:
    return [await (await stage.compiled.execute_async(n)) for n in range(3)]


async def mapped(stage: Stage) -> list[Any]:
    return [result async for result in stage.compiled.map(range(3))]


async def gathered(stage: Stage) -> list[Any]:
    """The third waits in line."""
    return list(await asyncio.gather(*(stage.compiled(n) for n in range(3))))


@pytest.mark.parametrize("use", [awaited, mapped, gathered])
def test_ctrl_c_at_every_step_of_a_loop_that_does_not_see_to_it(make_stage, use):
    """Of its tasks and of its callbacks: `run_until_complete` lets it raise anywhere."""
    stage = make_stage(max_inflight=PLACES, submit_timeout=0)
    interrupted = []

    def once(strike):
        with loop_beside(play, stage) as loop:
            try:
                results = strike.run(lambda: loop.run_until_complete(use(stage)))
            except KeyboardInterrupt:
                interrupted.append(True)
            else:
                assert results == [[(0, n), (1, n)] for n in range(3)]
        unlock(stage)
        is_well(stage, len(interrupted))

    assert strike_everywhere(interrupt, once, "line") == len(interrupted) > 200


@contextmanager
def loop_beside(act: Callable[[Stage], None], stage: Stage) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of which each turn has the actors ``act``; what is left of it in the end is cancelled."""
    loop = asyncio.new_event_loop()

    def keep_acting() -> None:
        trace = sys.gettrace()
        sys.settrace(None)  # the actors are other processes
        act(stage)
        sys.settrace(trace)
        loop.call_soon(keep_acting)

    loop.call_soon(keep_acting)
    yield loop
    while tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        with suppress(KeyboardInterrupt):  # raised again by who awaits the task that it ended
            loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def unlock(stage: Stage) -> None:
    """Tracing strikes between the body of a ``with`` and its end too, where Python handles no signal."""
    if stage.engine.is_in_step():
        stage.engine.lock.release()


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("drain", [False, True], ids=["teardown", "leaving the block"])
def test_ctrl_c_at_every_step_of_the_end(make_stage, drain):
    """It comes out, once all there was to let go of is let go."""
    interrupted = []

    def once(strike):
        before = fds()
        stage = make_stage(parts=1)
        ref = stage.compiled.execute(1)
        stage.parts[0].answer(2)
        stage.parts[0].leave()
        try:
            strike.run(lambda: stage.compiled.__exit__(None, None, None) if drain else stage.compiled.teardown())
        except KeyboardInterrupt:
            interrupted.append(True)
        stage.compiled.teardown()
        assert ref.get(timeout=0) == 2
        for part in stage.parts:
            part.close()
        assert fds() == before

    assert strike_everywhere(interrupt, once, "line") == len(interrupted) > 100


def answer_or_leave(stage: Stage) -> None:
    """The only actor answers, and says goodbye when it is told to end."""
    (part,) = stage.parts
    if part.should_end():
        part.leave()
    elif part.inbox:
        part.answer(2)


def test_ctrl_c_at_every_step_of_leaving_a_block_on_a_loop(make_stage):
    """Once the loop has ended what it began, all there was to let go of is let go."""
    interrupted = []

    async def use(stage):
        async with stage.compiled as compiled:
            return await compiled.execute_async(1)

    def once(strike):
        before = fds()
        stage = make_stage(parts=1)
        with loop_beside(answer_or_leave, stage) as loop:
            try:
                future = strike.run(lambda: loop.run_until_complete(use(stage)))
            except KeyboardInterrupt:
                interrupted.append(True)
            else:
                assert future.result() == 2
        unlock(stage)
        stage.compiled.teardown()
        for part in stage.parts:
            part.close()
        assert fds() == before

    assert strike_everywhere(interrupt, once, "line") == len(interrupted) > 200


def try_(function: Callable[[], Any]) -> Any:
    """What it gives, or the error that it raises."""
    try:
        return function()
    except (AdagError, Boom) as error:
        return error


def is_usable(stage: Stage) -> bool:
    try:
        is_well(stage, 10)
    except AdagError:
        return False
    return True


@pytest.mark.interpreted(reason="it stops between steps of Python")
@pytest.mark.parametrize("call", ["execute", "get", "get in vain"])
def test_a_teardown_at_every_step(make_stage, call):
    """By a signal's handler: whoever waits has a result, the right one, or the graph is closed."""
    places = [(0, {"size": 1}), (0, {"size": 2})]

    def once(strike):
        stage = make_stage(1, max_inflight=PLACES, submit_timeout=0)
        strike.what = stage.compiled.teardown
        first = stage.compiled.execute({"size": 1})
        if call != "get in vain":
            play(stage)
        if call == "execute":
            second = try_(lambda: strike.run(lambda: stage.compiled.execute({"size": 2})))
        else:
            try_(lambda: strike.run(lambda: first.get(timeout=0.01 if call == "get in vain" else 100)))
            second = try_(lambda: stage.compiled.execute({"size": 2}))
        join_all(CLOSING, seconds=100)
        closed = "closed" in repr(stage.compiled)
        assert closed == strike.struck
        if not closed:
            play(stage)
        for ref, right in zip((first, second), places, strict=True):
            found = ref if isinstance(ref, AdagError) else try_(lambda ref=ref: ref.get(timeout=100))
            assert found == right or (closed and type(found) is GraphClosed), found
        stage.close()

    assert strike_everywhere(lambda: None, once, "line") > 100


@pytest.mark.interpreted(reason="it stops between steps of Python")
@pytest.mark.parametrize("use", [awaited, mapped, gathered])
def test_a_teardown_at_every_call_of_a_loop(make_stage, use):
    def once(strike):
        stage = make_stage(2, max_inflight=PLACES, submit_timeout=0)
        strike.what = stage.compiled.teardown
        complaints = []
        with loop_beside(play_while_open, stage) as loop:
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            results = try_(lambda: strike.run(lambda: loop.run_until_complete(use(stage))))
        join_all(CLOSING, seconds=100)
        assert type(results) is GraphClosed or results == [[(0, n), (1, n)] for n in range(3)]
        assert complaints == []
        stage.close()

    assert strike_everywhere(lambda: None, once, "call") > 100


def play_while_open(stage: Stage) -> None:
    if "open" in repr(stage.compiled):
        play(stage)


@pytest.mark.interpreted(reason="it stops between steps of Python")
@pytest.mark.parametrize("call", ["execute", "get"])
def test_any_exception_at_every_step(make_stage, call):
    """What is not held back, as that of another signal's handler, may break the graph; no result goes astray."""
    stage = make_stage(max_inflight=PLACES, submit_timeout=0)
    ends = Counter()

    def once(strike):
        nonlocal stage
        refs = {1: stage.compiled.execute({"size": 1})}
        play(stage)
        if call == "execute":
            refs[2] = try_(lambda: strike.run(lambda: stage.compiled.execute({"size": 2})))
            play(stage)
        else:
            try_(lambda: strike.run(refs[1].get))
        refs[3] = try_(lambda: stage.compiled.execute({"size": 3}))
        play(stage)
        for size, ref in refs.items():
            result = ref if isinstance(ref, BaseException) else try_(lambda ref=ref: ref.get(timeout=0))
            if not isinstance(result, BaseException):
                assert result == [(0, {"size": size}), (1, {"size": size})]
        broken = "broken" in repr(stage.compiled)
        ends["broken" if broken else "well" if is_usable(stage) else "stuck"] += 1
        if broken or ends["stuck"]:
            stage.close()
            stage = make_stage(max_inflight=PLACES, submit_timeout=0)

    assert strike_everywhere(explode, once, "call") > 20
    assert ends["well"] > ends["broken"] > 0 == ends["stuck"]


def test_a_handler_of_the_programs_own_is_called_and_nothing_else(make_stage):
    stage = make_stage(max_inflight=PLACES, submit_timeout=0)
    called = []
    signal.signal(signal.SIGINT, lambda number, frame: called.append(number))

    def once(strike):
        refs = strike.run(lambda: stage.compiled.execute(1))
        play(stage)
        assert refs.get(timeout=0) == [(0, 1), (1, 1)]

    steps = strike_everywhere(interrupt, once, "line")
    assert called == [signal.SIGINT] * steps
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Endless:
    """Unpickling it never ends by itself: only a signal gets out of it."""

    def __reduce__(self):
        return (spin, ())


def spin():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    pytest.fail("not let out")


def test_a_second_ctrl_c_gets_out_of_a_payload_that_never_ends(make_stage):
    """It costs that one result; the others go on."""
    stage = make_stage(max_inflight=3, submit_timeout=0)
    refs = [stage.compiled.execute(n) for n in range(3)]
    for part in stage.parts:
        part.answer(0)
        part.answer(Endless() if part.number == 0 else 1)
        part.answer(2)
    with pytest.raises(KeyboardInterrupt):
        refs[0].get()
    assert refs[0].get(timeout=0) == [0, 0]
    assert refs[2].get(timeout=0) == [2, 2]
    with pytest.raises(RemoteError, match="KeyboardInterrupt"):
        refs[1].get(timeout=0)
    assert refs[1][1].get(timeout=0) == 1


class Leaving:
    """Unpickling it would end the program."""

    def __reduce__(self):
        return (sys.exit, (3,))


def test_a_result_that_ends_the_program_while_it_is_unpickled(make_stage):
    """Whoever takes it in is ended by it; its own execution has an error, and the others have their results."""
    stage = make_stage(max_inflight=2, submit_timeout=0)
    refs = [stage.compiled.execute(n) for n in range(2)]
    for part in stage.parts:
        part.answer(Leaving() if part.number == 0 else 1)
        part.answer(2)
    with pytest.raises(SystemExit):
        refs[1].get()
    assert refs[1].get(timeout=0) == [2, 2]
    with pytest.raises(RemoteError, match="SystemExit"):
        refs[0].get(timeout=0)
    is_well(stage, 5)
