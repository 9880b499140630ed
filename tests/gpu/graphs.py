"""Actors that share one GPU, and graphs of them with an edge that carries tensors on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray

import async_adag
import async_adag.gpu
from async_adag.gpu.cuda import find_device
from async_adag.gpu.pool import exportable_allocations
from async_adag.graph.model import Graph
from tests.gpu.nccl_environment import one_gpu_environment
from tests.gpu.tensors import PLATFORMS, Tensor, build, on_the_cpu, tell

IPC, NCCL = "ipc", "nccl"
KINDS = (IPC, NCCL)
SHARE = 0.05  # of the GPU, for each actor: there is room for twenty
READY = 90  # seconds: jax may take long to be imported
LIMIT = READY + 60  # seconds for the first test too, which starts Ray and waits for its actors
LATENCY_SIZES = {"4 B": 1, "1 MiB": 1 << 18, "64 MiB": 1 << 24}  # elements of four bytes
CALLS, WARM = 200, 30
SHAPES = 4  # of different ones: jax compiles for each, which takes it longer than all else


@ray.remote(num_cpus=0, num_gpus=SHARE)
class GpuWorker:
    """Makes, passes on and tells of tensors of one library."""

    def __init__(self, library: str = "torch") -> None:
        self.package = library

    def make(self, described: Any) -> Any:
        return build(described, self.package)

    def make_of_each(self, described: Any, libraries: list[str]) -> Any:
        """The same of several libraries, in one value."""
        return [build(described, library) for library in libraries]

    def tell_made_of_each(self, described: Any, libraries: list[str]) -> Any:
        return tell([build(described, library) for library in libraries])

    def make_on_cpu(self, described: Any) -> Any:
        return on_the_cpu(build(described, self.package))

    def make_on_both(self, described: Any) -> Any:
        made = build(described, self.package)
        return [made, on_the_cpu(made)]

    def tell_made_on_cpu(self, described: Any) -> Any:
        """What one that was made here, and brought to the CPU, is like."""
        return tell(on_the_cpu(build(described, self.package)))

    def allocate_exportable(self) -> None:
        """From now on, large arrays of cupy are made where readers can open them."""
        import cupy

        cupy.cuda.set_allocator(async_adag.gpu.exportable_allocator())

    def exportable(self) -> int:
        """How many allocations of that kind there are."""
        found = exportable_allocations(find_device())
        return 0 if found is None else len(found)

    def make_or_fail(self, described: Any) -> Any:
        if described == "fail":
            raise ValueError("as it was told to")
        return build(described, self.package)

    def contribute(self, described: Any, rank: int, where: str = "device") -> Any:
        """What a rank contributes: a tensor, with its rank added to the seed; a negative seed fails at rank 1."""
        if described.seed < 0 and rank == 1:
            raise ValueError("as it was told to")
        made = build(replace(described, seed=described.seed + rank), self.package)
        return made if where == "device" else on_the_cpu(made)

    def numbers(self, tensor: Any) -> tuple[str, str, str, Any]:
        """Its library, where it is, its type, and its numbers as numpy's float64."""
        library = type(tensor).__module__.partition(".")[0]
        if library == "torch":
            return library, tensor.device.type, str(tensor.dtype), tensor.detach().cpu().double().numpy()
        if library in ("jax", "jaxlib"):
            (device,) = tensor.devices()
            return "jax", PLATFORMS[device.platform], str(tensor.dtype), np.asarray(tensor).astype("f8")
        array = tensor.get() if library == "cupy" else tensor
        return library, "cuda" if library == "cupy" else "cpu", str(tensor.dtype), array.astype("f8")

    def add(self, tensor: Any, amount: int = 1) -> Any:
        return tensor + amount

    def tell(self, value: Any) -> Any:
        return tell(value)

    def touch(self, tensor: Any) -> int:
        """Take it, without waiting for the device."""
        return len(tensor.shape)

    def total(self, tensor: Any) -> float:
        return float(tensor.sum())

    def tell_made(self, described: Any, amount: int = 0) -> Any:
        """What a tensor that never left its process is like."""
        made = build(described, self.package)
        return tell(made + amount if amount else made)

    def holds(self) -> tuple[int, int]:
        """How many bytes of the device nobody has, and how many descriptors this process has."""
        import cupy

        cupy.cuda.runtime.deviceSynchronize()
        return int(cupy.cuda.runtime.memGetInfo()[0]), len(os.listdir("/proc/self/fd"))

    def pid(self) -> int:
        return os.getpid()


