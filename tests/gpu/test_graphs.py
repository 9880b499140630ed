"""Whole graphs of real actors that share one GPU, with edges that carry their tensors there."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from tests.gpu.graphs import (
    IPC,
    KINDS,
    LATENCY_SIZES,
    LIMIT,
    SHAPES,
    WARM,
    AsyncGpuReader,
    calls_for,
    compile_gpu,
    make_actor,
    on_the_device,
)
from tests.gpu.tensors import Tensor

pytestmark = pytest.mark.timeout(LIMIT)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_library = pytest.mark.parametrize("library", ["torch", "cupy", "jax"])

PLAIN = [
    Tensor((1000,)),
    Tensor((1,), "int64"),
    Tensor((), "float32"),
    Tensor((0,), "float32"),
    Tensor((3, 0, 2), "float16"),
    Tensor((7, 11, 13), "bool"),
    Tensor((1 << 22,), "float32"),
    Tensor((64, 33), "float32", layout="transposed"),
    Tensor((50, 3), "int32", layout="strided"),
    {"a": Tensor((5,)), "b": [Tensor((2, 2), "int64"), None, 3, "text"], "c": (Tensor(()), Tensor((0, 4)))},
    [Tensor((number % SHAPES + 1,), seed=number) for number in range(1, 20)],
    {"no": "tensor", "in": [1, 2.5, None]},
    None,
]
NOT_OF_CUPY = [
    Tensor((1001,), "bfloat16"),
    Tensor((17, 5), "float8_e4m3fn"),
    Tensor((33, 9), "bfloat16", layout="transposed"),
    [Tensor((3,), "float8_e5m2"), Tensor((3,), "bfloat16"), Tensor((3,), "complex64")],
]
EXECUTIONS = 300


def edge_of_two(writer: Any, reader: Any) -> Any:
    with InputNode() as described:
        return reader.tell.bind(on_the_device(writer.make.bind(described)))


@pytest.mark.each_loop
@each_kind
@each_library
async def test_two_actors(kind, library, actors):
    writer, reader, _ = actors
    with compile_gpu(edge_of_two(writer, reader), kind) as compiled:
        for described in PLAIN + (NOT_OF_CUPY if library != "cupy" else []):
            assert await compiled(described) == await reader.tell_made.remote(described), described


@each_kind
async def test_arrays_of_several_libraries_in_one_value(kind, need, actors):
    libraries = ["torch", "cupy"]
    need("torch")
    try:
        need("jax")
        libraries.append("jax")
    except pytest.skip.Exception:
        pass  # two are several
    writer, reader, _ = actors
    with InputNode() as x:
        dag = reader.tell.bind(on_the_device(writer.make_of_each.bind(x[0], x[1])))
    with compile_gpu(dag, kind, max_inflight=8) as compiled:
        items = [Tensor((50_000 + number % SHAPES,), seed=number) for number in range(60)]
        futures = [await compiled.execute_async(item, libraries) for item in items]
        for item, future in zip(items, futures, strict=True):
            assert await future == await reader.tell_made_of_each.remote(item, libraries), item


async def test_large_arrays_of_an_exportable_allocator_are_used_where_they_are(actors):
    """Two graphs at once bring one reader memory of one pool, which it opens once; small arrays are copied."""
    writer, (_, reader, _) = make_actor(4, "cupy"), actors
    await writer.allocate_exportable.remote()
    dag = edge_of_two(writer, reader)
    with compile_gpu(dag, IPC, max_inflight=8) as one, compile_gpu(dag, IPC, max_inflight=8) as two:
        for number in range(30):
            described = [Tensor((500_000 + number,), seed=number), Tensor((10,), seed=number)]
            futures = [await graph.execute_async(described) for graph in (one, two) for _ in range(4)]
            expected = await writer.tell_made.remote(described)
            assert [await future for future in futures] == [expected] * 8
    assert await writer.exportable.remote() > 0
    with compile_gpu(dag, IPC) as again:
        assert await again(described) == expected
    ray.kill(writer)


@pytest.fixture(scope="module")
def one_async_reader(gpu_cluster):
    """Made once, as it imports libraries for seconds."""
    reader = AsyncGpuReader.remote()
    yield reader
    ray.kill(reader)


@pytest.fixture
def async_reader(one_async_reader):
    ray.get(one_async_reader.begin.remote(), timeout=20)
    return one_async_reader


@each_library
@pytest.mark.parametrize("transport", ["auto", "accelerator"])
async def test_an_async_actor_reads(library, transport, actors, async_reader):
    writer, other, _ = actors
    with InputNode() as x:
        made = writer.make.bind(x[0]).with_tensor_transport(transport)
        dag = async_reader.tell_after.bind(made, x[1])
    with compile_gpu(dag, IPC, max_inflight=8) as compiled:
        items = [Tensor((50_000 + number % SHAPES,), seed=number) for number in range(40)]
        futures = [await compiled.execute_async(item, number) for number, item in enumerate(items)]
        for item, future in zip(items, futures, strict=True):
            assert await future == await other.tell_made.remote(item), item


async def test_an_async_actor_writes_through_shared_memory_or_says_why_not(actors, async_reader):
    _, reader, _ = actors
    with InputNode() as described:
        demanding = reader.tell.bind(on_the_device(async_reader.make.bind(described)))
    with pytest.raises(async_adag.GraphError, match=r"is an async actor.*make its methods synchronous"):
        async_adag.compile(demanding)
    with InputNode() as described:
        dag = reader.touch.bind(async_reader.make.bind(described).with_tensor_transport("auto"))
    with async_adag.compile(dag) as compiled:
        assert await compiled(Tensor((1000,))) == 1


@each_kind
async def test_shapes_that_change_with_each_execution(kind, actors):
    writer, reader, _ = actors
    with compile_gpu(edge_of_two(writer, reader), kind) as compiled:
        for number in range(60):
            described = Tensor((number * number * 50, number % 3 + 1), seed=number)
            assert await compiled(described) == await reader.tell_made.remote(described), described


@each_kind
@each_library
async def test_chain_of_three(kind, library, actors):
    first, second, third = actors
    with InputNode() as described:
        made = on_the_device(first.make.bind(described))
        dag = third.tell.bind(on_the_device(second.add.bind(made, 5)))
    with compile_gpu(dag, kind) as compiled:
        for seed in range(30):
            described = Tensor((100_000 + seed % SHAPES,), seed=seed)
            assert await compiled(described) == await third.tell_made.remote(described, 5)


@each_kind
async def test_fan_out(kind, actors):
    writer, *readers = actors
    with InputNode() as described:
        made = on_the_device(writer.make.bind(described))
        dag = MultiOutputNode([reader.tell.bind(made) for reader in readers])
    with compile_gpu(dag, kind) as compiled:
        for seed in range(30):
            described = [Tensor((100_000 + seed,), seed=seed), Tensor((3, 5), "int64", seed)]
            assert await compiled(described) == [await readers[0].tell_made.remote(described)] * 2


@each_kind
async def test_a_failure_is_that_of_its_execution_alone(kind, actors):
    writer, reader, _ = actors
    with InputNode() as described:
        dag = reader.tell.bind(on_the_device(writer.make_or_fail.bind(described)))
    with compile_gpu(dag, kind) as compiled:
        for seed in range(10):
            described = Tensor((1000,), seed=seed)
            assert await compiled(described) == await reader.tell_made.remote(described)
            with pytest.raises(ValueError, match="as it was told to"):
                await compiled("fail")


@pytest.mark.each_loop
@each_kind
async def test_eight_in_flight(kind, actors, figures):
    writer, reader, _ = actors
    with InputNode() as described:
        dag = reader.total.bind(on_the_device(writer.make.bind(described)))
    with compile_gpu(dag, kind) as compiled:
        size = 97 * 1000
        items = [Tensor((size + number,), seed=number) for number in range(EXECUTIONS)]
        expected = [sum((index * 37 + item.seed) % 97 for index in range(97)) * 1000.0 for item in items]
        extra = [sum((index * 37 + item.seed) % 97 for index in range(item.shape[0] - size)) for item in items]
        begin = time.perf_counter()
        results = [result async for result in compiled.map(items, window=8)]
        figures.add("8 in flight, 400 KB", "/s", rate=EXECUTIONS / (time.perf_counter() - begin))
        assert results == [whole + part for whole, part in zip(expected, extra, strict=True)]


@each_kind
async def test_an_actor_is_killed(kind, actors, doomed, figures):
    _, reader, third = actors
    compiled = compile_gpu(edge_of_two(doomed, reader), kind)
    described = Tensor((1 << 20,))
    assert await compiled(described) == await reader.tell_made.remote(described)
    pid = await doomed.pid.remote()
    futures = [await compiled.execute_async(described) for _ in range(8)]
    os.kill(pid, signal.SIGKILL)
    begin = time.perf_counter()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    expected = await third.tell_made.remote(described)
    assert all(isinstance(got, async_adag.GraphBroken) or got == expected for got in outcomes), outcomes
    with pytest.raises(async_adag.GraphBroken):
        await compiled(described)
    figures.add("until the graph is broken", "ms", after=(time.perf_counter() - begin) * 1e3)
    compiled.teardown()
    with compile_gpu(edge_of_two(third, reader), kind) as another:
        assert await another(described) == expected


@each_kind
async def test_memory_is_flat(kind, actors, figures):
    writer, reader, _ = actors
    shapes = [(1000,), (1 << 20,), (3, 5), (100_000,)]

    async def use(executions: int) -> None:
        with compile_gpu(edge_of_two(writer, reader), kind) as compiled:
            items = [Tensor(shapes[number % len(shapes)], seed=number) for number in range(executions)]
            async for _ in compiled.map(items, window=4):
                pass

    await use(100)
    await use(100)
    before = [await actor.holds.remote() for actor in (writer, reader)]
    for _ in range(5):
        await use(100)
    after = [await actor.holds.remote() for actor in (writer, reader)]
    used = (before[0][0] - after[0][0]) / 2**20
    opened = [now[1] - then[1] for now, then in zip(after, before, strict=True)]
    figures.add("5 graphs of 100 executions", "MiB", more_memory=used, more_descriptors=max(opened))
    assert used <= 16
    assert max(opened) <= 2, "descriptors; Ray opens some of its own"


@each_kind
async def test_round_trips(kind, actors, figures):
    """Figures: a tensor of the first actor's is taken by the second, which does not wait for it."""
    writer, reader, _ = actors
    for label, count in LATENCY_SIZES.items():
        described = Tensor((count,))
        with InputNode() as given:
            dag = reader.touch.bind(on_the_device(writer.make.bind(given)))
        with compile_gpu(dag, kind) as compiled:
            taken = []
            for number in range(WARM + calls_for(count)):
                begin = time.perf_counter()
                assert await compiled(described) == 1
                if number >= WARM:
                    taken.append(time.perf_counter() - begin)
        figures.latencies(f"round trip, {label}, {kind}", taken)


