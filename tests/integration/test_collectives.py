"""Collective operations between real actors."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode
from ray.experimental.channel.communicator import Communicator
from ray.experimental.channel.cpu_communicator import CPUCommunicator
from ray.experimental.util.types import ReduceOp

import async_adag
from async_adag import GpuUnavailable, GraphError
from async_adag.collectives import allgather, allreduce, reducescatter


def rows(value, rank):
    """What rank ``rank`` contributes."""
    if value == "nothing":
        raise LookupError(f"rank {rank} has {value}")
    return np.arange(6.0).reshape(3, 2) + value * (rank + 1)


def rows_unless_last(value, rank):
    return rows("nothing" if value < 0 and rank == 2 else value, rank)


def contribute(workers, x, function=rows):
    return [worker.call.bind(function, x, rank) for rank, worker in enumerate(workers)]


ALL = [rows(10, rank) for rank in range(3)]


async def test_allreduce_in_the_middle_of_a_graph(workers):
    with InputNode() as x:
        sums = allreduce.bind(contribute(workers, x))
        dag = MultiOutputNode(
            [worker.add.bind(total, rank) for rank, (worker, total) in enumerate(zip(workers, sums, strict=True))]
        )
    async with async_adag.compile(dag) as compiled:
        for _ in range(3):
            for rank, result in enumerate(await compiled(10)):
                np.testing.assert_array_equal(result, sum(ALL) + rank)
        futures = [await compiled.execute_async(value) for value in range(20)]
        for value, future in enumerate(futures):
            np.testing.assert_array_equal((await future)[0], sum(rows(value, rank) for rank in range(3)))


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("product", ALL[0] * ALL[1] * ALL[2]),
        (ReduceOp.MAX, np.maximum(*ALL[1:])),
        ("min", np.minimum(*ALL[:2])),
        (ReduceOp.AVG, sum(ALL) / 3),
    ],
)
async def test_reductions(workers, op, expected):
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind(contribute(workers, x), op=op))
    async with async_adag.compile(dag) as compiled:
        for result in await compiled(10):
            np.testing.assert_array_equal(result, expected)


async def test_allgather_and_reducescatter(workers):
    with InputNode() as x:
        contributions = contribute(workers, x)
        dag = MultiOutputNode([*allgather.bind(contributions), *reducescatter.bind(contributions, op="sum")])
    async with async_adag.compile(dag) as compiled:
        results = await compiled(10)
    for result in results[:3]:
        np.testing.assert_array_equal(result, np.concatenate(ALL))
    for rank, result in enumerate(results[3:]):
        np.testing.assert_array_equal(result, sum(ALL)[rank : rank + 1])


async def test_several_tensors_of_each_actor(workers):
    with InputNode() as x:
        lists = [contribute(workers[:2], x), [worker.call.bind(np.full, 2, x) for worker in workers[:2]]]
        (first, second), (third, fourth) = allreduce.bind(lists)
        dag = MultiOutputNode([first, second, third, fourth])
    async with async_adag.compile(dag) as compiled:
        results = await compiled(10)
    for result in results[::2]:
        np.testing.assert_array_equal(result, ALL[0] + ALL[1])
    for result in results[1::2]:
        np.testing.assert_array_equal(result, [20, 20])


async def test_async_actors_take_part(worker, async_worker):
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind([worker.echo.bind(x), async_worker.echo.bind(x)]))
    async with async_adag.compile(dag) as compiled:
        for value in range(10):
            np.testing.assert_array_equal(await compiled(np.full(3, value)), np.full((2, 3), 2 * value))


async def test_a_large_array(workers):
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind([worker.echo.bind(x) for worker in workers[:2]]))
    array = np.random.default_rng(1).random(1 << 20)
    async with async_adag.compile(dag) as compiled:
        for _ in range(3):
            for result in await compiled(array):
                np.testing.assert_array_equal(result, array + array)


async def test_a_failed_contribution_fails_every_result_of_that_execution(workers):
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind(contribute(workers, x, rows_unless_last)))
    async with async_adag.compile(dag) as compiled:
        results = await asyncio.gather(*await compiled.execute_async(-1), return_exceptions=True)
        assert [str(result) for result in results] == [str(LookupError("rank 2 has nothing"))] * 3
        np.testing.assert_array_equal((await compiled(10))[0], sum(ALL))


async def test_contributions_that_do_not_fit_fail_that_execution(workers):
    with InputNode() as x:
        dag = MultiOutputNode(
            allreduce.bind([worker.call.bind(np.zeros, x[n]) for n, worker in enumerate(workers[:2])])
        )
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(ValueError, match=r"rank 1 gave shape \(3,\), rank 0 \(2,\)"):
            await compiled(2, 3)
        assert len((await compiled(2, 2))[0]) == 2


async def test_operations_of_two_graphs_on_the_same_actors(workers):
    with InputNode() as x:
        one = MultiOutputNode(allreduce.bind(contribute(workers, x)))
    with InputNode() as x:
        other = MultiOutputNode(allgather.bind(contribute(workers[::-1], x)))
    async with async_adag.compile(one) as first, async_adag.compile(other) as second:
        results = await asyncio.gather(*(graph(10) for _ in range(30) for graph in (first, second)))
    for sums, joined in zip(results[::2], results[1::2], strict=True):
        np.testing.assert_array_equal(sums[0], sum(ALL))
        np.testing.assert_array_equal(joined[0], np.concatenate(ALL))


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        (lambda nodes: allreduce.bind([]), "a list of nodes"),
        (lambda nodes: allreduce.bind([1, 2]), "nodes of methods of existing actors; got int"),
        (lambda nodes: allreduce.bind([nodes[0], nodes[0]]), "an actor occurs twice"),
        (lambda nodes: allreduce.bind([nodes, nodes[::-1]]), "the same actors in the same order"),
        (lambda nodes: allreduce.bind([nodes, nodes[0]]), "not both"),
        (lambda nodes: allreduce.bind([nodes[0], nodes]), "not both"),
        (lambda nodes: allreduce.bind([[], []]), "not empty"),
        (lambda nodes: allgather.bind([nodes, nodes]), "only allreduce takes several tensors"),
        (lambda nodes: allreduce.bind(nodes, op="mean"), "a reduction is one of sum, product, max, min, avg"),
        (lambda nodes: reducescatter.bind(nodes, op=None), "a reduction is one of"),
        (lambda nodes: allreduce.bind(nodes, transport="tcp"), "the transport of allreduce is"),
    ],
)
def test_what_cannot_be_bound(workers, bind, words):
    with InputNode() as x:
        nodes = contribute(workers, x)
    with pytest.raises(GraphError, match=words):
        bind(nodes)


def test_accelerator_transport_without_a_gpu(workers):
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind(contribute(workers, x), transport="nccl"))
    with pytest.raises(GpuUnavailable, match=r"allreduce\(sum\) on Worker"):
        async_adag.compile(dag)
    with async_adag.compile(dag, device="cpu") as compiled:
        np.testing.assert_array_equal(compiled.execute(10).get()[0], sum(ALL))


def test_rays_cpu_communicator_stands_for_ours(workers):
    """Its own has no allgather."""
    with InputNode() as x:
        transport = CPUCommunicator(3, workers)
        dag = MultiOutputNode(allgather.bind(contribute(workers, x), transport=transport))
    with async_adag.compile(dag) as compiled:
        np.testing.assert_array_equal(compiled.execute(10).get()[0], np.concatenate(ALL))


@ray.remote(num_cpus=0)
class Meeting:
    """Where the ranks of `ByMeeting` exchange their arrays; each call returns when all ranks have come."""

    def __init__(self, size):
        self.size = size
        self.met = asyncio.Condition()
        self.brought = {}

    async def bring(self, number, rank, array):
        arrays = self.brought.setdefault(number, {})
        async with self.met:
            arrays[rank] = array
            self.met.notify_all()
            await self.met.wait_for(lambda: len(arrays) == self.size)
        return [arrays[rank] for rank in range(self.size)]


class ByMeeting(Communicator):
    """A user's communicator: slow, but it does what one has to."""

    def __init__(self, handles, log, fails=False):
        self.handles = handles
        self.meeting = Meeting.remote(len(handles))
        self.log = log
        self.fails = fails
        self.rank = None
        self.number = 0

    def note(self, word):
        with Path(self.log).open("a") as file:
            file.write(f"{word} {self.rank}\n")

    def initialize(self, rank):
        if self.fails:
            raise OSError("no network")
        self.rank = rank
        self.note("initialized")

    def destroy(self):
        self.note("destroyed")

    def exchange(self, send_buf):
        self.number += 1
        return ray.get(self.meeting.bring.remote(self.number, self.rank, send_buf))

    def allgather(self, send_buf, recv_buf):
        recv_buf[:] = np.concatenate(self.exchange(send_buf))

    def allreduce(self, send_buf, recv_buf, op):
        assert op is ReduceOp.SUM
        recv_buf[:] = sum(self.exchange(send_buf))

    def reducescatter(self, send_buf, recv_buf, op):
        total = sum(self.exchange(send_buf))
        recv_buf[:] = np.split(total, len(self.handles))[self.rank]

    def get_actor_handles(self):
        return self.handles

    def get_rank(self, actor):
        return [handle._actor_id for handle in self.handles].index(actor._actor_id)

    def get_self_rank(self):
        return self.rank

    def get_world_size(self):
        return len(self.handles)

    def get_transport_name(self):
        return "meeting"

    def send(self, value, peer_rank):
        raise NotImplementedError

    recv = recv_stream = send_stream = send

    @classmethod
    def generate_communicator_id(cls):
        return "meeting"


