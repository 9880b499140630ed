"""Edges whose tensors a user's communicator carries, between real actors."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode
from ray.experimental.channel.cpu_communicator import CPUCommunicator

import async_adag
from async_adag import ExecutionTimeout, GpuUnavailable, GraphBroken, GraphError
from async_adag.collectives import allreduce
from tests.communicators import ByPipes, log_of
from tests.gate import wait_at
from tests.threads import in_thread

LARGE = 1 << 17  # numbers


@pytest.fixture
def pipes(workers, tmp_path):
    """A communicator of the three workers."""
    return ByPipes(workers, tmp_path)


def total(array):
    return float(array.sum())


def ramp(size):
    if size < 0:
        raise LookupError(f"no array of {size}")
    return np.arange(float(size))


async def test_tensors_of_a_chain_go_by_the_communicator_alone(workers, pipes, tmp_path):
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(pipes)
        doubled = workers[1].add.bind(made, made).with_tensor_transport(transport=pipes)
        dag = workers[2].call.bind(total, doubled)
    async with async_adag.compile(dag) as compiled:
        for _ in range(3):
            assert await compiled(LARGE) == LARGE * (LARGE - 1)
        assert compiled.stats().bytes < 10_000, "of frames: the tensors were not in them"
        assert "tensors by ByPipes, the rest by shared memory ring" in compiled.visualize()
    size = 8 * LARGE
    assert sorted(log_of(tmp_path, "send")) == 3 * [("send", 0, 1, size)] + 3 * [("send", 1, 2, size)]
    assert sorted(log_of(tmp_path, "recv")) == 3 * [("recv", 0, 1, size)] + 3 * [("recv", 1, 2, size)]


async def test_a_fan_out_to_actors_and_the_driver(workers, pipes, tmp_path):
    with InputNode() as x:
        made = workers[1].call.bind(ramp, x).with_tensor_transport(pipes)
        dag = MultiOutputNode([made, *(worker.add.bind(made) for worker in workers)])
    async with async_adag.compile(dag) as compiled:
        results = await compiled(5)
    for result, expected in zip(results, (ramp(5), *[ramp(5) + 1] * 3), strict=True):
        np.testing.assert_array_equal(result, expected)
    # The driver is no rank, and within an actor nothing is sent.
    assert sorted(log_of(tmp_path, "send")) == [("send", 1, 0, 40), ("send", 1, 2, 40)]


async def test_edges_that_cross_with_several_executions_in_flight(workers, pipes):
    """Each of two actors takes what the other sends, in another order than it is sent."""
    one, two = workers[:2]
    with InputNode() as x:
        a = one.call.bind(ramp, x).with_tensor_transport(pipes)
        b = two.call.bind(ramp, x).with_tensor_transport(pipes)
        c = one.add.bind(a).with_tensor_transport(pipes)
        d = two.add.bind(b, 2).with_tensor_transport(pipes)
        first = one.join.bind(d, b)
        second = two.join.bind(c, a)
        third = one.join.bind(b, d, second)
        dag = MultiOutputNode([first, second, third])
    async with async_adag.compile(dag, max_inflight=4) as compiled:
        async for (d, b), (c, a), (again, _, both) in compiled.map(range(1, 40), window=4):
            np.testing.assert_array_equal(b, a)
            np.testing.assert_array_equal(c, a + 1)
            np.testing.assert_array_equal(d, a + 2)
            np.testing.assert_array_equal(again, b)
            np.testing.assert_array_equal(both[0], c)


async def test_a_node_that_fails_sends_nothing_and_the_graph_goes_on(workers, pipes, tmp_path):
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(pipes)
        dag = workers[2].call.bind(total, workers[1].add.bind(made).with_tensor_transport(pipes))
    async with async_adag.compile(dag) as compiled:
        for _ in range(2):
            assert await compiled(4) == 10
            with pytest.raises(LookupError, match="no array of -1"):
                await compiled(-1)
        assert await compiled(4) == 10
    assert log_of(tmp_path, "send") == 3 * [("send", 0, 1, 32), ("send", 1, 2, 32)]


def not_to_be_pickled(size):
    return [ramp(size), (one for one in range(size))]


async def test_a_result_that_cannot_be_pickled_is_not_sent(workers, pipes, tmp_path):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].call.bind(not_to_be_pickled, x).with_tensor_transport(pipes))
    async with async_adag.compile(dag) as compiled:
        for _ in range(2):
            with pytest.raises(TypeError, match="pickle"):
                await compiled(4)
    assert log_of(tmp_path, "send") == []


class Unreadable:
    """Fails where it is unpickled."""

    def __reduce__(self):
        return int, ("no number",)


def not_to_be_unpickled(size):
    return [ramp(size), Unreadable()] if size % 2 else [ramp(size)]


async def test_a_result_that_cannot_be_unpickled_fails_its_execution_only(workers, pipes, tmp_path):
    """Its tensors are received all the same: the next ones are the next execution's."""
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].call.bind(not_to_be_unpickled, x).with_tensor_transport(pipes))
    async with async_adag.compile(dag) as compiled:
        for size in (2, 4):
            with pytest.raises(ValueError, match="no number"):
                await compiled(size + 1)
            np.testing.assert_array_equal((await compiled(size))[0], ramp(size))
    assert [size for *_, size in log_of(tmp_path, "recv")] == [24, 16, 40, 32]


