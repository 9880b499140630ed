"""Arguments of an execution: checked, and sorted by the channel that carries them."""

from __future__ import annotations

import pytest

from async_adag.driver.arguments import Arguments
from async_adag.graph.model import FromInput, FromNode
from async_adag.graph.planner import plan_graph

WHOLE = FromInput(None)


@pytest.fixture
def arguments(make_graph):
    """Makes the arguments of a graph whose one node takes these sources."""
    return lambda *sources: Arguments(plan_graph(make_graph((0, list(sources)))))


def test_one_argument_is_carried_as_it_is(arguments):
    value = [1, 2]
    (carried,) = arguments(WHOLE).values((value,), {})
    assert carried is value


def test_a_tuple_given_as_the_one_argument_stays_a_tuple(arguments):
    assert arguments(WHOLE).values(((1, 2),), {}) == [(1, 2)]


def test_several_arguments_for_one_actor_share_a_frame_positions_first(arguments):
    made = arguments(FromInput("b"), FromInput(1), FromInput("a"), FromInput(0))
    assert made.values((10, 11), {"a": 12, "b": 13}) == [(10, 11, 12, 13)]


def test_each_channel_carries_its_own(make_graph):
    graph = make_graph(
        (0, [FromInput(0), FromInput(2)]),
        (1, [FromInput(2), FromInput("k")]),
        outputs=[FromNode(0), FromNode(1)],
    )
    plan = plan_graph(graph)
    values = Arguments(plan).values((5, 6, 7), {"k": 8})
    carried = dict(zip((channel.readers for channel in plan.inputs()), values, strict=True))
    assert carried == {(0,): 5, (0, 1): 7, (1,): 8}


def test_a_trigger_carries_nothing(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [3]), outputs=[FromNode(0), FromNode(1)])
    plan = plan_graph(graph)
    values = Arguments(plan).values(("x",), {})
    carried = dict(zip((channel.readers for channel in plan.inputs()), values, strict=True))
    assert carried == {(0,): "x", (1,): None}


def test_a_position_that_nobody_reads_is_taken_and_dropped(arguments):
    made = arguments(FromInput(0), FromInput(2))
    made.check((1, 2, 3), {})
    assert made.values((1, 2, 3), {}) == [(1, 3)]


@pytest.mark.parametrize(
    ("sources", "args", "kwargs"),
    [
        ([WHOLE], (1,), {}),
        ([FromInput(0), FromInput(2)], (1, 2, 3), {}),
        ([FromInput("a"), FromInput("b")], (), {"b": 1, "a": 2}),
        ([FromInput(0), FromInput("a")], (1,), {"a": 2}),
    ],
)
def test_what_the_graph_takes_passes(arguments, sources, args, kwargs):
    arguments(*sources).check(args, kwargs)


@pytest.mark.parametrize(
    ("sources", "args", "kwargs", "message"),
    [
        ([WHOLE], (), {}, "takes 1 positional argument; it was given 0 positional"),
        ([WHOLE], (1, 2), {}, "takes 1 positional argument; it was given 2 positional"),
        ([WHOLE], (1,), {"x": 2}, "takes 1 positional argument; it was given 1 positional, x="),
        ([FromInput(2)], (1, 2), {}, "takes 3 positional arguments; it was given 2 positional"),
        ([FromInput("b"), FromInput("a")], (), {"a": 1}, "takes a=, b=; it was given 0 positional, a="),
        ([FromInput("a")], (1,), {}, "takes a=; it was given 1 positional"),
        (
            [FromInput(0), FromInput("a")],
            (1,),
            {"c": 1, "b": 2},
            "takes 1 positional argument, a=; it was given 1 positional, b=, c=",
        ),
    ],
)
def test_what_it_does_not_take_is_a_type_error_that_says_what_it_takes(arguments, sources, args, kwargs, message):
    with pytest.raises(TypeError) as caught:
        arguments(*sources).check(args, kwargs)
    assert str(caught.value) == f"this graph {message}"