@each_kind
async def test_overlap_in_a_graph(kind, actors, figures):
    """Figures: the same pipeline with overlap and in plain order."""
    first, second, third = actors
    with InputNode() as described:
        made = on_the_device(first.make.bind(described))
        dag = third.total.bind(on_the_device(second.add.bind(made, 1)))
    items = [Tensor((1 << 22,), seed=number) for number in range(60)]
    results, seconds = {}, {}
    for overlap in (True, False):
        with compile_gpu(dag, kind, overlap=overlap) as compiled:
            await compiled(items[0])
            begin = time.perf_counter()
            results[overlap] = [result async for result in compiled.map(items, window=8)]
            seconds[overlap] = time.perf_counter() - begin
    figures.add("60 x 16 MiB through 3 actors", "s", overlap=seconds[True], plain_order=seconds[False])
    assert results[True] == results[False]


@each_kind
async def test_a_trace_shows_what_the_gpu_does(kind, actors):
    """Each execution is received, computed on and sent, in this order, by the device's own times."""
    first, second, third = actors
    with InputNode() as described:
        made = on_the_device(first.make.bind(described))
        dag = third.total.bind(on_the_device(second.add.bind(made, 1)))
    with compile_gpu(dag, kind) as compiled:
        await compiled(Tensor((1 << 22,)))
        async with compiled.trace() as trace:
            for number in range(5):
                await compiled(Tensor((1 << 22,), seed=number))
    spans: dict[tuple[int, str, int], tuple[float, float]] = {}
    for event in trace.events:
        if event["ph"] == "X" and event["cat"].startswith("GPU "):
            spans[event["pid"], event["cat"], event["args"]["execution"]] = event["ts"], event["ts"] + event["dur"]
    pids = sorted({pid for pid, _, _ in spans})
    lanes = {pid: {lane for of, lane, _ in spans if of == pid} for pid in pids}
    assert list(lanes.values()) == [
        {"GPU compute", "GPU send"},
        {"GPU receive", "GPU compute", "GPU send"},
        {"GPU receive", "GPU compute"},
    ]
    slack = 2000  # µs by which the clocks of two processes that share a GPU may be thought apart
    for execution in range(1, 6):
        made, sent = (spans[pids[0], lane, execution] for lane in ("GPU compute", "GPU send"))
        received, used = (spans[pids[1], lane, execution] for lane in ("GPU receive", "GPU compute"))
        assert made[1] <= sent[1] + 1
        assert sent[0] <= received[1] + slack
        assert received[1] <= used[1] + 1
