"""Compiling: what is refused, and actors that are busy or dead."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
from functools import partial

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode
from ray.exceptions import ActorDiedError
from ray.experimental.channel.cpu_communicator import CPUCommunicator

import async_adag
from async_adag import GpuUnavailable, GraphError
from async_adag.actor.host_files import close_all
from async_adag.channels.rendezvous import meet
from async_adag.driver import meeting
from async_adag.driver.compile import _compile
from async_adag.graph.model import TensorTransport
from async_adag.graph.ray_transport import CREATE
from async_adag.options import options_from
from tests.actors import AsyncWorker, Worker, wait_until_dead
from tests.belongings import take_stock
from tests.gate import wait_at
from tests.threads import in_thread
from tests.turns import turns


def echo(actor):
    with InputNode() as x:
        return actor.echo.bind(x)


def name_of(actor) -> str:
    return f"Worker({actor._actor_id.hex()[:6]})"


@ray.remote
def task(x):
    return x


def no_input(worker):
    return worker.echo.bind(1)


def two_inputs(worker):
    with InputNode() as x, InputNode() as y:
        return worker.join.bind(x, y)


def the_input_alone(worker):
    with InputNode() as x:
        return x


def a_task(worker):
    with InputNode() as x:
        return worker.echo.bind(task.bind(x))


def an_actor_to_be(worker):
    with InputNode() as x:
        return Worker.bind().echo.bind(x)


class Box:
    def __init__(self, content):
        self.content = content


def a_node_in_an_object(worker):
    with InputNode() as x:
        return worker.join.bind(x, Box(worker.echo.bind(x)))


def a_node_in_a_set(worker):
    with InputNode() as x:
        return worker.join.bind(x, {worker.echo.bind(x)})


def a_node_as_a_key(worker):
    with InputNode() as x:
        return worker.join.bind(x, {worker.echo.bind(x): 1})


def whole_and_by_part(worker):
    with InputNode() as x:
        return worker.join.bind(x, x[0])


def nothing_but_the_input_as_output(worker):
    with InputNode() as x:
        return MultiOutputNode([x])


def an_end_inside(worker):
    with InputNode() as x:
        return MultiOutputNode([MultiOutputNode([worker.echo.bind(x)])])


def no_outputs(worker):
    return MultiOutputNode([])


REFUSED = {
    no_input: "InputNode",
    two_inputs: "two InputNodes",
    the_input_alone: "input alone",
    a_task: "task",
    an_actor_to_be: "actor",
    a_node_in_an_object: r"join on Worker\(\w{6}\) takes echo on Worker\(\w{6}\) inside an object",
    a_node_in_a_set: "inside an object",
    a_node_as_a_key: "inside an object",
    whole_and_by_part: "whole and by part",
    nothing_but_the_input_as_output: "no actor method",
    an_end_inside: "can only be the end",
    no_outputs: "no actor method",
}


@pytest.mark.parametrize("build", REFUSED)
async def test_dags_that_cannot_be_compiled(worker, build):
    for compiling in (async_adag.compile, async_adag.compile_async):
        with pytest.raises(GraphError, match=REFUSED[build]) as caught:
            await compiling(build(worker))
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [None, 5, "dag", len])
def test_what_is_no_dag(cluster, value):
    with pytest.raises(GraphError, match="DAG"):
        async_adag.compile(value)


def test_a_method_that_is_not_there(worker):
    with InputNode() as x, pytest.raises(AttributeError, match="missing"):
        worker.missing.bind(x)


def test_gpu_transport_without_a_gpu(workers):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport("nccl"))
    with pytest.raises(GpuUnavailable, match=r"async-adag\[gpu\]") as caught:
        async_adag.compile(dag)
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize(
    ("asked", "understood"),
    [
        ({}, TensorTransport("auto")),
        ({"transport": "shm", "device": "cpu"}, TensorTransport("shm", "cpu")),
        ({"transport": "accelerator", "_static_shape": True}, TensorTransport("accelerator", static_shape=True)),
        ({"transport": "nccl", "_direct_return": True}, TensorTransport("accelerator", direct_return=True)),
        ({"device": "cuda"}, TensorTransport("auto", "gpu")),
        ({"transport": "shm", "device": "gpu"}, TensorTransport("shm", "gpu")),
        ({"transport": CPUCommunicator(2, [])}, TensorTransport("shm")),
    ],
)
def test_tensor_transports(workers, asked, understood):
    """They reach the plan. Without a GPU those that need none run, the others need device="cpu"."""
    with InputNode() as x:
        dag = workers[1].add.bind(workers[0].echo.bind(x).with_tensor_transport(**asked))
    options = {"device": "cpu"} if understood.needs_gpu() else {}
    if options:
        with pytest.raises(GpuUnavailable, match="echo on Worker"):
            async_adag.compile(dag)
    with async_adag.compile(dag, **options) as compiled:
        assert [node.transports for node in compiled._engine.plan.graph.nodes] == [(understood,), ()]
        assert compiled.execute(np.arange(2)).get().tolist() == [1, 2]


def test_an_input_by_accelerator(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x.with_tensor_transport("nccl"))
    with pytest.raises(GraphError, match="the input asks for accelerator transport"):
        async_adag.compile(dag)


async def test_compile_async(worker):
    async with await async_adag.compile_async(echo(worker), max_inflight=4) as compiled:
        assert await compiled(1) == 1


async def test_a_context_manager_gives_the_graph(worker):
    compiled = async_adag.compile(echo(worker))
    async with compiled as entered:
        assert entered is compiled
    with async_adag.compile(echo(worker)) as entered:
        assert isinstance(entered, async_adag.CompiledGraph)


def test_a_busy_actor(workers, gate):
    """It is named, the others are let go, and all can be compiled when it is free."""
    with InputNode() as x:
        dag = workers[2].add.bind(workers[1].add.bind(workers[0].add.bind(x)))
    async_adag.compile(dag).teardown()  # the actors have started, and imported what it takes
    busy = workers[1].hold.remote(gate.path)
    gate.entered()
    with pytest.raises(GraphError, match=r"compile_timeout=0\.5") as caught:
        async_adag.compile(dag, compile_timeout=0.5)
    message = str(caught.value)
    assert f"{name_of(workers[1])} (for add" in message
    assert name_of(workers[0]) not in message
    assert ray.get(workers[0].echo.remote(1)) == 1
    gate.open("free")
    assert ray.get(busy) == "free"
    assert ray.get(workers[1].echo.remote(1)) == 1
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(0).get() == 3


@pytest.mark.parametrize("timeout", [1e7, 1e12])
def test_a_compile_timeout_longer_than_sockets_count(worker, timeout):
    with async_adag.compile(echo(worker), compile_timeout=timeout) as compiled:
        assert compiled.execute(1).get() == 1


def test_questions_before_the_actors_are_met_take_of_the_same_time(worker, monkeypatch):
    def slow(graph, inquiry):
        inquiry.deadline = 0.0  # as if they had taken all there was
        return graph

    monkeypatch.setattr("async_adag.driver.compile.find_gpus", slow)
    with pytest.raises(GraphError, match=r"no answer within compile_timeout=30 s from .* \(for echo"):
        async_adag.compile(echo(worker), compile_timeout=30)
    monkeypatch.undo()
    with async_adag.compile(echo(worker)) as compiled:
        assert compiled.execute(1).get() == 1


def test_an_async_actor_whose_loop_stands_still(workers, async_worker, gate):
    with InputNode() as x:
        dag = async_worker.echo.bind(workers[0].echo.bind(x))
    async_adag.compile(dag).teardown()
    busy = async_worker.call.remote(wait_at, gate.path)
    gate.entered()
    with pytest.raises(GraphError, match=r"compile_timeout=0\.5") as caught:
        async_adag.compile(dag, compile_timeout=0.5)
    assert f"AsyncWorker({async_worker._actor_id.hex()[:6]}) (for echo" in str(caught.value)
    gate.open("free")
    assert ray.get(busy) == "free"
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == 1


def test_an_actor_that_is_busy_for_a_while_is_waited_for(worker, gate):
    busy = worker.hold.remote(gate.path)
    gate.entered()
    compiling = in_thread(async_adag.compile, echo(worker))
    gate.open("done")
    with compiling.result() as compiled:
        assert compiled.execute(1).get() == 1
    assert ray.get(busy) == "done"


async def test_compile_async_keeps_the_loop_free(worker, gate):
    busy = worker.hold.remote(gate.path)
    gate.entered()
    compiling = asyncio.ensure_future(async_adag.compile_async(echo(worker)))
    await turns(100)
    assert not compiling.done()
    gate.open()
    async with await compiling as compiled:
        assert await compiled(1) == 1
    await busy


async def test_compile_async_can_be_cancelled(worker, gate):
    busy = worker.hold.remote(gate.path)
    gate.entered()
    compiling = asyncio.ensure_future(async_adag.compile_async(echo(worker)))
    await turns(100)
    compiling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await compiling
    gate.open()
    await busy
    async with await async_adag.compile_async(echo(worker)) as compiled:
        assert await compiled(1) == 1


def hang_up_and_stay(path, _, __, address, share, timeout):
    """Runs in an actor in place of `install`: comes in, hangs up, and gives no answer until it is let go on."""
    told = pickle.loads(share)
    connection, fds = meet(address, told.plan.actor, 2 + told.wiring.count(), timeout)
    connection.close()
    close_all(fds)
    wait_at(path)


@pytest.mark.one_host(reason="what takes the place of `install` meets the driver as its own host does")
def test_compiling_can_be_given_up_while_an_actor_that_hung_up_has_not_answered(worker, gate, monkeypatch):
    """As Ctrl-C does: Ray may need long to find out what has become of it."""
    monkeypatch.setattr(meeting, "install", partial(hang_up_and_stay, gate.path))
    given_up = threading.Event()
    options = options_from({"compile_timeout": 1000})
    compiling = in_thread(_compile, echo(worker), options, CREATE, given_up.is_set)
    gate.entered()
    given_up.set()
    with pytest.raises(meeting.Cancelled):
        compiling.result()
    gate.open()


async def test_compile_async_times_out(worker, gate):
    busy = worker.hold.remote(gate.path)
    gate.entered()
    with pytest.raises(GraphError, match=name_of(worker).replace("(", r"\(").replace(")", r"\)")):
        await async_adag.compile_async(echo(worker), compile_timeout=0.2)
    gate.open()
    await busy


def test_a_dead_actor(workers, make_actor):
    dead = make_actor()
    ray.get(dead.pid.remote())
    ray.kill(dead)
    wait_until_dead(dead)
    with InputNode() as x:
        dag = workers[0].add.bind(dead.add.bind(x))
    with pytest.raises(GraphError) as caught:
        async_adag.compile(dag)
    assert isinstance(caught.value, ActorDiedError)
    assert isinstance(caught.value, ValueError)
    assert name_of(dead) in str(caught.value)
    assert "add" in str(caught.value)
    with async_adag.compile(echo(workers[0])) as compiled:
        assert compiled.execute(1).get() == 1


@ray.remote(num_cpus=0)
class StillBorn:
    def __init__(self):
        raise LookupError("no model in\nthis folder")

    def run(self, x):
        return x


def test_an_actor_that_could_not_be_made(workers, make_actor):
    with InputNode() as x:
        dag = workers[0].add.bind(make_actor(StillBorn).run.bind(x))
    with pytest.raises(GraphError, match=r"StillBorn.*its __init__ raised .*this folder") as caught:
        async_adag.compile(dag)
    assert isinstance(caught.value, ActorDiedError)


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
def test_an_actor_that_dies_while_its_graph_is_compiled(workers, make_actor, gate, kind):
    dying = make_actor(kind)
    busy = dying.call.remote(wait_at, gate.path)
    gate.entered()
    with InputNode() as x:
        dag = workers[0].add.bind(dying.echo.bind(x))
    compiling = in_thread(async_adag.compile, dag)
    ray.kill(dying)
    error = compiling.exception()
    assert isinstance(error, GraphError)
    assert isinstance(error, ActorDiedError)
    with pytest.raises(ActorDiedError):
        ray.get(busy)
    with async_adag.compile(echo(workers[0])) as compiled:
        assert compiled.execute(1).get() == 1


@pytest.mark.one_host(reason="all are asked first where they live")
def test_an_actor_that_dies_while_others_are_waited_for(workers, make_actor, gate):
    """Its loop runs already, and Ray knows of no call of it that failed."""
    ready = make_actor()
    pid = ray.get(ready.pid.remote())
    busy = workers[0].hold.remote(gate.path)
    gate.entered()
    with InputNode() as x:
        dag = workers[0].add.bind(ready.add.bind(x))
    compiling = in_thread(async_adag.compile, dag)
    while not ray.get(ready.call.remote(take_stock)).of_graphs():
        pass
    os.kill(pid, signal.SIGKILL)
    error = compiling.exception()
    assert isinstance(error, GraphError)
    assert isinstance(error, ActorDiedError)
    assert name_of(ready) in str(error)
    gate.open()
    ray.get(busy)
    with async_adag.compile(echo(workers[0])) as compiled:
        assert compiled.execute(1).get() == 1


def test_an_actor_that_is_not_there_yet(make_actor):
    with async_adag.compile(echo(make_actor())) as compiled:
        assert compiled.execute(1).get() == 1


def test_actors_with_another_version_of_the_package(worker, monkeypatch):
    monkeypatch.setattr("async_adag.driver.meeting.__version__", "0.0.1")
    with pytest.raises(GraphError, match=r"0\.0\.1") as caught:
        async_adag.compile(echo(worker))
    assert async_adag.__version__ in str(caught.value)
    assert "runtime_env" in str(caught.value)


@pytest.mark.parametrize("version", ["2.9.0", "3.0.0"])
def test_a_ray_that_was_not_tested(worker, monkeypatch, version):
    monkeypatch.setattr(ray, "__version__", version)
    with pytest.raises(GraphError, match=version):
        async_adag.compile(echo(worker))


def test_another_system(worker, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(GraphError, match="Linux"):
        async_adag.compile(echo(worker))
