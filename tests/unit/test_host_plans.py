"""Plans of graphs whose actors live on several hosts: which channels cross, and who receives for whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_adag.graph.model import FromInput, FromNode, Host
from async_adag.graph.plan import DRIVER
from async_adag.graph.planner import host_of, plan_graph
from tests.graphs import build_graph

WHOLE = FromInput(None)
HERE, THERE, ELSEWHERE = (Host(f"{name:>04}" * 8, f"10.0.0.{name}") for name in (1, 2, 3))


def spread(graph, *hosts):
    """The graph, its driver on `HERE` and its actors on these."""
    return replace(graph, hosts=hosts, driver_host=HERE)


def edges(plan):
    return [(channel.writer, channel.readers, channel.remote) for channel in plan.channels]


def test_an_edge_between_hosts_is_remote_and_others_are_not(make_graph):
    chain = make_graph((0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(1)]))
    plan = plan_graph(spread(chain, HERE, THERE, THERE))
    assert edges(plan) == [(DRIVER, (0,), False), (0, (1,), True), (1, (2,), False), (2, (DRIVER,), True)]


def test_readers_on_one_other_host_share_a_channel_which_the_first_fills(make_graph):
    fan = make_graph(*((actor, [WHOLE]) for actor in range(4)), outputs=[FromNode(n) for n in range(4)])
    plan = plan_graph(spread(fan, HERE, THERE, ELSEWHERE, THERE))
    assert edges(plan)[:3] == [(DRIVER, (0,), False), (DRIVER, (1, 3), True), (DRIVER, (2,), True)]
    assert [channel.filler for channel in plan.inputs()] == [DRIVER, 1, 2]


def test_triggers_go_to_each_host_by_themselves(make_graph):
    plan = plan_graph(
        spread(
            make_graph((0, []), (1, []), (2, [WHOLE]), outputs=[FromNode(n) for n in range(3)]), HERE, THERE, HERE
        )
    )
    assert {(c.readers, c.remote) for c in plan.inputs()} == {((0,), False), ((1,), True), ((2,), False)}


def test_those_on_one_node_that_share_no_memory_are_apart(make_graph):
    plan = plan_graph(spread(make_graph((0, [WHOLE]), (1, [FromNode(0)])), HERE, replace(HERE, cell=2)))
    assert edges(plan) == [(DRIVER, (0,), False), (0, (1,), True), (1, (DRIVER,), True)]


@given(st.data())
def test_every_channel_stays_with_one_host_of_readers(data):
    """And the actors do the same as on one host: only the channels differ."""
    actors = data.draw(st.integers(1, 4))
    nodes = [(actor, [WHOLE, *map(FromNode, range(actor))]) for actor in range(actors)]
    graph = build_graph(*nodes, outputs=[FromNode(n) for n in range(actors)])
    hosts = [data.draw(st.sampled_from([HERE, THERE, ELSEWHERE])) for _ in range(actors)]
    plan, local = plan_graph(spread(graph, *hosts)), plan_graph(graph)
    for channel in plan.channels:
        (there,) = {host_of(plan.graph, reader) for reader in channel.readers}
        assert channel.remote == (there != host_of(plan.graph, channel.writer))
        assert host_of(plan.graph, channel.filler) == there
    for mine, its in zip(plan.actors, local.actors, strict=True):
        assert [task.method for task in mine.tasks] == [task.method for task in its.tasks]
        assert reads(plan, mine) == reads(local, its)


def reads(plan, actor):
    """The values that an actor reads in an execution."""
    return {value for number in actor.reads() for value in plan.channels[number].values}


@pytest.mark.parametrize("cell", [0, 3])
def test_a_host_says_where_it_is(cell):
    words = str(Host("ab" * 14, "10.0.0.5", cell))
    assert words.startswith("10.0.0.5 (node ababab")
    assert ("apart" in words) == bool(cell)