@ray.remote(num_cpus=0, num_gpus=SHARE)
class AsyncGpuReader:
    """Tells of tensors, several at a time; the earlier ones wait for later ones."""

    async def begin(self) -> None:
        """Nothing has come yet: each test counts from 0."""
        self._come: list[asyncio.Event] = [asyncio.Event() for _ in range(CALLS)]

    async def tell_after(self, value: Any, number: int) -> Any:
        """Tell of it; an even one once the next has come."""
        self._come[number].set()
        if number % 2 == 0:
            await self._come[number + 1].wait()
        return tell(value)

    async def make(self, described: Any) -> Any:
        return build(described, "cupy")


def calls_for(count: int) -> int:
    """How many round trips to measure with so many elements."""
    return CALLS if count < 1 << 20 else CALLS // 4


def make_actor(rank: int, library: str) -> Any:
    """An actor that looks to NCCL like a host of its own."""
    alone = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # or jax takes most of the GPU's memory at once
    environment = {"env_vars": one_gpu_environment(rank) | alone}
    return GpuWorker.options(runtime_env=environment).remote(library)


class Pools:
    """Three actors of each library, and some that tests may kill: all of them begin at once."""

    def __init__(self, libraries: Iterable[str], spares: int) -> None:
        self._begun: dict[Any, Any] = {}  # what an actor will say once it has imported its library
        self._made = {library: self._begin_three(library) for library in libraries}
        self._spares = [self._begin(3, "torch") for _ in range(spares)]

    def of(self, library: str) -> list[Any]:
        """Those of a library, once they have imported it; new ones if a test has left one that does not answer."""
        three = self._made[library]
        if not self._begun.keys() & three and not answer(three):
            kill(three)
            three = self._made[library] = self._begin_three(library)
        self._until_ready(three)
        return three

    def spare(self) -> Any:
        """An actor of torch, of rank 3, which whoever asks for it has to kill."""
        actor = self._spares.pop()
        self._until_ready([actor])
        return actor

    def close(self) -> None:
        kill([*self._spares, *(actor for three in self._made.values() for actor in three)])

    def _begin_three(self, library: str) -> list[Any]:
        return [self._begin(rank, library) for rank in range(3)]

    def _begin(self, rank: int, library: str) -> Any:
        actor = make_actor(rank, library)
        self._begun[actor] = actor.tell_made.remote(Tensor((2,)))
        return actor

    def _until_ready(self, actors: list[Any]) -> None:
        ray.get([self._begun[actor] for actor in actors if actor in self._begun], timeout=READY)
        for actor in actors:
            self._begun.pop(actor, None)


def answer(actors: list[Any]) -> bool:
    """Whether all of them do."""
    try:
        ray.get([actor.pid.remote() for actor in actors], timeout=10)
    except ray.exceptions.RayError:
        return False
    return True


def kill(actors: list[Any]) -> None:
    for actor in actors:
        ray.kill(actor)


def on_the_device(node: Any) -> Any:
    """A node whose tensors travel on the device."""
    return node.with_tensor_transport("accelerator")


def gpus_of_their_own(graph: Graph, _: Any) -> Graph:
    """In place of `find_gpus`."""
    return replace(graph, gpus=tuple(f"GPU {actor.number}" for actor in graph.actors))


def compile_gpu(dag: Any, kind: str, **options: Any) -> async_adag.CompiledGraph:
    """Compile a graph whose edges on the device are of ``kind``; the ladder takes IPC between actors on one GPU.

    For NCCL every actor is taken to have a GPU of its own, which its environment makes NCCL believe too.
    """
    with pytest.MonkeyPatch.context() as patch:
        if kind == NCCL:
            patch.setattr("async_adag.driver.compile.find_gpus", gpus_of_their_own)
        compiled = async_adag.compile(dag, **options)
    try:
        assert kind in compiled.visualize().lower(), f"no edge of this graph is {kind}:\n{compiled.visualize()}"
    except BaseException:
        compiled.teardown()
        raise
    return compiled
