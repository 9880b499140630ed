"""Collective operations that go over NCCL, between real actors; NCCL itself plays on the host's memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GpuUnavailable, GraphBroken, GraphError
from async_adag.collectives import allgather, allreduce, reducescatter
from async_adag.collectives.over_nccl import OverNccl
from tests.host_nccl import Exchange, ExchangeGroup, HostCrossing


def rows(value, rank, dtype="float64"):
    """What rank ``rank`` contributes."""
    if value < 0 and rank == 2:
        raise LookupError(f"rank {rank} has nothing")
    return (np.arange(6.0).reshape(3, 2) + value * (rank + 1)).astype(dtype)


def contribute(workers, x, *more):
    return [worker.call.bind(rows, x, rank, *more) for rank, worker in enumerate(workers)]


ALL = [rows(10, rank) for rank in range(3)]


@pytest.fixture
def exchange():
    actor = Exchange.remote()
    yield actor
    ray.kill(actor)


@pytest.fixture
def gpus(monkeypatch, exchange):
    """Says which GPUs the actors have; groups are of `Exchange`."""

    def say(gpu=lambda actor: f"GPU-{actor.id}", fails=0):
        monkeypatch.setattr(
            "async_adag.driver.compile.find_gpus",
            lambda graph, _: replace(graph, gpus=tuple(map(gpu, graph.actors))),
        )
        monkeypatch.setattr(
            "async_adag.driver.gpus.new_groups",
            partial(new_groups, exchange, fails),
        )
        monkeypatch.setattr("async_adag.driver.gpus.OverNccl", partial(OverNccl, make_crossing=HostCrossing))

    say()
    return say


def new_groups(exchange, fails, instance, sizes):
    return [ExchangeGroup(exchange, size, fails) for size in sizes]


@pytest.mark.parametrize("transport", [None, "auto", "nccl", "accelerator"])
async def test_every_operation(workers, gpus, exchange, transport):
    with InputNode() as x:
        contributions = contribute(workers, x)
        dag = MultiOutputNode(
            [
                *allreduce.bind(contributions, transport=transport),
                *allgather.bind(contributions, transport=transport),
                *reducescatter.bind(contributions, op="max", transport=transport),
            ]
        )
    async with async_adag.compile(dag) as compiled:
        assert "allreduce(sum) over NCCL" in compiled.visualize()
        assert any("reducescatter(max) over NCCL on" in node.label for node in compiled.stats().nodes)
        for _ in range(2):
            results = await compiled(10)
            for result in results[:3]:
                np.testing.assert_array_equal(result, sum(ALL))
            for result in results[3:6]:
                np.testing.assert_array_equal(result, np.concatenate(ALL))
            np.testing.assert_array_equal(np.concatenate(results[6:]), np.maximum(*ALL[1:]))
    notes = await exchange.noted.remote()
    started = sorted((rank, pid) for word, rank, pid in [note for note in notes if note[0] == "initialized"])
    assert [rank for rank, _ in started] == [0, 1, 2], "one group for all operations of the same ranks"
    assert len({pid for _, pid in started}) == 3
    assert sorted(rank for word, rank, *_ in notes if word == "destroyed") == [0, 1, 2]


async def test_eight_in_flight_and_failed_contributions(workers, gpus):
    with InputNode() as x:
        sums = allreduce.bind([contribute(workers, x), contribute(workers, x, "float32")])
        dag = MultiOutputNode([worker.join.bind(*pair) for worker, pair in zip(workers, sums, strict=True)])
    async with async_adag.compile(dag, max_inflight=8) as compiled:
        futures = [await compiled.execute_async(value if value % 5 else -1) for value in range(40)]
        for value, future in enumerate(futures):
            if value % 5 == 0:
                with pytest.raises(LookupError, match="rank 2 has nothing"):
                    await future
                continue
            for first, second in await future:
                np.testing.assert_array_equal(first, sum(rows(value, rank) for rank in range(3)))
                assert (first.dtype, second.dtype) == ("float64", "float32")


async def test_a_type_that_nccl_has_not_fails_that_execution_only(workers, gpus):
    with InputNode() as x:
        contributions = [worker.call.bind(rows, x[0], rank, x[1]) for rank, worker in enumerate(workers)]
        dag = MultiOutputNode(allreduce.bind(contributions))
    async with async_adag.compile(dag) as compiled:
        for _ in range(2):
            with pytest.raises(TypeError, match="NCCL has no arithmetic for int16"):
                await compiled(10, "int16")
            np.testing.assert_array_equal((await compiled(10, "int32"))[0], sum(ALL))


async def test_a_rank_that_cannot_do_its_part_breaks_the_graph(workers, gpus):
    gpus(fails=3)
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind(contribute(workers, x)))
    compiled = async_adag.compile(dag)
    for _ in range(2):
        np.testing.assert_array_equal((await compiled(10))[0], sum(ALL))
    futures = [await compiled.execute_async(10) for _ in range(2)]
    for error in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(error, GraphBroken)
        words = str(error)
        assert "allreduce(sum) over NCCL on Worker" in words, words
        assert "failed in execution 2: DeviceError: ncclAllReduce: no room" in words, words
    compiled.teardown()
    with async_adag.compile(dag, device="cpu") as again:
        assert "NCCL" not in again.visualize()
        np.testing.assert_array_equal((await again(10))[0], sum(ALL))


async def test_where_nccl_cannot_go_it_is_shared_memory_unless_it_was_demanded(workers, gpus):
    gpus(lambda actor: "GPU-1")
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind(contribute(workers, x)))
    with InputNode() as x:
        demanding = MultiOutputNode(allreduce.bind(contribute(workers, x), transport="accelerator"))
    with pytest.raises(GpuUnavailable, match=r"allreduce\(sum\) on Worker\(\w+\).* are on one GPU"):
        async_adag.compile(demanding)
    async with async_adag.compile(dag) as compiled:
        assert "NCCL" not in compiled.visualize()
        np.testing.assert_array_equal((await compiled(10))[0], sum(ALL))


def crossed(workers, x, transport):
    """Two operations that stand in opposite orders at their two actors."""
    one, two = workers[:2]
    parts = [one.call.bind(rows, x, 0), two.call.bind(rows, x, 1)]
    before = [one._ray_dag_bind_index, two._ray_dag_bind_index]
    two._ray_dag_bind_index = before[1] + 1
    first = allreduce.bind(parts, transport=transport)
    two._ray_dag_bind_index = before[1]
    second = allreduce.bind(parts, op="max", transport=transport)
    two._ray_dag_bind_index = before[1] + 2
    return MultiOutputNode([*first, *second])


async def test_operations_that_have_no_common_order(workers, gpus):
    with InputNode() as x:
        dag = crossed(workers, x, None)
    async with async_adag.compile(dag) as compiled:
        assert "NCCL" not in compiled.visualize()
        first, _, second, _ = await compiled(10)
        np.testing.assert_array_equal(first, ALL[0] + ALL[1])
        np.testing.assert_array_equal(second, np.maximum(*ALL[:2]))
    with InputNode() as x:
        dag = crossed(workers, x, "nccl")
    with pytest.raises(GraphError, match="would deadlock"):
        async_adag.compile(dag)
