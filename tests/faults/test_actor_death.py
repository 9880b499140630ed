"""An actor dies: what was in flight fails, what had arrived stays, the others go on."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import gc
import os
import signal
import sys
import weakref
from pathlib import Path

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode
from ray.exceptions import ActorDiedError, RayChannelError

import async_adag
from async_adag import GraphBroken, GraphClosed
from tests.actors import AsyncWorker, Worker, wait_until_dead
from tests.belongings import take_stock
from tests.gate import wait_at
from tests.threads import in_thread
from tests.turns import turns, until


def name_of(actor) -> str:
    return f"({actor._actor_id.hex()[:6]})"


def chain(first, victim, last, method="hold_or_echo"):
    with InputNode() as x:
        return last.echo.bind(getattr(victim, method).bind(first.echo.bind(x)))


async def are_free(actors) -> None:
    """They can be compiled and called at once."""
    with InputNode() as x:
        dag = MultiOutputNode([actor.add.bind(x) for actor in actors])
    async with async_adag.compile(dag) as compiled:
        assert await compiled(1) == [2] * len(actors)


def check(error: BaseException, *words: str) -> None:
    assert isinstance(error, GraphBroken)
    assert isinstance(error, ActorDiedError)
    assert isinstance(error, RayChannelError)
    for word in words:
        assert word in str(error)


async def test_sigkill_in_the_middle_of_an_execution(workers, make_victim, gate):
    victim = make_victim()
    pid = await victim.pid.remote()
    compiled = async_adag.compile(chain(workers[0], victim, workers[1]), max_inflight=4)
    arrived = [await compiled.execute_async(n) for n in range(3)]
    assert await arrived[-1] == 2
    held = await compiled.execute_async(gate.path)
    behind = [await compiled.execute_async(n) for n in range(3)]
    waiting = asyncio.ensure_future(compiled(5))
    gate.entered()
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    results = await asyncio.gather(held, *behind, waiting, return_exceptions=True)
    check(results[0], name_of(victim), "hold_or_echo", "execution 3")
    check(results[1], name_of(victim), "execution 4")
    check(results[3], name_of(victim), "execution 6")
    check(results[4], name_of(victim))
    assert [await future for future in arrived] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(GraphBroken) as caught:
            await compiled(1)
        check(caught.value, name_of(victim))
        with pytest.raises(GraphBroken):
            compiled.execute(1)
    assert "broken" in repr(compiled)
    compiled.teardown()
    with pytest.raises(GraphBroken):
        await compiled(1)
    await are_free(workers)


def test_refs_of_a_graph_that_broke(workers, make_victim, gate):
    victim = make_victim()
    pid = ray.get(victim.pid.remote())
    with async_adag.compile(chain(workers[0], victim, workers[1])) as compiled:
        arrived = [compiled.execute(n) for n in range(3)]
        assert arrived[-1].get() == 2
        held = compiled.execute(gate.path)
        gate.entered()
        os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(GraphBroken) as caught:
                held.get()
            check(caught.value, name_of(victim), "hold_or_echo", "execution 3")
        assert [ref.get() for ref in arrived] == [0, 1, 2]
        assert ray.get(arrived) == [0, 1, 2]
        with pytest.raises(ActorDiedError):
            ray.get(held)
    asyncio.run(are_free(workers))


def test_a_thread_that_waits_is_told(workers, make_victim, gate):
    victim = make_victim()
    pid = ray.get(victim.pid.remote())
    with async_adag.compile(chain(workers[0], victim, workers[1]), max_inflight=1) as compiled:
        ref = compiled.execute(gate.path)
        gate.entered()
        threads = [in_thread(ref.get), in_thread(ref.get), in_thread(compiled.execute, 1)]
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            check(thread.exception(), name_of(victim))


def leave(_):
    os._exit(3)


def fault(_):
    ctypes.string_at(0)


def exit_(_):
    sys.exit(3)


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
@pytest.mark.parametrize("ending", [leave, fault, exit_])
async def test_a_node_that_ends_its_process(workers, make_victim, ending, kind):
    victim = make_victim(kind)
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(ending, workers[0].echo.bind(x)))
    async with async_adag.compile(dag) as compiled:
        futures = [await compiled.execute_async(n) for n in range(3)]
        for n, result in enumerate(await asyncio.gather(*futures, return_exceptions=True)):
            check(result, name_of(victim), f"execution {n}")
    wait_until_dead(victim)
    await are_free(workers)


def leave_a_mark(path):
    atexit.register(Path(path).touch)
    sys.exit(3)


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
async def test_a_node_that_exits_ends_its_actor_in_an_orderly_way(workers, make_actor, tmp_path, kind):
    """Its exit is no crash: handlers run, Ray says what happened, and does not restart the actor."""
    victim = make_actor(kind, max_restarts=1)
    path = tmp_path / "left"
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(leave_a_mark, workers[0].echo.bind(x)))
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(GraphBroken):
            await compiled(str(path))
    with pytest.raises(ActorDiedError, match="a node of a compiled graph raised SystemExit"):
        ray.get(victim.pid.remote(), timeout=100)
    assert path.exists()
    await are_free(workers)


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
async def test_ray_kill(workers, make_victim, gate, kind):
    victim = make_victim(kind)
    path = gate.path
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(wait_at, x))
    async with async_adag.compile(dag) as compiled:
        held = await compiled.execute_async(path)
        gate.entered()
        ray.kill(victim)
        with pytest.raises(GraphBroken) as caught:
            await held
        check(caught.value, name_of(victim), "call", "execution 0")
    await are_free(workers)


async def test_executions_that_interleave_on_an_async_actor(workers, make_victim):
    victim = make_victim(AsyncWorker)
    pid = await victim.pid.remote()
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.wait.bind(x))
    async with async_adag.compile(dag) as compiled:
        early = await compiled.execute_async("early")
        futures = [await compiled.execute_async(f"never {n}") for n in range(5)]
        await victim.set.remote("early")
        assert await early == "early"
        os.kill(pid, signal.SIGKILL)
        for result in await asyncio.gather(*futures, return_exceptions=True):
            check(result, name_of(victim))
    await are_free(workers)


async def test_outputs_that_had_arrived_stay(workers, make_victim, gate):
    victim = make_victim()
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), victim.hold.bind(x)])
    async with async_adag.compile(dag) as compiled:
        fine, held = futures = await compiled.execute_async(gate.path)
        assert await fine == gate.path
        gate.entered()
        ray.kill(victim)
        with pytest.raises(GraphBroken):
            await futures
        with pytest.raises(GraphBroken):
            await held
        assert await fine == gate.path


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
async def test_an_actor_that_dies_while_nothing_is_in_flight(workers, make_victim, kind):
    victim = make_victim(kind)
    pid = await victim.pid.remote()
    compiled = async_adag.compile(chain(workers[0], victim, workers[1], "echo"))
    assert await compiled(1) == 1
    os.kill(pid, signal.SIGKILL)
    wait_until_dead(victim)
    with pytest.raises(GraphBroken) as caught:
        await compiled(2)
    check(caught.value, name_of(victim))
    with pytest.raises(GraphBroken):
        compiled.execute(3)
    with pytest.raises(GraphBroken) as caught:
        await anext(compiled.map([4]))
    check(caught.value, name_of(victim))
    await compiled.aclose()
    await are_free(workers)


def test_nothing_in_flight_and_nobody_awaits(workers, make_victim):
    victim = make_victim()
    pid = ray.get(victim.pid.remote())
    with async_adag.compile(chain(workers[0], victim, workers[1])) as compiled:
        assert compiled.execute(1).get() == 1
        os.kill(pid, signal.SIGKILL)
        wait_until_dead(victim)
        with pytest.raises(GraphBroken) as caught:
            compiled.execute(2).get()
        check(caught.value, name_of(victim))
        with pytest.raises(GraphBroken):
            compiled.execute(3)
    asyncio.run(are_free(workers))


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
async def test_an_actor_that_dies_while_its_graph_drains(workers, make_victim, gate, kind):
    victim = make_victim(kind)
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(wait_at, x))
    compiled = async_adag.compile(dag)
    held = await compiled.execute_async(gate.path)
    gate.entered()
    closing = asyncio.ensure_future(compiled.aclose())
    await turns()
    ray.kill(victim)
    await closing
    with pytest.raises(GraphBroken) as caught:
        await held
    check(caught.value, name_of(victim))
    await are_free(workers)


async def test_a_broken_graph_that_is_dropped_is_let_go_of(workers, make_victim, gate):
    """Though its calls have raised, and its event loop runs on: errors hold frames, and frames the graph."""
    victim = make_victim()
    compiled = async_adag.compile(chain(workers[0], victim, workers[1]), max_inflight=1)
    held = await compiled.execute_async(gate.path)
    waiting = [asyncio.ensure_future(compiled(1)), asyncio.wrap_future(in_thread(compiled.execute, 2))]
    gate.entered()
    await turns()
    ray.kill(victim)
    for awaited in (held, *waiting):
        with pytest.raises(GraphBroken):
            await awaited
    for call in (compiled, compiled.execute_async):
        with pytest.raises(GraphBroken):
            await call(3)
    with pytest.raises(GraphBroken):
        compiled.execute(4)
    gone = weakref.ref(compiled)
    del compiled, call, held, waiting, awaited

    def is_gone():
        gc.collect()
        return gone() is None

    await until(is_gone)  # the thread is to end, and callbacks of the futures are still to run


async def test_two_actors_that_die_at_once(workers, make_victim, gate):
    victims = [make_victim(), make_victim()]
    with InputNode() as x:
        dag = workers[0].echo.bind(victims[1].echo.bind(victims[0].hold.bind(x)))
    async with async_adag.compile(dag) as compiled:
        held = await compiled.execute_async(gate.path)
        gate.entered()
        for victim in victims:
            ray.kill(victim)
        with pytest.raises(GraphBroken) as caught:
            await held
        assert any(name_of(victim) in str(caught.value) for victim in victims)
    await are_free(workers)


async def test_all_graphs_of_the_actor_and_no_others(workers, make_victim, gate):
    victim = make_victim()
    with InputNode() as x:
        other = workers[1].echo.bind(workers[0].echo.bind(x))
    dags = [chain(workers[0], victim, workers[1]), chain(workers[1], victim, workers[0]), other]
    one, two, fine = (async_adag.compile(dag) for dag in dags)
    async with one, two, fine:
        futures = [await graph.execute_async(gate.path) for graph in (one, two)]
        gate.entered()
        ray.kill(victim)
        for result in await asyncio.gather(*futures, return_exceptions=True):
            check(result, name_of(victim))
        assert await fine(1) == 1
        for broken in (one, two):
            with pytest.raises(GraphBroken):
                await broken(1)
        assert await fine(2) == 2


async def test_after_teardown_a_death_changes_nothing(workers, make_victim):
    victim = make_victim()
    compiled = async_adag.compile(chain(workers[0], victim, workers[1]))
    future = await compiled.execute_async(1)
    assert await future == 1
    compiled.teardown()
    ray.kill(victim)
    assert await future == 1
    with pytest.raises(GraphClosed):
        await compiled(1)


async def test_an_actor_that_ray_restarts(workers, make_actor, gate):
    victim = make_actor(Worker, max_restarts=1)
    pid = await victim.pid.remote()
    dag = chain(workers[0], victim, workers[1])
    async with async_adag.compile(dag) as compiled:
        held = await compiled.execute_async(gate.path)
        gate.entered()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(GraphBroken):
            await held
    async with async_adag.compile(dag) as again:  # waits for the restart
        assert await again(1) == 1
    assert await victim.pid.remote() != pid


def fork_and_wait(path):
    """A child that holds every descriptor of the actor, until the gate opens."""
    if os.fork() == 0:
        wait_at(path)
        os._exit(0)


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
@pytest.mark.parametrize("way", ["await", "map"])
async def test_a_death_is_seen_though_a_forked_child_lives(workers, make_victim, make_gate, kind, way):
    victim, child, method = make_victim(kind), make_gate(), make_gate()
    pid = await victim.pid.remote()
    await victim.call.remote(fork_and_wait, child.path)
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(wait_at, x))
    async with async_adag.compile(dag) as compiled:
        await victim.call.remote(fork_and_wait, child.path)
        result = compiled(method.path) if way == "await" else anext(compiled.map([method.path]))
        held = asyncio.ensure_future(result)
        await until(lambda: compiled.stats().executions == 1)
        method.entered()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(GraphBroken) as caught:
            await held
        check(caught.value, name_of(victim), "execution 0")
    await are_free(workers)


async def test_a_child_that_a_node_forked_may_end(workers, make_victim):
    actor = make_victim()
    with InputNode() as x:
        dag = workers[0].echo.bind(actor.call.bind(fork_and_reap, x))
    async with async_adag.compile(dag) as compiled:
        assert [await compiled(n) for n in range(5)] == list(range(5))


def fork_and_reap(status):
    child = os.fork()
    if child == 0:
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def test_a_broken_graph_leaves_nothing_behind(workers, make_victim):
    async def round_():
        victim = make_victim()
        with InputNode() as x:
            dag = workers[1].echo.bind(victim.call.bind(leave, workers[0].echo.bind(x)))
        async with async_adag.compile(dag) as compiled:
            with pytest.raises(GraphBroken):
                await compiled(1)

    async def everywhere():
        stocks = [take_stock()] + [await worker.call.remote(take_stock) for worker in workers]
        return [stock.of_graphs() for stock in stocks]

    await round_()
    before = await everywhere()
    for _ in range(2):
        await round_()
    for _ in range(20):  # looks, not seconds
        left = [now - then for now, then in zip(await everywhere(), before, strict=True)]
        if not any(left):
            return
    pytest.fail(f"left behind in the driver and the survivors: {left}")
