"""Graphs whose hints bring tensors to the CPU or to a GPU on the way, and hints that promise something."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
from ray.dag import InputNode

import async_adag
from tests.gpu.graphs import KINDS, LIMIT, compile_gpu
from tests.gpu.tensors import Tensor, tell
from tests.gpu.test_graphs import NOT_OF_CUPY, PLAIN

pytestmark = pytest.mark.timeout(LIMIT)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_library = pytest.mark.parametrize("library", ["torch", "cupy", "jax"])
each_transport = pytest.mark.parametrize("transport", ["auto", "shm"])

EXECUTIONS = 200
CALLS, WARM = 50, 10


def edge(writer: Any, method: str, reader: Any, transport: str, device: str, read: str = "tell") -> Any:
    with InputNode() as described:
        made = getattr(writer, method).bind(described).with_tensor_transport(transport, device=device)
        return getattr(reader, read).bind(made)


@each_library
@each_transport
async def test_from_a_gpu_to_the_cpu(transport, library, actors):
    writer, reader, _ = actors
    with async_adag.compile(edge(writer, "make", reader, transport, "cpu")) as compiled:
        for described in PLAIN + (NOT_OF_CUPY if library != "cupy" else []):
            assert await compiled(described) == await writer.tell_made_on_cpu.remote(described), described


@each_library
async def test_from_a_gpu_to_a_driver_that_needs_none(library, actors):
    writer, *_ = actors
    with InputNode() as described:
        dag = writer.make.bind(described).with_tensor_transport("auto", device="cpu")
    with async_adag.compile(dag) as compiled:
        kept = [(item, await compiled(item)) for item in PLAIN]
        for described, result in kept:
            assert tell(result) == await writer.tell_made_on_cpu.remote(described), described


@pytest.mark.parametrize(
    ("method", "device", "expected"), [("make", "cpu", "tell_made_on_cpu"), ("make_on_cpu", "gpu", "tell_made")]
)
def test_a_ref_gives_the_same(method, device, expected, actors):
    writer, *_ = actors
    with InputNode() as described:
        dag = getattr(writer, method).bind(described).with_tensor_transport("shm", device=device)
    with async_adag.compile(dag) as compiled:
        result = compiled.execute(PLAIN[0]).get(timeout=20)
        assert tell(result) == ray.get(getattr(writer, expected).remote(PLAIN[0]))


@each_transport
@pytest.mark.parametrize("overlap", [True, False])
async def test_from_the_cpu_to_a_gpu(transport, overlap, actors):
    writer, reader, _ = actors
    with async_adag.compile(edge(writer, "make_on_cpu", reader, transport, "gpu"), overlap=overlap) as compiled:
        for described in PLAIN + NOT_OF_CUPY:
            assert await compiled(described) == await reader.tell_made.remote(described), described


async def test_from_gpu_to_gpu_by_shared_memory(actors):
    writer, reader, _ = actors
    with async_adag.compile(edge(writer, "make", reader, "shm", "cuda")) as compiled:
        for described in PLAIN + NOT_OF_CUPY:
            assert await compiled(described) == await reader.tell_made.remote(described), described


@each_kind
async def test_tensors_on_both_come_to_the_gpu(kind, actors):
    writer, reader, _ = actors
    with compile_gpu(edge(writer, "make_on_both", reader, "auto", "gpu"), kind) as compiled:
        for described in PLAIN + NOT_OF_CUPY:
            assert await compiled(described) == [await reader.tell_made.remote(described)] * 2, described


@pytest.mark.parametrize("library", ["cupy"])
async def test_numpy_arrays_stay_where_they_are(library, actors):
    writer, reader, _ = actors
    with async_adag.compile(edge(writer, "make_on_cpu", reader, "shm", "gpu")) as compiled:
        for described in PLAIN:
            assert await compiled(described) == await writer.tell_made_on_cpu.remote(described), described


async def test_results_that_come_to_the_drivers_gpu(actors):
    writer, *_ = actors
    with InputNode() as described:
        dag = writer.make_on_cpu.bind(described).with_tensor_transport("shm", device="gpu")
    with async_adag.compile(dag) as compiled:
        for described in PLAIN:
            assert tell(await compiled(described)) == await writer.tell_made.remote(described), described


@pytest.mark.parametrize(("method", "device"), [("make", "cpu"), ("make_on_cpu", "gpu"), ("make", "gpu")])
async def test_eight_in_flight(method, device, actors, figures):
    writer, reader, _ = actors
    with async_adag.compile(edge(writer, method, reader, "shm", device, "total")) as compiled:
        items = [Tensor((97 * (1000 + number % 7),), seed=number) for number in range(EXECUTIONS)]
        expected = [sum(range(97)) * float(item.shape[0] // 97) for item in items]
        begin = time.perf_counter()
        results = [result async for result in compiled.map(items, window=8)]
        rate = EXECUTIONS / (time.perf_counter() - begin)
        figures.add(f"8 in flight, 400 KB, {method} to the {device}", "/s", rate=rate)
        assert results == expected


@pytest.mark.parametrize(("method", "device"), [("make", "cpu"), ("make_on_cpu", "gpu")])
async def test_round_trips(method, device, actors, figures):
    """No target but the figures."""
    writer, reader, _ = actors
    for label, count in {"4 B": 1, "1 MiB": 1 << 18, "64 MiB": 1 << 24}.items():
        with async_adag.compile(edge(writer, method, reader, "shm", device, "touch")) as compiled:
            taken = []
            for number in range(WARM + CALLS):
                begin = time.perf_counter()
                assert await compiled(Tensor((count,))) == 1
                if number >= WARM:
                    taken.append(time.perf_counter() - begin)
        figures.latencies(f"round trip, {label}, {method} to the {device}", taken)


@each_kind
async def test_a_static_shape(kind, actors):
    writer, reader, _ = actors
    with InputNode() as described:
        made = writer.make.bind(described).with_tensor_transport("accelerator", _static_shape=True)
        dag = reader.tell.bind(made)
    with compile_gpu(dag, kind) as compiled:
        for seed in range(20):
            described = [Tensor((1000,), seed=seed), Tensor((3, 5), "int64")]
            assert await compiled(described) == await reader.tell_made.remote(described)
            with pytest.raises(ValueError, match=r"make on GpuWorker.*expected.*\(1000,\).*got.*\(1001,\)"):
                await compiled([Tensor((1001,)), Tensor((3, 5), "int64")])


@each_kind
async def test_a_direct_return(kind, actors):
    writer, reader, _ = actors
    with InputNode() as described:
        made = writer.make.bind(described).with_tensor_transport("accelerator", _direct_return=True)
        dag = reader.tell.bind(made)
    with compile_gpu(dag, kind) as compiled:
        for seed in range(5):
            assert await compiled(Tensor((9,), seed=seed)) == await reader.tell_made.remote(
                Tensor((9,), seed=seed)
            )
            with pytest.raises(ValueError, match=r"make on GpuWorker.*tensor itself"):
                await compiled([Tensor((9,))])
