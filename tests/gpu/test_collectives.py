"""Collective operations over NCCL, of real actors that share one GPU, which NCCL takes for one of each."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import numpy as np
import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag.collectives import allgather, allreduce, reducescatter
from tests.gpu.graphs import LIMIT, NCCL, SHAPES, compile_gpu
from tests.gpu.tensors import Tensor

pytestmark = pytest.mark.timeout(LIMIT)
each_library = pytest.mark.parametrize("library", ["torch", "cupy", "jax"])
each_size = pytest.mark.parametrize("size", [2, 3])

TYPES = {
    "torch": ["float32", "int64", "float16", "bfloat16"],
    "cupy": ["float32", "int64", "float16", "complex64"],
    "jax": ["float32", "int32", "float16", "bfloat16"],
}
REDUCED = {"sum": np.add, "product": np.multiply, "max": np.maximum, "min": np.minimum}
EXECUTIONS = 100


def contribution(described: Tensor, rank: int) -> np.ndarray:
    """What `GpuWorker.contribute` makes, by numpy."""
    count = int(np.prod(described.shape))
    return ((np.arange(count) * 37 + described.seed + rank) % 97).astype("f8").reshape(described.shape)


def reduced(described: Tensor, size: int, reduction: str) -> np.ndarray:
    """Whole numbers, small enough for every type: exact in whatever order they are reduced."""
    values = [contribution(described, rank) for rank in range(size)]
    total = values[0]
    for value in values[1:]:
        total = REDUCED.get(reduction, np.add)(total, value)
    return total / size if reduction == "avg" else total


def graph(workers: list[Any], operation: Any, where: str = "device", **how: Any) -> Any:
    """An operation of these actors, each of which tells what it got."""
    with InputNode() as described:
        parts = [worker.contribute.bind(described, rank, where) for rank, worker in enumerate(workers)]
        results = operation.bind(parts, **how)
        return MultiOutputNode([w.numbers.bind(one) for w, one in zip(workers, results, strict=True)])


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """As a type of 8 significant bits has it, if it is that one: sums go up to 288."""
    if dtype != "bfloat16":
        return array
    bits = array.astype("f4").view("u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view("f4").astype("f8")


@each_library
@each_size
async def test_allreduce(library, size, actors):
    workers = actors[:size]
    for reduction in ("sum", "max", "min"):
        with compile_gpu(graph(workers, allreduce, op=reduction), NCCL) as compiled:
            for dtype in TYPES[library]:
                if dtype == "complex64" and reduction != "sum":
                    continue
                for shape in [(1000,), (1,), (), (3, 0), (17, 5)]:
                    described = Tensor(shape, dtype)
                    expected = rounded(reduced(described, size, reduction), dtype)
                    for got_library, device, got_dtype, got in await compiled(described):
                        assert (got_library, device) == (library, "cuda")
                        assert got_dtype == ("torch." if library == "torch" else "") + dtype
                        np.testing.assert_array_equal(got, expected, f"{reduction} of {described}")


@each_library
async def test_averages_and_products(library, actors):
    workers = actors[:2]
    for reduction in ("avg", "product"):
        with compile_gpu(graph(workers, allreduce, op=reduction), NCCL) as compiled:
            described = Tensor((1000,), "float32")
            for *_, got in await compiled(described):
                np.testing.assert_array_equal(got, reduced(described, 2, reduction))


@pytest.mark.parametrize("library", ["torch", "jax"])
async def test_numbers_of_eight_bits(library, actors):
    """The greater of two needs no rounding; what both are is gathered."""
    workers = actors[:2]
    with (
        compile_gpu(graph(workers, allreduce, op="max"), NCCL) as compiled,
        compile_gpu(graph(workers, allgather), NCCL) as gathering,
    ):
        for dtype in ("float8_e4m3fn", "float8_e5m2"):
            described = Tensor((1024,), dtype)
            (_, _, _, got), _ = await compiled(described)
            (_, _, _, both), _ = await gathering(described)
            np.testing.assert_array_equal(got, np.maximum(both[:1024], both[1024:]))


@each_library
@each_size
async def test_allgather_and_reducescatter(library, size, actors):
    workers = actors[:size]
    with compile_gpu(graph(workers, allgather), NCCL) as compiled:
        for described in [
            Tensor((6, 7)),
            Tensor((5,), "bool"),
            Tensor((4, 3), "int16"),
            Tensor((6, 4), layout="transposed"),
        ]:
            results = await compiled(described)
            assert len({got.tobytes() for *_, got in results}) == 1
            got = results[0][3]
            assert got.shape == (size * described.shape[0], *described.shape[1:])
            if described.layout == "plain" and described.dtype != "bool":
                expected = np.concatenate([contribution(described, rank) for rank in range(size)])
                np.testing.assert_array_equal(got, expected)
    with compile_gpu(graph(workers, reducescatter), NCCL) as compiled:
        for dtype in TYPES[library]:
            described = Tensor((6, 50), dtype)
            got = np.concatenate([part for *_, part in await compiled(described)])
            np.testing.assert_array_equal(got, rounded(reduced(described, size, "sum"), dtype))


@each_library
async def test_contributions_in_the_hosts_memory(library, actors):
    """The result is where the contribution was."""
    workers = actors[:2]
    for operation in (allreduce, reducescatter, allgather):
        with compile_gpu(graph(workers, operation, where="host"), NCCL) as compiled:
            described = Tensor((64, 1000))
            results = await compiled(described)
            assert {one[:2] for one in results} == {("numpy" if library == "cupy" else library, "cpu")}
            if operation is allgather:
                expected = np.concatenate([contribution(described, rank) for rank in range(2)])
            else:
                expected = reduced(described, 2, "sum")
            got = np.concatenate([one[3] for one in results]) if operation is reducescatter else results[1][3]
            np.testing.assert_array_equal(got, expected)


@each_library
async def test_several_tensors_and_several_operations(library, actors):
    workers = actors
    with InputNode() as described:
        lists = [
            [worker.contribute.bind(described, rank + shift) for rank, worker in enumerate(workers)]
            for shift in (0, 2)
        ]
        sums = allreduce.bind(lists)
        again = allreduce.bind([pair[0] for pair in sums], op="max")
        nodes = [
            worker.numbers.bind(value)
            for worker, pair, top in zip(workers, sums, again, strict=True)
            for value in (*pair, top)
        ]
        dag = MultiOutputNode(nodes)
    with compile_gpu(dag, NCCL) as compiled:
        for seed in range(1, 20):
            shape = (1000 * (seed % SHAPES + 1),)
            results = await compiled(Tensor(shape, seed=seed))
            first = reduced(Tensor(shape, seed=seed), 3, "sum")
            second = reduced(Tensor(shape, seed=seed + 2), 3, "sum")
            for number, (*_, got) in enumerate(results):
                np.testing.assert_array_equal(got, second if number % 3 == 1 else first)


@each_library
async def test_eight_in_flight_with_failed_contributions(library, actors):
    workers = actors
    with compile_gpu(graph(workers, allreduce), NCCL, max_inflight=8) as compiled:
        items = [Tensor((50_000 + n % SHAPES,), seed=-1 if n % 7 == 3 else n) for n in range(EXECUTIONS)]
        futures = [await compiled.execute_async(item) for item in items]
        for item, future in zip(items, futures, strict=True):
            if item.seed < 0:
                with pytest.raises(ValueError, match="as it was told to"):
                    await future
            else:
                for *_, got in await future:
                    np.testing.assert_array_equal(got, reduced(item, 3, "sum"))


async def test_a_rank_is_killed(actors, doomed):
    others = actors[:2]
    compiled = compile_gpu(graph([*others, doomed], allreduce), NCCL)
    described = Tensor((1 << 20,))
    await compiled(described)
    pid = await doomed.pid.remote()
    futures = [await compiled.execute_async(described) for _ in range(8)]
    os.kill(pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    expected = reduced(described, 3, "sum")
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, async_adag.GraphBroken), outcome
        else:
            np.testing.assert_array_equal(outcome[0][3], expected)
    with pytest.raises(async_adag.GraphBroken):
        await compiled(described)
    compiled.teardown()
    with compile_gpu(graph(others, allreduce), NCCL) as another:
        for *_, got in await another(described):
            np.testing.assert_array_equal(got, reduced(described, 2, "sum"))
