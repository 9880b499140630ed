"""Actors of every kind: named, detached, with concurrency groups; and async methods whose graph goes away."""

from __future__ import annotations

import asyncio

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GraphClosed
from tests.actors import Worker
from tests.gate import wait_at
from tests.turns import until


@ray.remote(num_cpus=0, concurrency_groups={"side": 2})
class Grouped:
    """A synchronous actor with a concurrency group."""

    def add(self, value):
        return value + 1

    @ray.method(concurrency_group="side")
    def add_aside(self, value):
        return value + 10

    @ray.method(concurrency_group="side")
    def hold_aside(self, path):
        return wait_at(path)


@ray.remote(num_cpus=0, concurrency_groups={"side": 2})
class AsyncGrouped:
    """An async actor with a concurrency group, and a method that takes note of its end."""

    def __init__(self):
        self.ends = []
        self.begun = asyncio.Semaphore(0)

    async def loop_id(self, _):
        return id(asyncio.get_running_loop())

    @ray.method(concurrency_group="side")
    async def loop_id_aside(self, _):
        return id(asyncio.get_running_loop())

    async def never(self, value):
        self.begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ends.append(f"{value} cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            self.ends.append(f"{value} cleaned up")

    async def wait_begun(self, count):
        for _ in range(count):
            await self.begun.acquire()

    async def wait_ends(self, count):
        await until(lambda: len(self.ends) >= count)
        taken, self.ends = self.ends, []
        return taken


def dag_of(method):
    with InputNode() as x:
        return method.bind(x)


@pytest.fixture(scope="module")
def async_grouped(cluster):
    actor = AsyncGrouped.remote()
    yield actor
    ray.kill(actor)


async def test_a_named_actor(make_actor):
    actor = make_actor(Worker, name="parity")
    with InputNode() as x:
        dag = ray.get_actor("parity").add.bind(actor.add.bind(x))
    async with async_adag.compile(dag) as compiled:
        assert await compiled(1) == 3
        assert repr(compiled) == "<CompiledGraph 1 actors, 2 nodes, open>", "two handles, one actor"


async def test_a_detached_actor(make_actor):
    actor = make_actor(Worker, name="detached", lifetime="detached")
    for number in range(2):
        async with async_adag.compile(dag_of(ray.get_actor("detached").add)) as compiled:
            assert await compiled(number) == number + 1
    assert await actor.add.remote(5) == 6


async def test_concurrency_groups(make_actor, gate):
    """Nodes run whatever their group, and the group's ordinary calls go on beside them."""
    actor = make_actor(Grouped)
    with InputNode() as x:
        dag = MultiOutputNode([actor.add.bind(x), actor.add_aside.bind(x)])
    held = actor.hold_aside.remote(gate.path)
    gate.entered()
    async with async_adag.compile(dag) as compiled:
        assert await asyncio.gather(*(compiled(n) for n in range(20))) == [[n + 1, n + 10] for n in range(20)]
        assert await actor.add_aside.remote(1) == 11
        gate.open("aside")
        assert await held == "aside"


async def test_concurrency_groups_of_an_async_actor(async_grouped):
    """All nodes of an actor run on one loop."""
    with InputNode() as x:
        dag = MultiOutputNode([async_grouped.loop_id.bind(x), async_grouped.loop_id_aside.bind(x)])
    ordinary = await async_grouped.loop_id.remote(0)
    async with async_adag.compile(dag) as compiled:
        assert await compiled(0) == [ordinary, ordinary]


@pytest.mark.parametrize("ending", ["teardown", "an exception"])
async def test_executions_on_an_async_actor_are_cancelled_when_their_graph_goes(async_grouped, ending):
    compiled = async_adag.compile(dag_of(async_grouped.never))
    futures = [await compiled.execute_async(n) for n in range(3)]
    await async_grouped.wait_begun.remote(3)
    if ending == "teardown":
        compiled.teardown()
    else:
        with pytest.raises(LookupError):
            async with compiled:
                raise LookupError
    ends = await async_grouped.wait_ends.remote(6)
    assert sorted(ends) == sorted(f"{n} {end}" for n in range(3) for end in ("cancelled", "cleaned up"))
    for future in futures:
        with pytest.raises(GraphClosed):
            await future


async def test_a_cancelled_future_does_not_cancel_the_method(async_grouped):
    """Only the result is abandoned: the execution ends when its graph does."""
    async with async_adag.compile(dag_of(async_grouped.loop_id)) as other:
        compiled = async_adag.compile(dag_of(async_grouped.never))
        future = await compiled.execute_async("kept")
        await async_grouped.wait_begun.remote(1)
        future.cancel()
        await other(0)  # there and back: a cancellation would have arrived
        assert await async_grouped.wait_ends.remote(0) == []
        compiled.teardown()
    assert await async_grouped.wait_ends.remote(2) == ["kept cancelled", "kept cleaned up"]
