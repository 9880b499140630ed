"""What hints promise of results, and what becomes of a result that is not so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from async_adag.actor.promises import Check
from async_adag.graph.model import FromInput, FromNode, TensorTransport
from async_adag.graph.plan import Promise
from async_adag.graph.planner import plan_graph

ONE = "GPU-1"


def static():
    return Check(Promise("make on Worker(0)", static_shape=True, direct_return=False))


def direct():
    return Check(Promise("make on Worker(0)", static_shape=False, direct_return=True))


@pytest.mark.parametrize(
    "other",
    [
        [np.zeros((2, 4), "f4"), 1],
        [np.zeros((2, 3), "f8"), 1],
        [np.zeros((2, 3), "f4"), np.zeros(1)],
        "no tensor",
    ],
    ids=["shape", "type", "one more", "none"],
)
def test_a_shape_that_changes(other):
    check = static()
    check([np.zeros((2, 3), "f4"), 1])
    check([np.ones((2, 3), "f4"), "text"])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"make on Worker.*expected \[numpy <f4 of shape \(2, 3\)\].*got"):
            check(other)
    check([np.ones((3, 2), "f4").T, "text"])


@pytest.mark.parametrize("value", [[np.zeros(2)], None, 3, "text", {"a": np.zeros(2)}], ids=repr)
def test_a_value_that_is_no_tensor(value):
    with pytest.raises(ValueError, match=r"make on Worker\(0\).*tensor itself.*_direct_return"):
        direct()(value)


def test_a_tensor_itself():
    check = direct()
    check(np.zeros(2))
    check(np.zeros((3, 3), "i4"))


@pytest.mark.parametrize(
    ("kind", "gpus", "promised"),
    [
        ("accelerator", (), [True, True]),
        ("accelerator", (ONE, ONE), [True, True]),
        ("auto", (), [False, False]),
        ("auto", (ONE, ONE), [True, False]),  # the driver has none
    ],
)
def test_where_promises_are_kept(make_graph, kind, gpus, promised):
    graph = make_graph((0, [FromInput(None)]), (1, [FromNode(0)]), outputs=[FromNode(0), FromNode(1)])
    asked = TensorTransport(kind, static_shape=True)
    first = replace(graph.nodes[0], transports=(asked,))
    plan = plan_graph(replace(graph, nodes=(first, graph.nodes[1]), gpus=gpus))
    writes = {plan.channels[write.channel].readers: write for write in plan.actors[0].tasks[0].writes}
    assert plan.actors[1].tasks[0].writes[0].promises == ()
    if len(writes) == 1:
        assert [bool(write.promises) for write in writes.values()] == promised[:1]
    else:
        assert [bool(writes[readers].promises) for readers in ((1,), (-1,))] == promised
