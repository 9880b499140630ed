"""Which collective operations go over NCCL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from async_adag.driver.gpu_operations import choose_operations, gpu_operations, with_gpus_of
from async_adag.errors import GpuUnavailable
from async_adag.graph.model import Collective, FromInput, FromNode

WHOLE = FromInput(None)
ONE, OTHER, THIRD = "GPU-1", "GPU-2", "GPU-3"


@pytest.fixture
def operation(make_graph):
    """Makes an operation of three actors, whose ranks are not in their order."""

    def make(transport, *gpus, **more):
        graph = make_graph(*((actor, [WHOLE]) for actor in range(3)), *((actor, []) for actor in range(3)))
        parts = [
            replace(
                node,
                args=(FromNode(0), FromNode(1), FromNode(2)),
                method="allreduce(sum)",
                collective=Collective("allreduce", "sum", 2 - node.actor, 3, number=4, transport=transport),
            )
            for node in graph.nodes[3:]
        ]
        return replace(graph, nodes=(*graph.nodes[:3], *parts), gpus=gpus, **more)

    return make


@pytest.mark.parametrize("transport", ["auto", "accelerator"])
def test_where_every_rank_has_a_gpu_of_its_own(operation, transport):
    assert choose_operations(operation(transport, ONE, OTHER, THIRD)) == {4: (2, 1, 0)}


@pytest.mark.parametrize(
    ("gpus", "more", "driver", "words"),
    [
        ((ONE, "", THIRD), {}, "", "Actor1.* has no GPU; give it one"),
        ((ONE, OTHER, ONE), {}, "", "Actor2.* and Actor0.* are on one GPU, which NCCL takes once"),
        ((ONE, OTHER, THIRD), {"async_actors": frozenset([1])}, "", "Actor1.* is an async actor"),
        ((ONE, OTHER, THIRD), {}, f"{2:032x}", "Actor2.* is the driver"),
    ],
)
def test_where_it_cannot_be(operation, gpus, more, driver, words):
    assert choose_operations(operation("auto", *gpus, **more), driver) == {}
    with pytest.raises(GpuUnavailable, match=r"the operation allreduce\(sum\) on Actor2.*" + words):
        choose_operations(operation("accelerator", *gpus, **more), driver)


def test_where_nobody_asked_for_it_or_about_gpus(operation):
    assert choose_operations(operation("shm", ONE, OTHER, THIRD)) == {}
    assert choose_operations(operation("accelerator")) == {}, "compiled for the CPU"


def test_an_operation_of_a_communicator_is_no_candidate(operation):
    graph = operation("auto", ONE, OTHER, THIRD)
    nodes = [
        replace(node, collective=node.collective and replace(node.collective, communicator="the user's"))
        for node in graph.nodes
    ]
    assert gpu_operations(replace(graph, nodes=tuple(nodes))) == {}


def test_what_is_known_of_actors_in_another_order(operation):
    known = operation("auto", ONE, OTHER, THIRD, driver_gpu=OTHER, async_actors=frozenset([0]))
    turned = tuple(replace(actor, number=2 - actor.number) for actor in reversed(known.actors))
    graph = with_gpus_of(replace(operation("auto"), actors=turned), known)
    assert graph.gpus == (THIRD, OTHER, ONE)
    assert graph.driver_gpu == OTHER
    assert graph.async_actors == {2}
