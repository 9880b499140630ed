"""The errors: each is also what a person without this library would catch, and travels between processes."""

from __future__ import annotations

import copy
import pickle

import pytest
from ray import cloudpickle
from ray.exceptions import (
    ActorDiedError,
    RayCgraphCapacityExceeded,
    RayChannelError,
    RayChannelTimeoutError,
)

import async_adag
from async_adag import errors
from async_adag.errors import (
    ActorDied,
    AdagError,
    CapacityExceeded,
    CompileActorDied,
    ExecutionTimeout,
    GpuUnavailable,
    GraphBroken,
    GraphClosed,
    GraphError,
    RemoteError,
)

BASES = [
    (GraphError, ValueError),
    (CompileActorDied, GraphError),
    (CompileActorDied, ActorDiedError),
    (CapacityExceeded, TimeoutError),
    (CapacityExceeded, RayCgraphCapacityExceeded),
    (ExecutionTimeout, TimeoutError),
    (ExecutionTimeout, RayChannelTimeoutError),
    (GraphClosed, RuntimeError),
    (GraphClosed, RayChannelError),
    (GraphBroken, RayChannelError),
    (ActorDied, GraphBroken),
    (ActorDied, ActorDiedError),
    (GpuUnavailable, RuntimeError),
]
ALL = [
    GraphError,
    CompileActorDied,
    CapacityExceeded,
    ExecutionTimeout,
    GraphClosed,
    GraphBroken,
    ActorDied,
    GpuUnavailable,
    RemoteError,
]
each = pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)


@pytest.mark.parametrize(("error", "base"), BASES, ids=lambda cls: cls.__name__)
def test_it_is_also_the_class_that_one_would_catch(error, base):
    with pytest.raises(base):
        raise error("text")


@each
def test_it_is_of_the_family(error):
    assert issubclass(error, AdagError)
    assert issubclass(error, Exception)


@each
def test_its_text_is_the_message_and_nothing_else(error):
    assert str(error("line one\nline two")) == "line one\nline two"


@each
@pytest.mark.parametrize("through", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_it_travels_with_its_message_and_notes(error, through):
    original = error("what happened")
    original.add_note("where")
    arrived = through.loads(through.dumps(original))
    assert type(arrived) is error
    assert str(arrived) == "what happened"
    assert arrived.args == ("what happened",)
    assert arrived.__notes__ == ["where"]


@each
def test_it_can_be_copied(error):
    assert str(copy.copy(error("text"))) == "text"


def test_what_is_the_users_fault_is_no_failure_of_the_graph():
    for error in (CapacityExceeded, ExecutionTimeout, GraphClosed, GraphError):
        assert not issubclass(error, GraphBroken)
    assert not issubclass(GraphBroken, GraphClosed)
    assert not issubclass(GraphClosed, GraphBroken)


def test_a_dead_actor_is_only_where_an_actor_died():
    for error in (GraphError, GraphBroken, GraphClosed):
        assert not issubclass(error, ActorDiedError)


def test_the_public_errors_are_at_the_top():
    public = [name for name in async_adag.__all__ if hasattr(errors, name) and name in errors.__all__]
    assert set(public) >= {
        "AdagError",
        "CapacityExceeded",
        "ExecutionTimeout",
        "GpuUnavailable",
        "GraphBroken",
        "GraphClosed",
        "GraphError",
        "RemoteError",
    }
    for name in public:
        assert getattr(async_adag, name) is getattr(errors, name)
