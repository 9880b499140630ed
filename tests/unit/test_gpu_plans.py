"""Plans with edges from GPU to GPU: what carries which, and what each actor is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from async_adag.actor.wiring import wire
from async_adag.graph.model import FromInput, FromNode, TensorTransport
from async_adag.graph.plan import DRIVER, GpuMove, plan_graph

WHOLE = FromInput(None)
ONE, OTHER = "GPU-1", "GPU-2"


def hinted(graph, *gpus, kind="accelerator", device="default"):
    """The graph with a hint at every node, and these GPUs."""
    transport = TensorTransport(kind, device)
    nodes = tuple(replace(node, transports=(transport,) * node.returns) for node in graph.nodes)
    return replace(graph, nodes=nodes, gpus=gpus)


def edges(plan):
    return [(c.writer, c.readers, c.gpu) for c in plan.channels[1:]]


@pytest.fixture
def chain(make_graph):
    return make_graph((0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(1)]))


def test_one_gpu_or_two_decide(chain):
    plan = plan_graph(hinted(chain, ONE, ONE, OTHER))
    assert edges(plan) == [(0, (1,), "ipc"), (1, (2,), "nccl"), (2, (DRIVER,), "")]


@pytest.mark.parametrize("gpus", [(), ("", ONE, ONE), (ONE, "", ONE)])
def test_an_edge_between_an_actor_with_and_one_without_a_gpu_is_none_from_gpu_to_gpu(chain, gpus):
    plan = plan_graph(hinted(chain, *gpus, kind="auto"))
    assert edges(plan)[0] == (0, (1,), "")


@pytest.mark.parametrize(
    ("kind", "device", "gpu"), [("shm", "default", ""), ("auto", "cpu", ""), ("auto", "gpu", "ipc")]
)
def test_the_hint_decides_too(chain, kind, device, gpu):
    plan = plan_graph(hinted(chain, ONE, ONE, ONE, kind=kind, device=device))
    assert edges(plan)[0] == (0, (1,), gpu)


def test_readers_of_one_result_are_parted_by_what_carries_it_to_them(make_graph):
    graph = make_graph(
        (0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(0)]), (3, [FromNode(0)]), outputs=[FromNode(0)]
    )
    plan = plan_graph(hinted(graph, ONE, OTHER, ONE, ONE))
    from_first = {(c.readers, c.gpu) for c in plan.channels if c.writer == 0}
    assert from_first == {((DRIVER,), ""), ((2, 3), "ipc"), ((1,), "nccl")}


def test_what_each_actor_is_told(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(0)]))
    plan = plan_graph(hinted(graph, ONE, ONE, ONE))
    (channel,) = [c for c in plan.channels if c.gpu]
    told = [[replace(move, edge="") for move in actor.gpu_moves] for actor in plan.actors]
    assert told == [[GpuMove(channel.number, "", "ipc", 2, place)] for place in (None, 0, 1)]
    assert [wire(plan.channels, process).pages for process in (DRIVER, 0, 1)] == [
        (),
        (channel.number,),
        (channel.number,),
    ]


def test_a_result_that_stays_in_its_actor_goes_nowhere(make_graph):
    plan = plan_graph(hinted(make_graph((0, [WHOLE]), (0, [FromNode(0)])), ONE))
    assert edges(plan) == [(0, (DRIVER,), "")]
    assert plan.actors[0].gpu_moves == ()
