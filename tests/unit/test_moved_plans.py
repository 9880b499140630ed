"""Plans with results that a communicator carries: where their transfers have their places, and that none sticks.

Such a transfer is a rendezvous: the writer goes on when the reader has received, and the other way around.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.graph.model import Collective, Const, FromInput, FromNode, TensorTransport
from async_adag.graph.plan import DRIVER, Membership
from async_adag.graph.planner import plan_graph

WHOLE = FromInput(None)
EXECUTIONS = 3
SLOTS = 2  # of a ring; as many executions are in flight


class Carrier:
    """Stands for a user's communicator."""


def moving(graph, *nodes, carrier="the communicator", ranks=None):
    """The graph with the results of these nodes moved, all of them if none is named."""
    transport = TensorTransport("accelerator", communicator=carrier, ranks=ranks or (*range(len(graph.actors)),))
    changed = [
        replace(node, transports=(transport,) * node.returns) if not nodes or node.number in nodes else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(changed))


def edges(plan):
    return [(c.writer, c.readers, [value.node for value in c.values], c.moved) for c in plan.channels[1:]]


# -- which channels there are


def test_actors_get_a_moved_result_apart_from_the_driver(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(0)]), outputs=[FromNode(0), FromNode(2)])
    plan = plan_graph(moving(graph, 0))
    assert edges(plan)[:2] == [(0, (DRIVER,), [0], False), (0, (1, 2), [0], True)]
    assert [write.channel for write in plan.actors[0].tasks[0].writes] == [1, 2], "the driver does not wait for it"
    assert plan.mover(1) is None
    assert plan.mover(2) is plan.graph.nodes[0].transports[0]


def test_what_stays_in_its_actor_or_goes_to_the_driver_is_not_moved(make_graph):
    plan = plan_graph(moving(make_graph((0, [WHOLE]), (0, [FromNode(0)]))))
    assert edges(plan) == [(0, (DRIVER,), [1], False)]
    assert plan.actors[0].moves == plan.actors[0].communicators == ()


def test_results_of_one_node_by_different_ways(make_graph):
    graph = make_graph((0, [WHOLE], 4), (1, [FromNode(0, index) for index in range(4)]))
    one, two = (TensorTransport("shm", communicator=Carrier(), ranks=(0, 1)) for _ in range(2))
    nodes = (replace(graph.nodes[0], transports=(one, None, two, one)), graph.nodes[1])
    plan = plan_graph(replace(graph, nodes=nodes))
    assert [(c.values, plan.mover(c.number)) for c in plan.channels[1:4]] == [
        ((FromNode(0, 1),), None),
        ((FromNode(0, 0), FromNode(0, 3)), one),
        ((FromNode(0, 2),), two),
    ]


# -- what an actor is told


def test_both_ends_know_their_peers_by_rank(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(0), FromNode(1)]))
    plan = plan_graph(moving(graph, 0, ranks=(7, 5, 6)))
    (sent,), (first,), (second,) = (actor.moves for actor in plan.actors)
    assert (sent.channel, sent.peers) == (1, (5, 6))
    assert (first.channel, first.peers) == (second.channel, second.peers) == (1, (7,))
    edge = "the edge from method0 on Actor0(000000) to Actor1(000000), Actor2(000000)"
    assert {move.edge for move in (sent, first, second)} == {edge}


def test_communicators_are_started_in_one_order_by_every_rank(make_graph):
    """Also where an actor is a rank that neither sends nor receives; but not where nothing is moved."""
    graph = make_graph((0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(1)]), (0, [FromNode(2)]))
    one, two, idle = Carrier(), Carrier(), Carrier()
    graph = moving(graph, 0, carrier=two, ranks=(0, 1, 2))
    graph = moving(graph, 1, carrier=one, ranks=(None, 1, 0))
    graph = moving(graph, 3, carrier=idle)
    meeting = Collective("allreduce", "sum", 3, 4, communicator=one)
    graph = replace(graph, nodes=(*graph.nodes[:3], replace(graph.nodes[3], collective=meeting)))
    plan = plan_graph(graph)
    assert [actor.communicators for actor in plan.actors] == [
        (Membership(two, 0), Membership(one, 3)),
        (Membership(two, 1), Membership(one, 1)),
        (Membership(two, 2), Membership(one, 0)),
    ]


