"""What a node raises arrives as the user's own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import traceback

import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GraphBroken, RemoteError


class OwnError(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class CannotBePickled(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class CannotBeUnpickled(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class CannotBeShown(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise ValueError("no text")


def raise_own(_):
    raise OwnError(7, "seven")


def raise_with_cause(_):
    try:
        {}["missing"]
    except KeyError as error:
        raise OwnError(1, "with a cause") from error


def divide(x):
    return 1 // x


@pytest.fixture(scope="module")
def middle(workers):
    """A chain of three; what it is given is called in the middle."""
    with InputNode() as function:
        called = workers[1].call.bind(workers[0].echo.bind(function), 0)
        dag = workers[2].echo.bind(called)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


async def raised(compiled, function) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the tests say which
        await compiled(function)
    assert await compiled(int.bit_length) == 0, "the graph is no longer alive"
    return caught.value


async def test_an_exception_in_the_middle_arrives_as_itself(middle):
    error = await raised(middle, divide)
    assert type(error) is ZeroDivisionError
    assert "integer" in str(error)


async def test_a_class_of_this_module_arrives_as_itself(middle):
    error = await raised(middle, raise_own)
    assert type(error) is OwnError
    assert (error.code, error.detail) == (7, "seven")


async def test_a_class_that_nobody_can_import_arrives_as_itself(middle):
    class LocalError(Exception):
        pass

    def fail(_):
        raise LocalError("here")

    error = await raised(middle, fail)
    assert type(error) is LocalError
    assert str(error) == "here"


async def test_the_cause_is_the_remote_traceback(middle):
    error = await raised(middle, divide)
    text = str(error.__cause__)
    assert "ZeroDivisionError" in text
    assert "return 1 // x" in text
    assert error.__cause__.__cause__ is None
    assert text in "".join(traceback.format_exception(error))


async def test_the_users_own_cause_is_behind_it(middle):
    error = await raised(middle, raise_with_cause)
    assert "with a cause" in str(error.__cause__)
    own = error.__cause__.__cause__
    assert type(own) is KeyError
    assert own.args == ("missing",)


async def test_notes_and_attributes_travel(middle):
    def fail(_):
        error = OwnError(1, "one")
        error.add_note("a note")
        error.extra = "more"
        raise error

    error = await raised(middle, fail)
    assert "a note" in error.__notes__
    assert error.extra == "more"


async def test_stop_iteration_arrives_as_a_remote_error(middle):
    error = await raised(middle, lambda _: next(iter(())))
    assert type(error) is RemoteError
    assert "StopIteration" in str(error)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, concurrent.futures.CancelledError])
async def test_a_remote_cancellation_is_no_cancellation_here(middle, kind):
    def fail(_):
        raise kind("over there")

    error = await raised(middle, fail)
    assert type(error) is RemoteError
    assert "CancelledError" in str(error)
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, BaseExceptionGroup])
async def test_what_is_no_exception_stops_nobody_here(middle, kind):
    def fail(_):
        raise kind("group", [KeyboardInterrupt()]) if kind is BaseExceptionGroup else kind

    error = await raised(middle, fail)
    assert type(error) is RemoteError
    assert kind.__name__ in str(error)


async def test_an_exception_group_arrives_with_its_parts(middle):
    def fail(_):
        raise ExceptionGroup("two", [ValueError("a"), OwnError(2, "b")])

    error = await raised(middle, fail)
    assert [type(part) for part in error.exceptions] == [ValueError, OwnError]


@pytest.mark.parametrize("kind", [CannotBePickled, CannotBeUnpickled])
async def test_what_cannot_be_rebuilt_arrives_as_text(middle, kind):
    def fail(_):
        raise kind(*(("why",) if kind is CannotBePickled else (1, 2)))

    error = await raised(middle, fail)
    assert type(error) is RemoteError
    text = str(error)
    assert kind.__name__ in text
    assert ("why" if kind is CannotBePickled else "1 and 2") in text
    assert "Traceback" in text
    assert "in fail" in text


async def test_an_exception_without_a_text(middle):
    def fail(_):
        raise CannotBeShown

    error = await raised(middle, fail)
    assert type(error) is RemoteError
    assert "CannotBeShown" in str(error)


async def test_a_huge_message(middle):
    def fail(_):
        raise ValueError("x" * 3_000_000)

    error = await raised(middle, fail)
    assert type(error) is ValueError
    assert len(str(error)) == 3_000_000


async def test_the_same_object_each_time(middle):
    future = await middle.execute_async(divide)
    errors = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            await future
        errors.append(caught.value)
    assert errors[0] is errors[1] is errors[2] is future.exception()


def test_the_same_object_each_time_from_a_ref(middle):
    ref = middle.execute(divide)
    errors, depths = [], []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            ref.get()
        errors.append(caught.value)
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert errors[0] is errors[1] is errors[2]
    assert depths[0] == depths[2], "its traceback grows with each get"


async def test_neighbours_keep_their_results(middle):
    futures = [await middle.execute_async(divide if n % 3 == 0 else int) for n in range(30)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError if n % 3 == 0 else int for n in range(30)]


async def test_later_nodes_do_not_run(workers):
    with InputNode() as x:
        failing = workers[0].call.bind(divide, x)
        dag = MultiOutputNode([workers[1].note.bind(failing), workers[1].note.bind(x)])
    async with async_adag.compile(dag) as compiled:
        failed, fine = await compiled.execute_async(0)
        with pytest.raises(ZeroDivisionError):
            await failed
        assert await fine == 0
    assert await workers[1].take_notes.remote() == [0]


async def test_an_execution_with_two_failures_raises_the_first_argument(workers):
    def fail(name):
        raise ValueError(name)

    with InputNode() as x:
        left = workers[0].call.bind(fail, x[0])
        right = workers[1].call.bind(fail, x[1])
        dag = workers[2].join.bind(left, right)
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(ValueError, match="left"):
            await compiled("left", "right")
        with pytest.raises(ValueError, match="left"):
            await compiled("left", "right")


async def test_a_result_that_cannot_be_pickled_fails_its_execution_only(workers):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].call.bind(x))
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(TypeError, match="pickle") as caught:
            await compiled(threading.Lock)
        assert any("result of call" in note for note in caught.value.__notes__)
        assert await compiled(int) == 0


async def test_an_argument_that_cannot_be_unpickled_fails_its_execution_only(workers):
    with InputNode() as x:
        dag = workers[0].echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(ZeroDivisionError):
            await compiled(Unpickles(divide, 0))
        assert await compiled(1) == 1


async def test_a_result_that_cannot_be_unpickled_here_fails_its_execution_only(workers):
    with InputNode() as x:
        dag = workers[0].call.bind(_unpickles_elsewhere, x)
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(ZeroDivisionError):
            await compiled(0)
        assert await compiled(1) == 1


class Unpickles:
    """Unpickled as what ``function(argument)`` gives."""

    def __init__(self, function, argument) -> None:
        self.parts = function, (argument,)

    def __reduce__(self):
        return self.parts


def _unpickles_elsewhere(x):
    return Unpickles(divide, x)


class Delegates(Exception):
    """As those that wrap a reply: what it has not, it looks for in that, which is not there."""

    def __getattr__(self, name):
        return self.__dict__["reply"][name]


class RefusesToBeShown(Exception):
    def __str__(self):
        raise KeyboardInterrupt

    def __reduce__(self):
        raise asyncio.CancelledError


class Refuses:
    """Raises ``error`` when it is pickled."""

    def __init__(self, error) -> None:
        self.error = error

    def __reduce__(self):
        raise self.error


def throw(error):
    raise error


@pytest.fixture(scope="module", params=["sync", "async"])
def either(request, workers, async_worker):
    """One actor of either kind, which calls what it is given."""
    actor = workers[0] if request.param == "sync" else async_worker
    with InputNode() as function:
        dag = actor.call.bind(function, 0)
    with async_adag.compile(dag) as compiled:
        yield compiled


async def one_fails(compiled, function) -> BaseException:
    """What ``function`` makes of its execution; the one behind it goes on."""
    failing, fine = await compiled.execute_async(function), await compiled.execute_async(int)
    error = await raised_by(failing)
    assert await fine == 0
    assert await compiled(int) == 0
    return error


async def raised_by(future) -> BaseException:
    try:
        return AssertionError(f"{await future!r} came")
    except Exception as error:
        return error


@pytest.mark.parametrize("kind", [Delegates, RefusesToBeShown])
async def test_an_exception_whose_class_is_in_the_way_fails_its_execution_only(either, kind):
    def fail(_):
        raise kind("why")

    error = await one_fails(either, fail)
    assert type(error) in (RemoteError, kind)
    assert "in fail" in str(BaseException.__dict__["__cause__"].__get__(error))


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_exception_while_a_result_is_pickled_fails_its_execution_only(either, kind):
    error = await one_fails(either, lambda _: Refuses(kind("why")))
    assert type(error) is RemoteError
    assert kind.__name__ in str(error)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_exception_while_an_argument_is_unpickled_fails_its_execution_only(either, kind):
    error = await one_fails(either, Unpickles(throw, kind("why")))
    assert type(error) is RemoteError
    assert kind.__name__ in str(error)


async def test_what_is_no_exception_while_an_error_is_rebuilt_here_fails_its_execution_only(either):
    class Rebuilt(Exception):
        def __reduce__(self):
            return throw, (asyncio.CancelledError("why"),)

    def fail(_):
        raise Rebuilt

    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    error = await one_fails(either, fail)
    assert type(error) is RemoteError
    assert "CancelledError" in str(error)
    assert [type(complaint["exception"]) for complaint in complaints] == [asyncio.CancelledError]


def cancel_executions(_):
    """Of the graphs on this event loop."""
    tasks = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_execution"]
    return [task.cancel() for task in tasks]


async def test_an_execution_that_is_cancelled_in_its_actor_breaks_the_graph_in_words(workers, async_worker, gate):
    """While it waits for an argument. A silent loss would have whoever awaits it wait for ever."""
    with InputNode() as x:
        dag = async_worker.call.bind(x[0], workers[0].hold.bind(x[1]))
    async with async_adag.compile(dag) as compiled:
        future = await compiled.execute_async(str, gate.path)
        gate.entered()
        assert await async_worker.call.remote(cancel_executions, None) == [True]
        with pytest.raises(GraphBroken, match="CancelledError"):
            await future
        gate.open()


async def test_a_failure_that_nobody_awaits_logs_nothing(middle, caplog):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    for _ in range(10):
        await middle.execute_async(divide)
    assert await middle(int) == 0
    await asyncio.sleep(0)
    assert complaints == []
    assert caplog.records == []


async def test_a_method_that_does_not_exist(workers):
    def fail(_):
        return object().nothing

    with InputNode() as x:
        dag = workers[0].call.bind(fail, x)
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(AttributeError, match="nothing"):
            await compiled(1)


async def test_a_call_that_does_not_fit_the_method(workers):
    with InputNode() as x:
        dag = workers[0].call.bind(divide, x, x)
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(TypeError, match="positional argument"):
            await compiled(1)
