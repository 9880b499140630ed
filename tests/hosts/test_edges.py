"""Graphs over two hosts do what they do on one."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag.collectives import allreduce
from tests.actors import Worker
from tests.belongings import take_stock
from tests.nodes import on


def chain(*actors):
    with InputNode() as x:
        node = x
        for actor in actors:
            node = actor.echo.bind(node)
    return node


@pytest.fixture(params=["there and back", "to and fro", "to an async actor", "two there"])
def path(request, here, there):
    """Chains of actors on both hosts."""
    return {
        "there and back": [there[0]],
        "to and fro": [here[0], there[0], here[1], there[1]],
        "to an async actor": [here[2], there[2]],
        "two there": [there[0], there[1]],
    }[request.param]


VALUES = [1, None, "x" * 3000, b"y" * 100_000, {"a": [1.5, (2, 3)]}, np.arange(300_000.0), np.zeros(0), Worker]


async def test_values_of_all_kinds_and_sizes(path):
    async with async_adag.compile(chain(*path)) as compiled:
        for value in VALUES:
            got = await compiled(value)
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(got, value)
            elif value is not Worker:
                assert got == value


async def test_many_in_flight_keep_their_order(path):
    async with async_adag.compile(chain(*path), max_inflight=7) as compiled:
        results = [result async for result in compiled.map(range(300))]
    assert results == list(range(300))


def test_threads_and_refs(path):
    with async_adag.compile(chain(*path), max_inflight=4) as compiled:
        refs = [compiled.execute(np.full(50_000, n)) for n in range(4)]
        assert [int(ref.get(timeout=100)[0]) for ref in reversed(refs)] == [3, 2, 1, 0]


async def test_a_fan_out_crosses_once_and_lands_for_all(here, there):
    with InputNode() as x:
        made = here[0].echo.bind(x)
        dag = MultiOutputNode([actor.add.bind(made) for actor in (here[1], *there[:2])])
    async with async_adag.compile(dag) as compiled:
        assert await asyncio.gather(*(compiled(n) for n in range(50))) == [[n + 1] * 3 for n in range(50)]
        picture = compiled.visualize()
    crossing = [line for line in picture.splitlines() if "TCP" in line and line.count("Worker") == 2]
    assert len(crossing) == 1, picture


async def test_an_error_travels_as_it_does_on_one_host(there, here):
    with InputNode() as x:
        dag = here[0].echo.bind(there[0].add.bind(x, 1))
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(TypeError) as caught:
            await compiled("one")
        assert "add" in str(caught.value.__cause__)
        assert await compiled(1) == 2


async def test_refs_reach_the_other_host_and_are_let_go(here, there):
    async with async_adag.compile(chain(here[0], there[0])) as compiled:
        ref = ray.put(np.arange(1000))
        (back,) = await compiled([ref])
        assert int(ray.get(back)[-1]) == 999
        del back
        assert await compiled(1) == 1


async def test_ranks_of_an_operation_on_both_hosts(here, there):
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind([here[0].echo.bind(x), there[0].echo.bind(x), there[1].echo.bind(x)]))
    async with async_adag.compile(dag) as compiled:
        for got in await compiled(np.arange(1000)):
            np.testing.assert_array_equal(got, 3 * np.arange(1000))


def test_the_driver_is_an_actor_on_the_other_host(here, there):
    dag = chain(here[0], there[0])

    def drive(dag):
        with async_adag.compile(dag) as compiled:
            return [compiled.execute(n).get(timeout=100) for n in range(3)]

    assert ray.get(there[1].call.remote(drive, dag)) == [0, 1, 2]


def test_the_driver_is_a_node_of_its_own_graph_on_the_other_host(here, there):
    dag = chain(here[0], there[0], here[1])

    def drive(dag):
        with async_adag.compile(dag) as compiled:
            return [compiled.execute(n).get(timeout=100) for n in range(3)]

    assert ray.get(there[0].call.remote(drive, dag)) == [0, 1, 2]


def test_pictures_and_figures_know_the_hosts(here, there):
    with async_adag.compile(chain(here[0], there[0])) as compiled:
        assert [compiled.execute(n).get(timeout=100) for n in range(3)] == [0, 1, 2]
        picture = compiled.visualize()
        assert re.findall(r"\[(TCP|shared memory)", picture) == ["shared memory", "TCP", "TCP"]
        compiled.dump()
        assert "another host" in str(compiled.visualize("svg")) or "TCP" in compiled.visualize("svg")
    calls = {node.label.split(" ")[2]: node.calls for node in compiled.stats().nodes}
    assert list(calls.values()) == [3, 3]  # those of the other host are told with its goodbye


def test_nothing_is_left_on_either_host(here, there):
    before = take_stock()
    actors = [*here[:2], *there[:2]]
    for _ in range(3):
        compiled = async_adag.compile(chain(*actors))
        assert compiled.execute(1).get(timeout=100) == 1
        compiled.teardown()
        with async_adag.compile(chain(*actors)) as compiled:
            assert compiled.execute(np.zeros(100_000)).get(timeout=100).sum() == 0
    del compiled
    for actor in actors:
        for _ in range(100):
            left = ray.get(actor.call.remote(take_stock)).of_graphs()
            if not left:
                break
        assert not left
    for _ in range(100):
        left = take_stock().more_than(before)
        if not left:
            break
    assert not left


def test_an_actor_that_is_made_on_a_host_of_its_own(second):
    lonely = Worker.options(**on(1)).remote()
    with async_adag.compile(chain(lonely)) as compiled:
        assert compiled.execute(5).get(timeout=100) == 5
    ray.kill(lonely)