# -- when a moved result is received


def reads(plan, actor):
    return [(task.node, [read.channel for read in task.reads]) for task in plan.actors[actor].tasks]


def test_a_moved_result_is_received_ahead_of_the_first_node_behind_its_own(make_graph):
    """Node 2 does not need it, but what node 2 needs is sent after it."""
    graph = make_graph((0, [WHOLE]), (0, [WHOLE]), (1, [FromNode(1)]), (1, [FromNode(2), FromNode(0)]))
    assert reads(plan_graph(graph), 1) == [(2, [2]), (3, [1])]
    assert reads(plan_graph(moving(graph, 0)), 1) == [(2, [1, 2]), (3, [])]


def test_not_ahead_of_a_node_before_its_own(make_graph):
    graph = make_graph((1, [WHOLE]), (0, [WHOLE]), (1, [FromNode(1)]))
    assert reads(plan_graph(moving(graph)), 1) == [(0, [0]), (2, [1])]


def test_an_actor_that_was_sent_a_trigger_still_reads_it(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [7]), (1, [FromNode(0)]), outputs=[FromNode(1), FromNode(2)])
    plan = plan_graph(moving(graph))
    (trigger,) = [c.number for c in plan.channels if not c.values]
    assert reads(plan, 1) == [(1, [trigger, 2]), (2, [])]


# -- nothing sticks


@st.composite
def graphs_of_calls(draw):
    """Calls on a few actors; and which of their results are moved."""
    calls, results, used = [], [], 0
    for number in range(draw(st.integers(2, 9))):
        actor = draw(st.integers(0, min(used, 3)))
        used = max(used, actor + 1)
        source = st.sampled_from([WHOLE, Const("c"), *results])
        returns = draw(st.integers(1, 2))
        calls.append((actor, draw(st.lists(source, max_size=4)), returns))
        results += [FromNode(number, index) for index in range(returns)]
    outputs = draw(st.lists(st.sampled_from(results), min_size=1, max_size=3))
    moved = [draw(st.booleans()) for _ in results]
    return calls, outputs, dict(zip(results, moved, strict=True))