class Box:
    def __init__(self, content):
        self.content = content


def mixed(ref):
    array = np.arange(6.0).reshape(2, 3)
    return {
        "same": [array, Box(array)],
        "transposed": array.T,
        "strided": array[:, ::2],
        "scalar": np.array(7),
        "number": np.float32(8),
        "empty": np.empty((0, 4), np.int8),
        "objects": np.array([array, None], dtype=object),
        "words": np.array(["a", "bc"]),
        "records": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "masked": np.ma.masked_array([1, 2], [False, True]),
        "swapped": np.arange(3, dtype=">i4"),
        "ref": ref[0],
        "bytes": b"some",
    }


def check_mixed(value):
    expected = mixed([None])
    assert value["same"][0] is value["same"][1].content, "what occurs twice is one"
    assert value["objects"][0] is value["same"][0]
    for key in ("transposed", "strided", "scalar", "empty", "words", "records", "swapped"):
        got, array = value[key], expected[key]
        assert (type(got), got.dtype, got.shape) == (np.ndarray, array.dtype, array.shape), key
        np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(value["same"][0], expected["same"][0])
    assert value["masked"].mask.tolist() == [False, True]
    assert type(value["number"]) is np.float32
    value["same"][0][0, 0] = 5  # it is the reader's own
    return ray.get(value["ref"]), value["bytes"]


async def test_arrays_inside_anything(workers, pipes, tmp_path):
    """Each array of numbers once, unless it is empty; whatever else there is travels in the frame."""
    with InputNode() as x:
        sent = workers[0].call.bind(mixed, x).with_tensor_transport(pipes)
        dag = workers[1].call.bind(check_mixed, sent)
    async with async_adag.compile(dag) as compiled:
        for number in range(2):
            assert await compiled([ray.put(number)]) == (number, b"some")
    sizes = sorted(size for *_, size in log_of(tmp_path, "send"))
    assert sizes == sorted(2 * [48, 48, 32, 8, 12])


async def test_values_without_tensors_go_by_frames_alone(workers, pipes, tmp_path):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport(pipes))
    async with async_adag.compile(dag) as compiled:
        for value in (None, 3, "text", b"bytes", 2.5, [], {"a": (1, [2])}, "x" * 100_000, np.float64(3)):
            result = await compiled(value)
            assert (type(result), result) == (type(value), value)
    assert log_of(tmp_path, "send") == []


def pair(size):
    return ramp(size), -ramp(size)


