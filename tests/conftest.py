"""Both event loops for every test that awaits; one Ray, and the actors that tests share."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import ray
import uvloop
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

from async_adag.driver import meeting
from async_adag.protocol import ring
from tests.actors import AsyncWorker, Worker
from tests.belongings import take_stock
from tests.gate import Gate
from tests.nodes import several_nodes, spread

COMPILED = not ring.__file__.endswith(".py")
LIMIT = 100  # seconds that a test may await
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    return LOOPS


def pytest_addoption(parser):
    parser.addoption(
        "--hosts", type=int, default=1, help="Ray nodes over which actors are spread, each as a host of its own"
    )


def pytest_collection_modifyitems(config, items):
    """Limits tests that await: the signal of pytest-timeout does not get through to a uvloop that sleeps."""
    several = config.getoption("--hosts") > 1
    for item in items:
        if several and (mark := item.get_closest_marker("one_host")) is not None:
            item.add_marker(pytest.mark.skip(reason=f"on one host only: {mark.kwargs['reason']}"))
        if COMPILED and (mark := item.get_closest_marker("interpreted")) is not None:
            item.add_marker(pytest.mark.skip(reason=f"not where the package is compiled: {mark.kwargs['reason']}"))
        if inspect.iscoroutinefunction(item.obj):
            item.obj = limited(item.obj)


def pytest_collection_finish():
    """What is there by now stays: the collections that tests ask for need not look through it each time."""
    gc.collect()
    gc.freeze()


def limited(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(LIMIT):
            await test(*args, **kwargs)

    return run


@pytest.fixture(scope="session")
def nodes(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A Ray on this machine, of which there may be more nodes for a while: see tests/hosts."""
    hosts = request.config.getoption("--hosts")
    with several_nodes(hosts, namespace="tests", log_to_driver=False, logging_level="error") as cluster:
        here = ray.get_runtime_context().get_node_id()
        places = sorted((node["NodeID"] for node in ray.nodes()), key=lambda node: node == here)
        with spread(places) if hosts > 1 else nullcontext():
            yield cluster


@pytest.fixture(scope="session")
def cluster(nodes: Cluster) -> str:
    """The address at which other drivers find that Ray."""
    return str(nodes.address)


@pytest.fixture(scope="session")
def pool(cluster: str) -> list[Any]:
    """Three synchronous actors and an asynchronous one."""
    return [Worker.remote(), Worker.remote(), Worker.remote(), AsyncWorker.remote()]


@pytest.fixture(scope="module")
def free_pool(pool: list[Any]) -> list[Any]:
    """The pool, with a new actor in place of each that another module has left dead, busy or in a graph."""
    gc.collect()  # graphs that tests dropped
    for number, actor in enumerate(pool):
        if not is_free(actor):
            ray.kill(actor)
            pool[number] = (AsyncWorker if number == 3 else Worker).remote()
    return list(pool)


def is_free(actor: Any) -> bool:
    """Whether it answers, and no graph is in it, or will be gone within a few looks."""
    try:
        return any(not ray.get(actor.call.remote(take_stock), timeout=5).of_graphs() for _ in range(100))
    except RayError:
        return False


@pytest.fixture(scope="module")
def workers(free_pool: list[Any]) -> list[Any]:
    """Three synchronous actors."""
    return free_pool[:3]


@pytest.fixture
def worker(workers: list[Any]) -> Any:
    return workers[0]


@pytest.fixture(scope="module")
def async_worker(free_pool: list[Any]) -> Any:
    """An asynchronous actor."""
    return free_pool[3]


@pytest.fixture
def make_actor(cluster: str) -> Iterator[Callable[..., Any]]:
    """Makes actors for a test that harms them."""
    made = []

    def make(actor_class: Any = Worker, *args: Any, **options: Any) -> Any:
        actor = actor_class.options(**options).remote(*args)
        made.append(actor)
        return actor

    yield make
    for actor in made:
        ray.kill(actor)


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    """Makes gates, and opens them at the end, so that no actor is left waiting."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(tmp_path / f"gate{len(made)}"))
        return made[-1]

    yield make
    for gate in made:
        gate.force()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    return make_gate()


@pytest.fixture
def crosswise(monkeypatch):
    """Two compiles go on from the first actor that they have called to the next only when both have called one."""
    both = threading.Barrier(2, timeout=100)
    plain = meeting.call_in_actor
    seen = set()

    def call_in_actor(*args):
        made = plain(*args)
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            both.wait()
        return made

    monkeypatch.setattr(meeting, "call_in_actor", call_in_actor)