def moved_graph(make_graph, made):
    calls, outputs, moved = made
    graph = make_graph(*calls, outputs=outputs)
    transport = TensorTransport("shm", communicator="the communicator", ranks=tuple(range(len(graph.actors))))
    nodes = tuple(
        replace(
            node,
            transports=tuple(transport if moved[FromNode(node.number, i)] else None for i in range(node.returns)),
        )
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


class Run:
    """A plan at work: rings of `SLOTS` frames, and for each moved channel a rendezvous of both ends.

    Actors go one step at a time, in an order that ``choose`` gives. The driver begins an execution when there is
    room, as an engine does.
    """

    def __init__(self, plan):
        self.plan = plan
        self.rings = {(c.number, reader): deque() for c in plan.channels for reader in c.readers}
        self.offered = {}  # (channel, reader): the execution that the writer is sending there
        self.begun = 0
        self.executed = dict.fromkeys((task.node for actor in plan.actors for task in actor.tasks), 0)

    def actor(self, actor):
        me = actor.actor
        moved = {c.number for c in self.plan.channels if c.moved}
        for seq in range(EXECUTIONS):
            for task in actor.tasks:
                for read in task.reads:
                    ring = self.rings[read.channel, me]
                    while not ring:
                        yield False
                    assert ring.popleft() == seq
                    if read.channel in moved:
                        while self.offered.get((read.channel, me)) != seq:
                            yield False
                        del self.offered[read.channel, me]
                    yield True
                self.executed[task.node] += 1
                for write in task.writes:
                    readers = self.plan.channels[write.channel].readers
                    while any(len(self.rings[write.channel, reader]) == SLOTS for reader in readers):
                        yield False
                    for reader in readers:
                        self.rings[write.channel, reader].append(seq)
                    if write.channel in moved:
                        for reader in readers:
                            self.offered[write.channel, reader] = seq
                            yield True
                            while (write.channel, reader) in self.offered:
                                yield False
                    yield True

    def driver(self):
        taken = 0
        inputs = [(c.number, reader) for c in self.plan.inputs() for reader in c.readers]
        results = [(c.number, DRIVER) for c in self.plan.results()]
        while taken < EXECUTIONS:
            if self.begun < min(EXECUTIONS, taken + SLOTS) and all(len(self.rings[at]) < SLOTS for at in inputs):
                for at in inputs:
                    self.rings[at].append(self.begun)
                self.begun += 1
                yield True
            elif all(self.rings[at] for at in results):
                for at in results:
                    assert self.rings[at].popleft() == taken
                taken += 1
                yield True
            else:
                yield False

    def go(self, choose):
        """Run until all is done, or nobody can go on; whether all is done."""
        processes = [self.actor(actor) for actor in self.plan.actors] + [self.driver()]
        stuck = set()
        while processes and len(stuck) < len(processes):
            process = choose([one for one in processes if one not in stuck])
            went = next(process, None)
            if went is None:
                processes.remove(process)
            if went is False:
                stuck.add(process)
            else:
                stuck.clear()
        return not processes


@settings(max_examples=300)
@given(graphs_of_calls(), st.randoms(use_true_random=False))
def test_no_order_of_steps_leaves_anybody_waiting(make_graph, made, random):
    plan = plan_graph(moved_graph(make_graph, made))
    run = Run(plan)
    assert run.go(random.choice)
    assert set(run.executed.values()) == {EXECUTIONS}


def where_needed(plan):
    """The plan with moved results received by the first node that takes them, as others are."""
    moved = {c.number for c in plan.channels if c.moved}
    return replace(plan, actors=tuple(replace(actor, tasks=late(actor.tasks, moved)) for actor in plan.actors))


def late(tasks, moved):
    needed = [{*task.args, *(register for _, register in task.kwargs)} for task in tasks]
    kept = [[read for read in task.reads if read.channel not in moved] for task in tasks]
    for read in (read for task in tasks for read in task.reads if read.channel in moved):
        first = next(n for n, registers in enumerate(needed) if registers & set(read.registers))
        kept[first].append(read)
    return tuple(replace(task, reads=tuple(some)) for task, some in zip(tasks, kept, strict=True))


def as_the_arguments_come(plan):
    """The plan with the reads of each node the other way around."""
    return replace(
        plan,
        actors=tuple(
            replace(actor, tasks=tuple(replace(task, reads=task.reads[::-1]) for task in actor.tasks))
            for actor in plan.actors
        ),
    )


@pytest.mark.parametrize(
    ("spoil", "calls"),
    [
        # Actor 0 sends its first result, and actor 1 waits for the second before it receives that.
        (where_needed, [(0, [WHOLE]), (0, [WHOLE]), (1, [FromNode(1)]), (1, [FromNode(0), FromNode(2)])]),
        (as_the_arguments_come, [(0, [WHOLE]), (0, [WHOLE]), (1, [FromNode(1), FromNode(0)])]),
    ],
)
def test_another_order_of_receiving_does_leave_them_waiting(make_graph, spoil, calls):
    plan = plan_graph(moving(make_graph(*calls)))
    assert Run(plan).go(Random(1).choice)
    assert not Run(spoil(plan)).go(Random(1).choice)


@pytest.mark.parametrize("spoil", [where_needed, as_the_arguments_come])
def test_random_plans_find_that_too(make_graph, spoil):
    """What the property above runs on is enough to find such an order."""
    stuck = []

    @settings(max_examples=300, database=None)
    @given(graphs_of_calls(), st.randoms(use_true_random=False))
    def look(made, random):
        if not Run(spoil(plan_graph(moved_graph(make_graph, made)))).go(random.choice):
            stuck.append(made)

    look()
    assert stuck
