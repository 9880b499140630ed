"""Hints about the transport of a node's result, where everything goes through shared memory."""

from __future__ import annotations

import numpy as np
import pytest
from ray.dag import InputNode

import async_adag
from async_adag import GpuUnavailable


@pytest.mark.parametrize("hint", ["shm", "auto", "accelerator", "nccl"])
async def test_every_hint_runs_on_the_cpu(workers, hint):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport(hint))
    async with async_adag.compile(dag, device="cpu") as compiled:
        assert np.array_equal(await compiled(np.arange(1000)), np.arange(1000))
        assert await compiled("no tensor") == "no tensor"


@pytest.mark.parametrize("hint", ["shm", "auto"])
def test_hints_that_ask_for_nothing_need_no_option(workers, hint):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport(hint, device="cpu"))
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == 1


def test_accelerator_transport_is_refused_by_either_name(workers):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport("accelerator"))
    with pytest.raises(GpuUnavailable, match="echo"):
        async_adag.compile(dag)


def test_hints_that_do_not_exist_are_refused_by_ray(worker):
    with InputNode() as x:
        node = worker.echo.bind(x)
    with pytest.raises(ValueError, match="transport"):
        node.with_tensor_transport("carrier pigeon")
    with pytest.raises(ValueError, match="device"):
        node.with_tensor_transport("shm", device="abacus")


async def test_a_static_shape_that_changes_fails_its_execution_alone(workers):
    with InputNode() as x:
        made = workers[0].echo.bind(x).with_tensor_transport("accelerator", _static_shape=True)
        dag = workers[1].echo.bind(made)
    async with async_adag.compile(dag, device="cpu") as compiled:
        assert np.array_equal(await compiled(np.arange(10)), np.arange(10))
        for wrong in (np.arange(11), np.arange(10, dtype="f4")):
            with pytest.raises(ValueError, match=r"echo on Worker.*expected.*\(10,\).*got"):
                await compiled(wrong)
            assert np.array_equal(await compiled(np.arange(10, 20)), np.arange(10, 20))


async def test_a_direct_return_that_is_no_tensor_fails_its_execution_alone(workers):
    with InputNode() as x:
        made = workers[0].echo.bind(x).with_tensor_transport("accelerator", _direct_return=True)
        dag = workers[1].echo.bind(made)
    async with async_adag.compile(dag, device="cpu") as compiled:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"echo on Worker.*tensor itself"):
                await compiled([np.arange(10)])
            assert np.array_equal(await compiled(np.arange(10)), np.arange(10))


@pytest.mark.parametrize("transport", ["auto", "shm"])
async def test_promises_mean_nothing_where_ray_makes_nothing_of_them(workers, transport):
    with InputNode() as x:
        made = workers[0].echo.bind(x).with_tensor_transport(transport, _static_shape=True, _direct_return=True)
        dag = workers[1].echo.bind(made)
    async with async_adag.compile(dag) as compiled:
        assert np.array_equal(await compiled(np.arange(10)), np.arange(10))
        assert await compiled("no tensor") == "no tensor"


@pytest.mark.parametrize("transport", ["shm", "auto"])
@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_tensors_on_a_gpu_are_refused_where_the_reader_has_none(workers, transport, device):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport(transport, device=device))
    with pytest.raises(GpuUnavailable, match=r"out of echo on Worker.*on a GPU.*Worker\(.*has no GPU.*cupy"):
        async_adag.compile(dag)
    with async_adag.compile(dag, device="cpu") as compiled:
        assert compiled.execute(1).get() == 1


def test_a_result_on_the_drivers_gpu_is_refused_where_it_has_none(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x).with_tensor_transport("shm", device="gpu")
    with pytest.raises(GpuUnavailable, match="the driver, which gets the result, has no GPU"):
        async_adag.compile(dag)


def test_a_device_means_nothing_within_an_actor(worker):
    with InputNode() as x:
        dag = worker.add.bind(worker.echo.bind(x).with_tensor_transport("shm", device="gpu"))
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == 2
