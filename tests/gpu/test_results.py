"""Results that stay on the GPU of the driver: what arrives, when it is there, and what it costs."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

from tests.gpu.graphs import IPC, LIMIT, SHAPES, compile_gpu, on_the_device
from tests.gpu.tensors import Tensor, tell
from tests.gpu.test_graphs import NOT_OF_CUPY, PLAIN

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.each_loop]


@pytest.fixture(params=["torch", "cupy", "jax"])
def library(request) -> str:
    return request.param


@pytest.fixture
def maker(library, actors) -> Any:
    return actors[0]


def to_the_driver(maker: Any) -> Any:
    with InputNode() as described:
        return on_the_device(maker.make.bind(described))


async def test_results_arrive_on_the_drivers_gpu(maker, library):
    with compile_gpu(to_the_driver(maker), IPC) as compiled:
        for described in PLAIN + (NOT_OF_CUPY if library != "cupy" else []):
            assert tell(await compiled(described)) == await maker.tell_made.remote(described), described


async def test_more_results_than_there_are_slots_are_kept(maker):
    with compile_gpu(to_the_driver(maker), IPC, max_inflight=4) as compiled:
        items = [Tensor((10_000 + number % SHAPES,), seed=number) for number in range(40)]
        kept = [await compiled(item) for item in items]
        for item, result in zip(items, kept, strict=True):
            assert tell(result) == await maker.tell_made.remote(item)


async def test_an_awaited_result_is_whole(maker):
    """It is read on a stream that waits for nothing."""
    import cupy

    apart = cupy.cuda.Stream(non_blocking=True)
    with compile_gpu(to_the_driver(maker), IPC) as compiled:
        for seed in range(20):
            described = Tensor((1 << 22,), seed=seed)
            result = await compiled(described)
            with apart:
                raw = cupy.asarray(result).get()
            expected = np.asarray(await maker.make_on_cpu.remote(described))
            assert (raw == expected).all()


def test_a_ref_gives_the_same(maker):
    with compile_gpu(to_the_driver(maker), IPC) as compiled:
        described = [Tensor((1 << 20,)), Tensor((3, 4), "int32")]
        ref = compiled.execute(described)
        assert tell(ref.get(timeout=20)) == ray.get(maker.tell_made.remote(described))


async def test_beside_outputs_that_do_not(maker):
    with InputNode() as described:
        made = on_the_device(maker.make.bind(described))
        dag = MultiOutputNode([made, maker.tell.bind(made)])
    with compile_gpu(dag, IPC) as compiled:
        described = Tensor((1000, 3), seed=5)
        result, told = await compiled(described)
        assert tell(result) == told


async def test_results_outlive_their_graph(maker):
    described = Tensor((1 << 20,), seed=3)
    compiled = compile_gpu(to_the_driver(maker), IPC)
    result = await compiled(described)
    compiled.teardown()
    gc.collect()
    assert tell(result) == await maker.tell_made.remote(described)
    with compile_gpu(to_the_driver(maker), IPC) as another:
        assert tell(await another(described)) == tell(result)
