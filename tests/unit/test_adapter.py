"""The adapter's mapping: Ray's arguments as ours, without Ray."""

from __future__ import annotations

import inspect

import pytest
from ray.dag import DAGContext, DAGNode
from ray.experimental.channel.cpu_communicator import CPUCommunicator

from async_adag import GraphError, adapter
from async_adag.options import Options


@pytest.fixture
def context(monkeypatch):
    """Ray's settings, each other than its default; the test's own."""
    context = DAGContext(
        submit_timeout=11,
        get_timeout=12,
        buffer_size_bytes=13,
        max_inflight_executions=14,
        overlap_gpu_communication=True,
    )
    monkeypatch.setattr(DAGContext, "get_current", lambda: context)
    return context


MAPPED = ("submit_timeout", "get_timeout", "buffer_size", "max_inflight", "overlap")


class Compiled(Exception):
    """Carries what `compile_with` was given."""


@pytest.fixture
def options_of(compiling):
    """The options alone."""
    return lambda *args, **kwargs: compiling(*args, **kwargs)[0]


@pytest.fixture
def compiling(monkeypatch, context):
    """Gives what a call of the adapter compiles with."""

    def compile_with(dag, options, *, default_communicator):
        mapped = {name: getattr(options, name) for name in MAPPED}
        assert options == Options(**mapped), "nothing else is set"
        raise Compiled(mapped, default_communicator)

    def compiling(*args, **kwargs):
        with pytest.raises(Compiled) as caught:
            adapter.experimental_compile("the DAG", *args, **kwargs)
        return caught.value.args

    monkeypatch.setattr(adapter, "compile_with", compile_with)
    return compiling


def test_the_arguments_are_those_of_ray():
    def arguments(function):
        parameters = list(inspect.signature(function).parameters.values())[1:]  # but for the DAG
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert arguments(adapter.experimental_compile) == arguments(DAGNode.experimental_compile)


def test_what_is_not_given_is_as_rays_context_says(options_of):
    assert options_of() == {
        "submit_timeout": 11,
        "get_timeout": 12,
        "buffer_size": 13,
        "max_inflight": 14,
        "overlap": True,
    }


def test_what_is_given_wins(options_of):
    assert options_of(
        _submit_timeout=0.5,
        _buffer_size_bytes=100,
        _max_inflight_executions=3,
        _max_buffered_results=1,
        _overlap_gpu_communication=False,
        _default_communicator=None,
    ) == {"submit_timeout": 0.5, "get_timeout": 12, "buffer_size": 100, "max_inflight": 3, "overlap": False}


def test_by_position_as_in_ray(options_of):
    options = options_of(1.5, 100, True, 3)
    assert (options["submit_timeout"], options["buffer_size"], options["max_inflight"]) == (1.5, 100, 3)


def test_zero_seconds_are_given_too(options_of):
    assert options_of(_submit_timeout=0)["submit_timeout"] == 0


def test_minus_one_is_for_ever(options_of, context):
    context.submit_timeout = context.get_timeout = -1
    assert options_of()["submit_timeout"] is None
    assert options_of()["get_timeout"] is None
    assert options_of(_submit_timeout=-1)["submit_timeout"] is None


@pytest.mark.parametrize("value", [0, -1, 1.0, "10", True])
def test_the_limit_of_results_is_checked(value):
    with pytest.raises(ValueError, match="_max_buffered_results") as caught:
        adapter.experimental_compile("the DAG", _max_buffered_results=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [None, "create", CPUCommunicator(2, [])])
def test_the_default_communicator(compiling, value):
    assert compiling(_default_communicator=value)[1] is value
    assert compiling()[1] == "create"


@pytest.mark.parametrize("value", ["nccl", "", 3, object()])
def test_what_is_no_communicator_is_refused_and_the_remedy_named(value):
    with pytest.raises(GraphError, match="leave it out") as caught:
        adapter.experimental_compile("the DAG", _default_communicator=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "theirs"),
    [
        ("_submit_timeout", -2),
        ("_submit_timeout", "soon"),
        ("_buffer_size_bytes", 0),
        ("_max_inflight_executions", 0),
        ("_overlap_gpu_communication", "yes"),
    ],
)
def test_an_option_out_of_range(option, theirs):
    with pytest.raises(ValueError, match=r"^\w+ must be") as caught:
        adapter.experimental_compile("the DAG", **{option: theirs})
    assert not isinstance(caught.value, GraphError), "the DAG was looked at first"
