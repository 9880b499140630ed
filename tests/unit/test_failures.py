"""How a node's exception travels."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import sys
import threading
import traceback
from dataclasses import dataclass

import pytest
from ray.exceptions import RayTaskError

from async_adag.channels.failures import TEXT_LIMIT, RemoteTraceback, decode_failure, encode_failure
from async_adag.errors import RemoteError

LABEL = "work on Worker(abcdef)"


def travel(error):
    """What arrives of an exception that a node raised."""
    try:
        raise error
    except BaseException as raised:
        return decode_failure(encode_failure(raised, LABEL))


class Custom(Exception):
    """A user's own, with state."""

    def __init__(self, code, detail):
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def test_it_arrives_as_the_users_own_type_with_its_state():
    arrived = travel(Custom(7, {"why": "because"}))
    assert type(arrived) is Custom
    assert (arrived.code, arrived.detail) == (7, {"why": "because"})


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        KeyError("missing"),
        OSError(2, "No such file", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
        StopAsyncIteration("enough"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_builtin_exceptions_arrive_as_they_are(error):
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)


def test_the_remote_traceback_is_its_cause():
    def innermost():
        raise ValueError("here")

    try:
        innermost()
    except ValueError as error:
        arrived = decode_failure(encode_failure(error, LABEL))
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "in innermost" in str(arrived.__cause__)
    printed = "".join(traceback.format_exception(arrived))
    assert "in innermost" in printed
    assert "direct cause of the following exception" in printed


def test_the_users_own_cause_stands_behind_the_traceback():
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    arrived = travel(error)
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert isinstance(arrived.__cause__.__cause__, KeyError)
    assert "KeyError" in str(arrived.__cause__)


def test_a_cause_that_cannot_travel_is_left_out():
    error = ValueError("outer")
    error.__cause__ = Custom(1, threading.Lock())
    arrived = travel(error)
    assert type(arrived) is ValueError
    assert arrived.__cause__.__cause__ is None


def test_notes_travel():
    error = ValueError("x")
    error.add_note("a note")
    assert travel(error).__notes__ == ["a note"]


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("cannot be sent")
        self.lock = threading.Lock()


class NotRebuilt(Exception):
    """Pickles, and cannot be built again: its arguments are not what it hands on."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Impostor(Exception):
    def __reduce__(self):
        return (str, ("no exception at all",))


class Silent(Exception):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Unpicklable(), "cannot be sent"),
        (NotRebuilt(1, 2), "1 and 2"),
        (Impostor("hm"), "hm"),
        (Silent(), "its text cannot be had"),
        (StopIteration("over"), "over"),
        (asyncio.CancelledError("by a method"), "by a method"),
        (concurrent.futures.CancelledError("by a pool"), "by a pool"),
        (KeyboardInterrupt("^C"), "^C"),
        (GeneratorExit("closed"), "closed"),
        (BaseExceptionGroup("group", [KeyboardInterrupt()]), "group"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_cannot_be_rebuilt_or_raised_here_is_a_remote_error_that_tells_all(error, text):
    arrived = travel(error)
    assert type(arrived) is RemoteError
    assert type(error).__qualname__ in str(arrived)
    assert text in str(arrived)
    assert LABEL in str(arrived)
    assert "Traceback (most recent call last)" in str(arrived)


class StopSubclass(StopIteration):
    """A future refuses this one too."""


def test_a_subclass_of_what_cannot_be_raised_here_is_not_raised_either():
    assert type(travel(StopSubclass())) is RemoteError


@dataclass(frozen=True)
class Frozen(Exception):
    """A dataclass that lets nobody set its attributes."""

    code: int

    def __reduce__(self):
        return (Frozen, (self.code,))


def test_an_exception_that_refuses_attributes_is_rebuilt_all_the_same():
    arrived = travel(Frozen(3))
    assert type(arrived) is Frozen
    assert arrived.code == 3
    assert isinstance(arrived.__cause__, RemoteTraceback)


class Chatty(Exception):
    """Pickled, it is small; its text is huge."""

    def __reduce__(self):
        return (Chatty, ())

    def __str__(self):
        return "a" + "x" * 10_000_000 + "z"


def test_a_huge_text_is_cut_in_its_middle():
    encoded = encode_failure(Chatty(), LABEL)
    assert len(encoded) < 3 * TEXT_LIMIT
    arrived = decode_failure(encoded)
    assert type(arrived) is Chatty
    assert len(str(arrived.__cause__)) < TEXT_LIMIT + 100
    assert str(arrived.__cause__).endswith('z\n"""')


def test_a_text_that_utf8_cannot_hold_travels():
    arrived = travel(ValueError("lone \ud800 surrogate"))
    assert str(arrived) == "lone \ud800 surrogate"


def test_an_exception_of_main_travels_by_value():
    namespace = {"__name__": "__main__"}
    exec("class Local(Exception):\n    code = 5", namespace)
    arrived = travel(namespace["Local"]("x"))
    assert type(arrived).__name__ == "Local"
    assert arrived.code == 5


def test_a_class_that_is_missing_here_is_a_remote_error(monkeypatch):
    module = type(sys)("only_there")
    exec("class Theirs(Exception): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_there", module)
    encoded = encode_failure(module.Theirs("x"), LABEL)
    monkeypatch.delitem(sys.modules, "only_there")
    arrived = decode_failure(encoded)
    assert type(arrived) is RemoteError
    assert "only_there.Theirs: x" in str(arrived)


def test_what_ray_get_raised_inside_a_node_can_still_be_caught_by_its_own_type():
    arrived = travel(RayTaskError("task", "its traceback", ValueError("x")).as_instanceof_cause())
    assert isinstance(arrived, ValueError)
    assert isinstance(arrived, RayTaskError)


def test_what_travels_is_plain_bytes():
    encoded = encode_failure(ValueError("x"), LABEL)
    assert type(encoded) is bytes
    assert pickle.loads(encoded)[0].startswith(LABEL)


def test_a_deep_chain_of_contexts_travels():
    error: Exception = ValueError("0")
    for number in range(1, 300):
        following = ValueError(str(number))
        following.__context__ = error
        error = following
    assert str(travel(error)) == "299"


class Delegates(Exception):
    """As those that wrap a reply: what it has not, it looks for in that, which here is not there."""

    def __getattr__(self, name):
        return self.__dict__["reply"][name]


class DelegatesToItself(Exception):
    def __getattr__(self, name):
        return getattr(self.reply, name)


def unreadable(name):
    """A class of exceptions of which one attribute cannot be read."""

    def read(self):
        raise KeyError(name)

    return type(f"Without{name.strip('_').title()}", (Exception,), {name: property(read)})


class Nameless(type):
    def __getattribute__(cls, name):
        if name == "__qualname__":
            raise KeyError(name)
        return super().__getattribute__(name)


class Unnamed(Exception, metaclass=Nameless):
    pass


class NoTruth(Exception):
    def __bool__(self):
        raise KeyError("neither")


class Refuses(Exception):
    """What is no `Exception` is raised by whoever wants its text, or wants to pickle it."""

    def __str__(self):
        raise KeyboardInterrupt

    def __reduce__(self):
        raise asyncio.CancelledError


@pytest.mark.parametrize(
    "cls",
    [
        Delegates,
        DelegatesToItself,
        *map(unreadable, ["__notes__", "__traceback__", "__cause__", "__context__"]),
        Unnamed,
        NoTruth,
        Refuses,
    ],
)
def test_whatever_its_class_does_something_arrives(cls):
    arrived = travel(cls("the text"))
    assert type(arrived) is RemoteError or str(arrived) == "the text"
    remote = BaseException.__dict__["__cause__"].__get__(arrived)
    assert type(remote) is RemoteTraceback
    assert "in travel\n    raise error" in str(remote)
    assert cls.__name__ in str(remote)


def stopping(error):
    class Rebuilt(Exception):
        def __reduce__(self):
            return raising, (error,)

    return Rebuilt("x")


def raising(error):
    raise error


@pytest.mark.parametrize("error", [asyncio.CancelledError("x"), KeyboardInterrupt("x"), SystemExit(3)])
def test_what_is_no_exception_and_is_raised_by_rebuilding_it_is_for_whoever_rebuilds_it(error):
    with pytest.raises(type(error)):
        travel(stopping(error))