async def test_a_communicator_of_the_users_is_called(workers, tmp_path):
    ranks = [workers[1], workers[2], workers[0]]  # not in the order of the nodes
    transport = ByMeeting(ranks, str(tmp_path / "log"))
    with InputNode() as x:
        contributions = contribute(workers, x, rows_unless_last)
        dag = MultiOutputNode(
            [
                *allreduce.bind(contributions, transport=transport),
                *allgather.bind(contributions, transport=transport),
                *reducescatter.bind(contributions, transport=transport),
            ]
        )
    async with async_adag.compile(dag) as compiled:
        for _ in range(2):
            results = await compiled(10)
            for result in results[:3]:
                np.testing.assert_array_equal(result, sum(ALL))
            for result in results[3:6]:
                np.testing.assert_array_equal(result, np.concatenate([ALL[1], ALL[2], ALL[0]]))
            np.testing.assert_array_equal(np.concatenate([*results[7:], results[6]]), sum(ALL))
            # A rank without a contribution: the others are not left waiting for it.
            failed = await asyncio.gather(*await compiled.execute_async(-1), return_exceptions=True)
            assert [type(result) for result in failed] == [LookupError] * 9
    log = sorted((tmp_path / "log").read_text().splitlines())
    assert log == [f"destroyed {rank}" for rank in range(3)] + [f"initialized {rank}" for rank in range(3)]