async def test_a_hint_at_one_of_several_results(workers, pipes, tmp_path):
    with InputNode() as x:
        first, second = workers[0].split.bind(x)
        dag = workers[1].join.bind(first, second.with_tensor_transport(pipes))
    async with async_adag.compile(dag) as compiled:
        for got, expected in zip(await compiled(ramp(3)), pair(3), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert log_of(tmp_path, "send") == [("send", 0, 1, 24)]


async def test_one_communicator_for_edges_and_an_operation(workers, pipes, tmp_path):
    """It is initialized once by each of its actors, also by one that sends nothing, and destroyed at the end."""
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(pipes)
        parts = [made, workers[1].add.bind(made), workers[2].call.bind(ramp, x)]
        sums = allreduce.bind(parts, transport=pipes)
        dag = MultiOutputNode([workers[1].join.bind(made, sums[1]), sums[0]])
    async with async_adag.compile(dag) as compiled:
        for _ in range(3):
            (own, both), other = await compiled(4)
            np.testing.assert_array_equal(own, ramp(4))
            np.testing.assert_array_equal(both, 3 * ramp(4) + 1)
            np.testing.assert_array_equal(other, both)
        ranks = [0, 1, 2]
        assert sorted(log_of(tmp_path, "initialize")) == [("initialize", rank) for rank in ranks]
        assert log_of(tmp_path, "destroy") == []
    assert sorted(log_of(tmp_path, "destroy")) == [("destroy", rank) for rank in ranks]


async def test_an_actor_that_is_a_rank_and_moves_nothing_starts_it_too(workers, pipes, tmp_path):
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(pipes)
        dag = MultiOutputNode([workers[1].call.bind(total, made), workers[2].echo.bind(x)])
    async with async_adag.compile(dag) as compiled:
        assert await compiled(4) == [6, 4]
    assert sorted(log_of(tmp_path, "initialize")) == [("initialize", rank) for rank in range(3)]


async def test_operations_and_edges_of_several_handles_of_an_actor(workers, pipes, make_actor, tmp_path):
    """Between the parts of an operation no other transfer has its place, however nodes were bound."""
    name = f"twice-{tmp_path.name}"
    make_actor(name=name)
    first, second = ray.get_actor(name), ray.get_actor(name)
    other = workers[0]
    both = ByPipes([first, other], tmp_path)
    with InputNode() as x:
        one = allreduce.bind([first.echo.bind(x), other.echo.bind(x)], transport=both)
        made = second.add.bind(x).with_tensor_transport(both)
        two = allreduce.bind([second.echo.bind(x), other.add.bind(made)], transport=both)
        dag = MultiOutputNode([other.join.bind(made, one[1], two[1]), two[0], one[0]])
    async with async_adag.compile(dag) as compiled:
        for _ in range(3):
            (made, one, two), *_ = await compiled(ramp(3))
            np.testing.assert_array_equal(made, ramp(3) + 1)
            np.testing.assert_array_equal(one, 2 * ramp(3))
            np.testing.assert_array_equal(two, 2 * ramp(3) + 2)


# -- when it fails


class Failing(ByPipes):
    """Fails at one end, or gives something else than was sent."""

    def __init__(self, actors, folder, how):
        super().__init__(actors, folder)
        self.how = how

    def send(self, value, peer_rank):
        if self.how == "send":
            raise OSError("no network")
        super().send(value, peer_rank)

    def recv(self, shape, dtype, peer_rank, allocator=None):
        value = super().recv(shape, dtype, peer_rank, allocator)
        if self.how == "recv":
            raise OSError("no network")
        return value.astype("f4") if self.how == "dtype" else value[1:] if self.how == "shape" else value.tolist()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("send", r"Failing\.send raised OSError: no network"),
        ("recv", r"Failing\.recv raised OSError: no network"),
        ("dtype", r"recv gave float32 of shape \(4,\) in place of float64 of shape \(4,\)"),
        ("shape", r"recv gave float64 of shape \(3,\) in place of float64 of shape \(4,\)"),
        ("nothing", r"recv gave list in place of a tensor of numpy"),
    ],
)
async def test_a_communicator_that_fails_breaks_the_graph(workers, tmp_path, how, words):
    transport = Failing(workers, tmp_path, how)
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(transport)
        dag = workers[1].call.bind(total, made)
    compiled = async_adag.compile(dag)
    assert await compiled(0) == 0, "nothing to be sent"
    # Those behind the first may come too late to be admitted: that is the same error.
    for error in await asyncio.gather(*(compiled(4) for _ in range(3)), return_exceptions=True):
        assert isinstance(error, GraphBroken)
        assert re.search(words, str(error)), str(error)
        assert re.search(r"the edge from call on Worker\(\w{6}\) to Worker\(\w{6}\)", str(error)), str(error)
    with pytest.raises(GraphBroken):
        await compiled(4)
    compiled.teardown()
    with InputNode() as x:
        again = workers[1].call.bind(total, workers[0].call.bind(ramp, x))
    async with async_adag.compile(again) as compiled:
        assert await compiled(4) == 6


