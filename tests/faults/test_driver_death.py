"""A driver dies: its loops leave the actors, which others can use at once."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
import ray
from ray.dag import InputNode

import async_adag
from tests.actors import AsyncWorker, Worker
from tests.belongings import take_stock
from tests.scripts import start, wait_until_ready

COMPILE = """
first, second = (ray.get_actor(name) for name in sys.argv[2:4])
with InputNode() as x:
    dag = second.call.bind(first.call.bind(x))
compiled = async_adag.compile(dag)
"""

IDLE = """
compiled.execute(lambda: int).get()
print("ready", flush=True)
threading.Event().wait()
"""

HOLDING = """
path = sys.argv[4]
def hold():
    with open(path) as gate:
        gate.read()
    return int
ref = compiled.execute(hold)
print("ready", flush=True)
threading.Event().wait()
"""

AWAITING = """
path = sys.argv[4]
def hold():
    with open(path) as gate:
        gate.read()
    return int
async def main():
    future = await compiled.execute_async(hold)
    print("ready", flush=True)
    await future
asyncio.run(main())
"""


MAPPING = """
path = sys.argv[4]
def hold():
    with open(path) as gate:
        gate.read()
    return int
async def main():
    print("ready", flush=True)
    async for _ in compiled.map([hold] * 5):
        pass
asyncio.run(main())
"""

DETACHED = """
from tests.actors import AsyncWorker, Worker
kinds = (Worker, AsyncWorker)
for kind, name in zip(kinds, sys.argv[2:4]):
    kind.options(name=name, lifetime="detached").remote()
"""

QUEUED = """
path = sys.argv[4]
def hold():
    with open(path) as gate:
        gate.read()
    return int
def mark():
    with open(path + " was not alone", "w"):
        return int
refs = [compiled.execute(function) for function in (hold, mark, mark)]
print("ready", flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def actors(cluster):
    """Two named actors, an asynchronous one second."""
    names = ["first", "second"]
    actors = [kind.options(name=name).remote() for kind, name in zip((Worker, AsyncWorker), names, strict=True)]
    ray.get([actor.pid.remote() for actor in actors])
    yield actors, names
    for actor in actors:
        ray.kill(actor)


def held(actors) -> list[Counter[str]]:
    return [stock.of_graphs() for stock in ray.get([actor.call.remote(take_stock) for actor in actors])]


def leave(actors) -> None:
    """The loops have left the actors, or leave them within a bounded number of looks."""
    for _ in range(300):
        left = held(actors)
        if not any(left):
            return
    pytest.fail(f"still in the actors: {left}")


def are_free(actors) -> None:
    with InputNode() as x:
        dag = actors[1].echo.bind(actors[0].echo.bind(x))
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == 1


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_an_idle_driver(cluster, actors, signal_):
    actors, names = actors
    driver = start(cluster, COMPILE, IDLE, args=names)
    wait_until_ready(driver)
    assert all(held(actors)), "the loops should be there"
    os.kill(driver.pid, signal_)
    driver.communicate()
    leave(actors)
    are_free(actors)


@pytest.mark.parametrize("doing", [HOLDING, AWAITING, MAPPING], ids=["blocking", "awaiting", "map"])
def test_a_driver_with_executions_in_flight(cluster, actors, gate, doing):
    """The method that runs comes to its end; nothing else of that graph does."""
    actors, names = actors
    driver = start(cluster, COMPILE, doing, args=[*names, gate.path])
    wait_until_ready(driver)
    gate.entered()
    driver.kill()
    driver.communicate()
    gate.open()
    leave(actors)
    are_free(actors)


def test_detached_actors_of_a_driver_that_is_killed(cluster, gate):
    """They outlive who made them, and are free."""
    names = ["detached first", "detached second"]
    driver = start(cluster, DETACHED, COMPILE, HOLDING, args=[*names, gate.path])
    wait_until_ready(driver)
    actors = [ray.get_actor(name) for name in names]
    try:
        gate.entered()
        driver.kill()
        driver.communicate()
        gate.open()
        leave(actors)
        are_free(actors)
    finally:
        for actor in actors:
            ray.kill(actor)


def test_executions_that_were_queued_do_not_begin(cluster, actors, gate):
    actors, names = actors
    driver = start(cluster, COMPILE, QUEUED, args=[*names, gate.path])
    wait_until_ready(driver)
    gate.entered()
    driver.kill()
    driver.communicate()
    gate.open()
    leave(actors)
    assert not os.path.exists(f"{gate.path} was not alone")


def test_others_go_on_beside_it(cluster, actors):
    actors, names = actors
    with InputNode() as x:
        dag = actors[1].echo.bind(actors[0].echo.bind(x))
    with async_adag.compile(dag) as compiled:
        mine = held(actors)
        driver = start(cluster, COMPILE, IDLE, args=names)
        wait_until_ready(driver)
        driver.kill()
        driver.communicate()
        assert [compiled.execute(n).get() for n in range(100)] == list(range(100))
        for _ in range(300):
            if held(actors) == mine:
                break
        else:
            pytest.fail("the dead driver's loops are still there")
        assert compiled.execute(5).get() == 5
    leave(actors)