@ray.remote(num_cpus=0)
class Driver:
    """Compiles a graph in which it is a rank itself."""

    def echo(self, value):
        return value

    def compile_with(self, other, log):
        me = ray.get_runtime_context().current_actor
        with InputNode() as x:
            parts = [me.echo.bind(x), other.echo.bind(x)]
            dag = MultiOutputNode(allreduce.bind(parts, transport=ByMeeting([me, other], log)))
        try:
            async_adag.compile(dag)
        except GraphError as error:
            return str(error)


def test_a_driver_that_is_a_rank_of_a_communicator_is_refused(worker, make_actor, tmp_path):
    """Its own part would begin only when all others have, and they wait for it."""
    driver = make_actor(Driver)
    answer = ray.get(driver.compile_with.remote(worker, str(tmp_path / "log")), timeout=100)
    assert "is a rank of a communicator of your own" in answer
    assert ray.get(worker.echo.remote(1), timeout=100) == 1


async def test_contributions_that_do_not_fit_are_not_given_to_a_communicator(workers, tmp_path):
    """No rank calls it, so that none is left waiting there."""
    transport = ByMeeting(workers[:2], str(tmp_path / "log"))
    with InputNode() as x:
        parts = [worker.echo.bind(x[n]) for n, worker in enumerate(workers[:2])]
        dag = MultiOutputNode(reducescatter.bind(parts, transport=transport))
    async with async_adag.compile(dag) as compiled:
        for unfit, error, words in [
            ((np.ones(2), 3), TypeError, "rank 1 gave int"),
            ((np.ones(2), np.ones(4)), ValueError, r"rank 1 gave shape \(4,\)"),
            ((np.ones(3), np.ones(3)), ValueError, "that 2 divides, not 3"),
        ]:
            results = await asyncio.gather(*await compiled.execute_async(*unfit), return_exceptions=True)
            for result in results:
                with pytest.raises(error, match=words):
                    raise result
        np.testing.assert_array_equal(np.concatenate(await compiled(np.ones(2), np.ones(2))), [2, 2])


async def test_operations_of_a_communicator_are_in_one_order_at_all_actors(workers, make_actor, tmp_path):
    """Two handles of one actor: in which order their nodes were bound, neither tells."""
    name = f"twice-{tmp_path.name}"
    make_actor(name=name)
    first, second = workers[0], ray.get_actor(name)
    again = ray.get_actor(name)
    transport = ByMeeting([first, second], str(tmp_path / "log"))
    with InputNode() as x:
        one = allreduce.bind([first.echo.bind(x), second.echo.bind(x)], transport=transport)
        # Bound the other way around, which must not matter.
        late = again.echo.bind(x)
        two = allreduce.bind([first.echo.bind(x), late], transport=transport)
        three = allreduce.bind([first.echo.bind(x), second.echo.bind(x)], transport=transport)
        dag = MultiOutputNode([*three, *two, *one])
    async with async_adag.compile(dag) as compiled:
        for result in await compiled(np.ones(2)):
            np.testing.assert_array_equal(result, [2, 2])


def test_a_communicator_that_cannot_start(workers, tmp_path):
    with InputNode() as x:
        transport = ByMeeting(workers, str(tmp_path / "log"), fails=True)
        dag = MultiOutputNode(allreduce.bind(contribute(workers, x), transport=transport))
    with pytest.raises(GraphError, match="no network"):
        async_adag.compile(dag)


def test_a_communicator_of_other_actors(workers, tmp_path):
    with InputNode() as x:
        nodes = contribute(workers, x)
    with pytest.raises(GraphError, match="of other actors"):
        allreduce.bind(nodes, transport=ByMeeting(workers[:2], str(tmp_path / "log")))


async def test_a_communicator_of_the_users_takes_synchronous_actors(worker, async_worker, tmp_path):
    actors = [worker, async_worker]
    with InputNode() as x:
        transport = ByMeeting(actors, str(tmp_path / "log"))
        dag = MultiOutputNode(allreduce.bind([actor.echo.bind(x) for actor in actors], transport=transport))
    with pytest.raises(GraphError, match="synchronous actors only"):
        await async_adag.compile_async(dag)
