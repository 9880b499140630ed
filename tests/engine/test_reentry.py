"""A call of a graph in the middle of another one on the same thread: refused, and nothing gets out of step."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

import pytest

from async_adag.errors import GraphClosed
from tests.threads import join_all

REFUSED = "in the middle of another call"


class InTheMidst:
    """A writing end that does something else just before or just after it sends, as a signal's handler would."""

    def __init__(self, writer, step, when):
        self._writer = writer
        self._step = step
        self._when = when

    def publish(self):
        if self._when == "before":
            self._step()
        self._writer.publish()
        if self._when == "after":
            self._step()

    def __getattr__(self, name):
        return getattr(self._writer, name)


@pytest.fixture
def interrupt():
    """Has a step done in the middle of the next execution of a stage."""

    def have(stage, when, step):
        writers = stage.engine.inputs.writers
        plain = writers[0]

        def once():
            writers[0] = plain
            step()

        writers[0] = InTheMidst(plain, once, when)

    return have


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_execution_in_the_middle_of_sending_another(make_stage, interrupt, when):
    stage = make_stage(1, max_inflight=3)

    def step():
        with pytest.raises(RuntimeError, match=REFUSED):
            stage.compiled.execute("handler")

    interrupt(stage, when, step)
    refs = [stage.compiled.execute(number) for number in range(3)]
    for number in range(3):
        stage.parts[0].answer(number)
    assert [ref.get() for ref in refs] == [0, 1, 2]
    assert stage.parts[0].history == [0, 1, 2]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wait_for_a_result_in_the_middle_of_sending(make_stage, interrupt, when):
    stage = make_stage(1)
    earlier = stage.compiled.execute("earlier")
    stage.parts[0].answer("earlier")

    def step():
        if when == "after":
            stage.parts[0].answer("outer")
        with pytest.raises(RuntimeError, match=REFUSED):
            earlier.get()
        assert stage.compiled.stats().in_flight == 1

    interrupt(stage, when, step)
    ref = stage.compiled.execute("outer")
    if when == "before":
        stage.parts[0].answer("outer")
    assert (earlier.get(), ref.get()) == ("earlier", "outer")


class Full:
    """A writing end that has no room."""

    def __init__(self, writer):
        self._writer = writer

    def stage(self, encoded):
        raise OSError("no room")

    def __getattr__(self, name):
        return getattr(self._writer, name)


def test_what_cannot_be_sent_leaves_the_next_call_alone(make_stage):
    stage = make_stage(1)
    writers = stage.engine.inputs.writers
    writers[0] = Full(writers[0])
    with pytest.raises(OSError, match="no room"):
        stage.compiled.execute(1)
    writers[0] = writers[0]._writer
    ref = stage.compiled.execute(1)
    stage.parts[0].answer(2)
    assert ref.get() == 2


asked = []


class Asks:
    """Waits for a result of its graph as it is unpickled."""

    def __reduce__(self):
        return ask, ()


def ask():
    return asked.pop().get(timeout=100)


def test_a_wait_for_a_result_while_another_is_unpickled(make_stage):
    stage = make_stage(1)
    first, second = (stage.compiled.execute(number) for number in range(2))
    asked.append(second)
    stage.parts[0].answer(Asks())
    stage.parts[0].answer(7)
    with pytest.raises(RuntimeError, match=REFUSED):
        first.get()
    assert second.get() == 7
    third = stage.compiled.execute(3)
    stage.parts[0].answer(8)
    assert third.get() == 8


def when_parked(stage, times, step):
    """Do a step, on a thread, once the threads that wait for a result of a stage have parked so many times."""
    parking = stage.engine.blocking._parking

    def run():
        while parking.parked < times:
            time.sleep(0)
        for _ in range(100):
            time.sleep(0)  # by and by it sleeps
        step()

    threading.Thread(target=run, daemon=True).start()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("same", [False, True])
def test_a_wait_in_a_signals_handler_leaves_the_wait_that_it_interrupts_its_result(make_stage, same):
    stage = make_stage(1)
    outer = stage.compiled.execute("outer")
    found = []

    def answer():
        for value in list(stage.parts[0].take()):
            stage.parts[0].answer(value)

    def handle(*_):
        inner = outer if same else stage.compiled.execute("inner")
        when_parked(stage, 2, answer)
        found.append(inner.get())

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        when_parked(stage, 1, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        assert outer.get() == "outer"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert found == ["outer" if same else "inner"]


class Tears:
    """Tears a graph down when it is pickled, or when what was pickled of it is unpickled."""

    def __init__(self, when):
        self.when = when

    def __reduce__(self):
        if self.when == "pickled":
            return int, (tear_down() or 7,)
        return tear_down, ()


to_tear_down = []


def tear_down():
    to_tear_down.pop().teardown()


def is_closed(stage):
    join_all("async_adag teardown", seconds=100)
    return "closed" in repr(stage.compiled)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_teardown_while_an_input_is_pickled_is_done_after_that(make_stage, parts):
    stage = make_stage(parts)
    earlier = stage.compiled.execute(1)
    to_tear_down.append(stage.compiled)
    later = stage.compiled.execute(Tears("pickled"))
    assert is_closed(stage)
    for number, ref in enumerate((earlier, later)):
        with pytest.raises(GraphClosed, match=f"before execution {number} arrived"):
            ref.get() if parts == 1 else ref[0].get()


@pytest.mark.parametrize("parts", [1, 2])
def test_a_teardown_while_a_result_is_unpickled_is_done_after_that(make_stage, parts):
    stage = make_stage(parts)
    refs = [stage.compiled.execute(number) for number in range(2)]
    if parts == 2:
        refs = [each[0] for each in refs]
    stage.parts[0].answer(Tears("unpickled"))
    to_tear_down.append(stage.compiled)
    assert refs[0].get() is None  # what the teardown gave
    assert is_closed(stage)
    with pytest.raises(GraphClosed, match="before execution 1 arrived"):
        refs[1].get()


async def test_a_teardown_while_a_result_is_unpickled_in_an_event_loop(make_stage):
    stage = make_stage(1)
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    futures = [await stage.compiled.execute_async(number) for number in range(2)]
    stage.parts[0].answer(Tears("unpickled"))
    to_tear_down.append(stage.compiled)
    assert await futures[0] is None
    with pytest.raises(GraphClosed, match="before execution 1 arrived"):
        await futures[1]
    assert complaints == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_teardown_in_the_middle_of_sending_is_done_after_that(make_stage, interrupt, when):
    """By a signal's handler."""
    stage = make_stage(1)
    interrupt(stage, when, stage.compiled.teardown)
    ref = stage.compiled.execute(1)
    assert is_closed(stage)
    with pytest.raises(GraphClosed, match="before execution 0 arrived"):
        ref.get()
    assert stage.compiled.stats().in_flight == 0
