"""Plans with edges from GPU to GPU: what carries which, and what each actor is told of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from async_adag.actor.gpu_facts import GpuFacts
from async_adag.actor.install import check_interleaving
from async_adag.actor.wiring import wire
from async_adag.driver.gpus import find_gpus
from async_adag.errors import GpuUnavailable
from async_adag.graph.model import FromInput, FromNode, TensorTransport
from async_adag.graph.plan import DRIVER, GpuMove, gpu_moves
from async_adag.graph.planner import plan_graph

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


@pytest.mark.parametrize(
    ("kind", "interleaving", "gpus", "expected"),
    [
        ("auto", {1}, (ONE, ONE, ONE), ["ipc", ""]),
        ("auto", {1}, (ONE, OTHER, ONE), ["", ""]),
        ("auto", {0}, (ONE, ONE, ONE), ["", "ipc"]),
        ("accelerator", {1}, (ONE, ONE, OTHER), ["ipc", "nccl"]),  # which the actor refuses
    ],
)
def test_async_actors_read_on_their_own_gpu_and_that_is_all(chain, kind, interleaving, gpus, expected):
    graph = replace(hinted(chain, *gpus, kind=kind), async_actors=frozenset(interleaving))
    assert [gpu for _, _, gpu in edges(plan_graph(graph))[:2]] == expected


@pytest.mark.parametrize(
    ("gpus", "refused"), [((ONE, ONE, OTHER), [True, True, True]), ((ONE, ONE), [True, False])]
)
def test_an_async_actor_that_cannot_take_part_says_what_to_do(make_graph, gpus, refused):
    graph = make_graph((0, [WHOLE]), *[(actor, [FromNode(actor - 1)]) for actor in range(1, len(gpus))])
    for actor, is_refused in zip(plan_graph(hinted(graph, *gpus)).actors, refused, strict=True):
        if not is_refused:
            check_interleaving(actor)
            continue
        with pytest.raises(
            RuntimeError, match=f"{re.escape(actor.name)} is an async actor.*make its methods sync"
        ):
            check_interleaving(actor)


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


def staged(plan):
    return [(c.writer, c.readers, c.gpu, c.to_host, c.to_gpu) for c in plan.channels[1:]]


def with_driver(make_graph):
    return make_graph((0, [WHOLE]), (1, [FromNode(0)]), (0, [FromNode(0)]), outputs=[FromNode(0), FromNode(1)])


@pytest.mark.parametrize("kind", ["auto", "shm"])
@pytest.mark.parametrize(
    ("gpus", "copies"), [((ONE, ONE), True), ((ONE, ""), True), (("", ONE), False), ((), False)]
)
def test_a_writer_on_a_gpu_copies_what_is_to_be_on_the_cpu(make_graph, kind, gpus, copies):
    plan = plan_graph(hinted(with_driver(make_graph), *gpus, kind=kind, device="cpu"))
    assert staged(plan)[0] == (0, (DRIVER, 1), "", copies, False)
    moves = [[(move.by, move.to_host, move.to_gpu) for move in actor.gpu_moves] for actor in plan.actors]
    assert moves[0] == [("", True, False)] * copies
    assert gpu_moves(plan.channels, DRIVER) == ()


@pytest.mark.parametrize(
    ("kind", "gpus", "expected"),
    [
        ("shm", (ONE, ONE), (0, (1,), "", True, True)),
        ("shm", ("", ONE), (0, (1,), "", False, True)),
        ("auto", ("", ONE), (0, (1,), "", False, True)),
        ("auto", (ONE, OTHER), (0, (1,), "nccl", False, True)),
        ("auto", (ONE, ONE), (0, (1,), "ipc", False, True)),
        ("auto", (), (0, (1,), "", False, False)),
    ],
)
def test_a_reader_on_a_gpu_copies_what_is_to_be_there(make_graph, kind, gpus, expected):
    plan = plan_graph(hinted(make_graph((0, [WHOLE]), (1, [FromNode(0)])), *gpus, kind=kind, device="gpu"))
    assert staged(plan)[0] == expected
    reads = [move for move in plan.actors[1].gpu_moves if move.reader is not None]
    assert [move.to_gpu for move in reads] == [True] * bool(gpus)
    assert not any(move.to_host for move in reads)


def test_within_an_actor_nothing_is_copied(make_graph):
    plan = plan_graph(hinted(make_graph((0, [WHOLE]), (0, [FromNode(0)]), outputs=[WHOLE]), ONE, device="cpu"))
    assert staged(plan) == []


class Answers:
    """In place of an `Inquiry`: actors that have these GPUs."""

    def __init__(self, *gpus):
        self.gpus = gpus
        self.asked = set()

    def ask(self, function, asked, what):
        self.asked |= set(asked)
        return {actor: GpuFacts(self.gpus[actor], "it is a toaster") for actor in asked}


def asking(graph, kind, device):
    return replace(hinted(graph, kind=kind, device=device), gpus=())


@pytest.mark.parametrize("kind", ["auto", "shm"])
def test_a_reader_without_a_gpu_is_named(make_graph, kind):
    graph = make_graph((0, [WHOLE]), (1, [FromNode(0)]), outputs=[WHOLE])
    with pytest.raises(GpuUnavailable) as caught:
        find_gpus(asking(graph, kind, "gpu"), Answers(ONE, ""))
    for part in (graph.label(0), f"{graph.actors[1]} has no GPU", "toaster", "device='cpu'"):
        assert part in str(caught.value)
    assert find_gpus(asking(graph, kind, "gpu"), Answers("", ONE)).gpus == ("", ONE)


def test_a_driver_without_a_gpu_is_named(make_graph, monkeypatch):
    graph = asking(make_graph((0, [WHOLE])), "shm", "gpu")
    monkeypatch.setattr("async_adag.driver.gpus.gpu_of", lambda _: GpuFacts("", "it is a toaster"))
    with pytest.raises(GpuUnavailable, match=r"the driver, which gets the result, has no GPU.*toaster"):
        find_gpus(graph, Answers(ONE))
    monkeypatch.setattr("async_adag.driver.gpus.gpu_of", lambda _: GpuFacts(ONE))
    assert find_gpus(graph, Answers(ONE)).gpus == (ONE,)


def test_of_an_edge_to_the_cpu_the_writer_alone_is_asked(chain):
    answers = Answers(ONE, "", "")
    graph = replace(asking(chain, "shm", "cpu"))
    graph = replace(graph, nodes=(graph.nodes[0], *[replace(node, transports=()) for node in graph.nodes[1:]]))
    assert find_gpus(graph, answers).gpus == (ONE, "", "")
    assert answers.asked == {0}