async def left_by(workers):
    """Wait until no thread of a graph is in these actors."""
    for worker in workers:
        while any("adag" in name for name in await worker.threads.remote()):
            pass


class Gated(ByPipes):
    """Stands at a gate before it sends."""

    def __init__(self, actors, folder, gate):
        super().__init__(actors, folder)
        self.gate = gate

    def send(self, value, peer_rank):
        wait_at(self.gate)
        super().send(value, peer_rank)


def test_a_wait_inside_a_communicator_is_told(workers, tmp_path, gate):
    transport = Gated(workers, tmp_path, gate.path)
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(transport)
        dag = workers[1].call.bind(total, made)
    with async_adag.compile(dag) as compiled:
        ref = compiled.execute(4)
        gate.entered()
        with pytest.raises(ExecutionTimeout, match=r"Worker\(\w{6}\): sending tensors by a communicator since"):
            ref.get(timeout=0.01)
        gate.open()
        assert ref.get() == 6


class Meets(ByPipes):
    """Its ranks wait for one another before they are ready."""

    def __init__(self, actors, folder):
        super().__init__(actors, folder)
        os.mkfifo(folder / "hello")

    def initialize(self, rank):
        super().initialize(rank)
        with (Path(self.folder) / "hello").open("r" if rank else "w"):
            pass


