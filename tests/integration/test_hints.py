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