async def test_two_compiles_at_once_whose_ranks_wait_for_one_another(make_actor, tmp_path, crosswise):
    """They name the actors in opposite order, and so do their communicators."""
    actors = [make_actor(), make_actor()]
    ray.get([actor.pid.remote() for actor in actors])  # they are there, however long that takes
    dags = []
    for number, (first, second) in enumerate((actors, actors[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        with InputNode() as x:
            made = first.call.bind(ramp, x).with_tensor_transport(Meets([first, second], folder))
            dags.append(second.call.bind(total, made))
    graphs = await asyncio.gather(*(async_adag.compile_async(dag, compile_timeout=100) for dag in dags))
    assert [await graph(4) for graph in graphs] == [6, 6]
    for graph in graphs:
        await graph.aclose()


async def test_a_peer_that_dies_breaks_the_graph_and_frees_who_waits_for_it(workers, make_actor, tmp_path, gate):
    """The reader is inside recv, where it cannot be told to end: destroying the communicator lets it go."""
    victim = make_actor()
    pid = await victim.pid.remote()
    transport = Gated([victim, workers[0]], tmp_path, gate.path)
    with InputNode() as x:
        made = victim.call.bind(ramp, x).with_tensor_transport(transport)
        dag = workers[0].call.bind(total, made)
    compiled = async_adag.compile(dag)
    future = await compiled.execute_async(4)
    gate.entered()
    while "sending tensors" not in compiled._engine.describe_computing():
        pass  # an actor on another host tells of it in its own time
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(
        GraphBroken, match=r"the process of Worker\(\w{6}\) died, while it sent tensors of call on"
    ):
        await future
    compiled.teardown()
    await left_by(workers[:1])
    assert log_of(tmp_path, "destroy") == [("destroy", 1)]
    with InputNode() as x:
        dag = workers[0].call.bind(ramp, x)
    async with async_adag.compile(dag) as compiled:
        assert len(await compiled(4)) == 4


async def test_teardown_in_the_middle_of_a_transfer(workers, tmp_path, gate):
    transport = Gated(workers[:2], tmp_path, gate.path)
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(transport)
        dag = workers[1].call.bind(total, made)
    compiled = async_adag.compile(dag)
    await compiled.execute_async(4)
    gate.entered()
    compiled.teardown()
    gate.open()
    await left_by(workers[:2])
    assert sorted(log_of(tmp_path, "destroy")) == [("destroy", 0), ("destroy", 1)]


# -- what is refused


def test_a_communicator_without_the_writer_or_a_reader(workers, tmp_path):
    transport = ByPipes(workers[:2], tmp_path)
    for writer, reader in ((0, 2), (2, 0)):
        with InputNode() as x:
            made = workers[writer].call.bind(ramp, x).with_tensor_transport(transport)
            dag = workers[reader].call.bind(total, made)
        missing = f"no rank for Worker({workers[2]._actor_id.hex()[:6]}): make the communicator with the handles"
        with pytest.raises(GraphError, match=re.escape(missing)):
            async_adag.compile(dag)


def test_a_result_that_leaves_no_actor_needs_no_rank(workers, tmp_path):
    transport = ByPipes(workers[:2], tmp_path)
    with InputNode() as x:
        dag = workers[2].call.bind(ramp, x).with_tensor_transport(transport)
    with async_adag.compile(dag) as compiled:
        assert len(compiled.execute(4).get()) == 4
    assert not (tmp_path / "log").exists()


class Twice(ByPipes):
    def get_rank(self, actor):
        return 1


class Nameless(ByPipes):
    def get_rank(self, actor):
        return "first"


@pytest.mark.parametrize(
    ("kind", "words"), [(Twice, "two actors of the graph have the same rank"), (Nameless, "an integer for each")]
)
def test_ranks_that_are_none(workers, tmp_path, kind, words):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport(kind(workers, tmp_path)))
    with pytest.raises(GraphError, match=words):
        async_adag.compile(dag)


@pytest.mark.parametrize("name", ["accelerator", "cpu"])
def test_an_input_by_a_communicator(worker, workers, tmp_path, name):
    with InputNode() as x:
        dag = worker.echo.bind(x.with_tensor_transport(ByPipes(workers, tmp_path, name)))
    with pytest.raises(GraphError, match="the input asks for accelerator transport, or for a communicator"):
        async_adag.compile(dag)


def test_the_result_of_an_operation_of_a_communicator(workers, pipes):
    with InputNode() as x:
        sums = allreduce.bind([worker.echo.bind(x) for worker in workers], transport=pipes)
        dag = workers[1].echo.bind(sums[0].with_tensor_transport(pipes))
        dag = MultiOutputNode([dag, *sums[1:]])
    with pytest.raises(GraphError, match=r"the result of allreduce\(sum\) on Worker\(\w{6}\), an operation of"):
        async_adag.compile(dag)


def test_an_async_actor(workers, async_worker, tmp_path):
    transport = ByPipes([workers[0], async_worker], tmp_path)
    with InputNode() as x:
        dag = async_worker.echo.bind(workers[0].echo.bind(x).with_tensor_transport(transport))
    with pytest.raises(GraphError, match="synchronous actors only"):
        async_adag.compile(dag)


@ray.remote(num_cpus=0)
class Driver:
    """Compiles a graph in which it is a rank itself."""

    def echo(self, value):
        return value

    def compile_with(self, other, folder):
        me = ray.get_runtime_context().current_actor
        with InputNode() as x:
            dag = other.echo.bind(me.echo.bind(x).with_tensor_transport(ByPipes([me, other], folder)))
        try:
            async_adag.compile(dag)
        except GraphError as error:
            return str(error)


def test_a_driver_that_is_a_rank(worker, make_actor, tmp_path):
    driver = make_actor(Driver)
    answer = ray.get(driver.compile_with.remote(worker, str(tmp_path)), timeout=100)
    assert "is a rank of a communicator of your own" in answer


# -- the default communicator of the adapter


@pytest.mark.parametrize("hint", ["accelerator", "nccl"])
def test_a_default_communicator_carries_what_asks_for_an_accelerator(workers, pipes, tmp_path, hint):
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(hint)
        plain = workers[1].add.bind(made).with_tensor_transport("auto")
        dag = workers[2].call.bind(total, plain)
    compiled = async_adag.experimental_compile(dag, _default_communicator=pipes)
    assert compiled.execute(4).get() == 10
    compiled.teardown()
    assert log_of(tmp_path, "send") == [("send", 0, 1, 32)]
    with pytest.raises(GpuUnavailable):
        async_adag.experimental_compile(dag)


def test_a_communicator_of_the_nodes_own_comes_before_the_default(workers, pipes, tmp_path):
    (tmp_path / "other").mkdir()
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(pipes)
        dag = workers[1].call.bind(total, made)
    default = ByPipes(workers, tmp_path / "other")
    compiled = async_adag.experimental_compile(dag, _default_communicator=default)
    assert compiled.execute(4).get() == 6
    compiled.teardown()
    assert log_of(tmp_path, "send") == [("send", 0, 1, 32)]
    assert not (tmp_path / "other" / "log").exists(), "what nobody needs is not started"


def test_the_default_communicator_of_operations(workers, pipes, tmp_path):
    def operation(transport):
        with InputNode() as x:
            parts = [worker.call.bind(ramp, x) for worker in workers]
            return MultiOutputNode(allreduce.bind(parts, transport=transport))

    compiled = async_adag.experimental_compile(operation("accelerator"), _default_communicator=pipes)
    for ref in compiled.execute(3):
        np.testing.assert_array_equal(ref.get(), 3 * ramp(3))
    compiled.teardown()
    assert len(log_of(tmp_path, "send")) == 6
    compiled = async_adag.experimental_compile(operation(None), _default_communicator=pipes)
    for ref in compiled.execute(3):
        np.testing.assert_array_equal(ref.get(), 3 * ramp(3))
    compiled.teardown()
    assert len(log_of(tmp_path, "send")) == 6, "shared memory was asked for"
    with pytest.raises(GraphError, match="_default_communicator=None"):
        async_adag.experimental_compile(operation("nccl"), _default_communicator=None)


def test_no_default_communicator(workers):
    def graph(hint):
        with InputNode() as x:
            return workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport(hint))

    with pytest.raises(GraphError, match=r"echo on Worker\(\w{6}\) asks for accelerator transport and has no"):
        async_adag.experimental_compile(graph("accelerator"), _default_communicator=None)
    compiled = async_adag.experimental_compile(graph("auto"), _default_communicator=None)
    assert compiled.execute(1).get() == 1
    compiled.teardown()


def test_rays_cpu_communicator_as_the_default_stands_for_shared_memory(workers):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport("accelerator"))
    compiled = async_adag.experimental_compile(dag, _default_communicator=CPUCommunicator(2, workers[:2]))
    np.testing.assert_array_equal(compiled.execute(ramp(3)).get(), ramp(3))
    compiled.teardown()


def test_blocking_callers(workers, pipes):
    """Several threads at once."""
    with InputNode() as x:
        made = workers[0].call.bind(ramp, x).with_tensor_transport(pipes)
        dag = workers[1].call.bind(total, made)
    with async_adag.compile(dag) as compiled:
        callers = [in_thread(lambda size: compiled.execute(size).get(), size) for size in range(8)]
        assert [caller.result() for caller in callers] == [size * (size - 1) / 2 for size in range(8)]
