"""`compile` and `compile_async`: from a Ray DAG to a graph at work."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

import anyio
import ray
from ray.dag import DAGNode

from async_adag.actor.ray_runtime import is_ray_client
from async_adag.driver.deploy import deploy, limits_named
from async_adag.driver.deployment import Deployment
from async_adag.driver.engine import Engine
from async_adag.driver.gpu_operations import demands_gpu, gpu_operations, with_gpus_of
from async_adag.driver.gpus import find_gpus, make_groups, make_links
from async_adag.driver.graph import CompiledGraph
from async_adag.driver.inquiry import Inquiry
from async_adag.driver.interrupts import Held
from async_adag.driver.meeting import Apart
from async_adag.driver.places import find_places
from async_adag.errors import GraphError
from async_adag.graph.model import Graph
from async_adag.graph.plan import Plan
from async_adag.graph.planner import plan_graph
from async_adag.graph.ray_dag import RayGraph, read_dag
from async_adag.graph.ray_transport import CREATE
from async_adag.options import Options, options_from

OLDEST_RAY, NEWEST_RAY = (2, 50), (2, 60)


class CompileOptions(TypedDict, total=False):
    """The keyword arguments of `compile`; `Options` says what each means."""

    max_inflight: int
    buffer_size: int
    submit_timeout: float | None
    get_timeout: float | None
    compile_timeout: float
    busy_poll: float | Literal["auto"]
    device: Literal["auto", "cpu"]
    overlap: bool
    heartbeat_timeout: float
    tcp_ports: tuple[int, int] | None
    placement: Literal["together", "apart"] | None


def compile(dag: DAGNode, /, **options: Unpack[CompileOptions]) -> CompiledGraph:
    """Compile a Ray DAG of actor methods; blocks until every actor is ready.

    Args:
        dag: the node that ends the DAG, built with Ray's own ``InputNode``, ``actor.method.bind`` and
            ``MultiOutputNode``.
        options: see `Options`: ``max_inflight``, ``buffer_size`` (bytes), ``submit_timeout``, ``get_timeout``,
            ``compile_timeout`` (seconds), ``busy_poll``, ``device``, ``overlap``,
            ``heartbeat_timeout`` (seconds), ``tcp_ports``, ``placement``.

    Raises:
        TypeError: an option that does not exist.
        ValueError: an option out of range.
        GraphError: the DAG cannot be compiled, or an actor is dead or did not answer; names the node. Or a limit
            of this process or an actor's is reached; names the limit.
        GpuUnavailable: a node asks for GPU transport, and there is none here.
        KeyboardInterrupt: Ctrl-C came while it waited; nothing is left behind.
    """
    return compile_with(dag, options_from(dict(options)))


async def compile_async(dag: DAGNode, /, **options: Unpack[CompileOptions]) -> CompiledGraph:
    """As `compile`, without blocking the event loop meanwhile. Cancelling it leaves nothing behind.

    Args:
        dag: as for `compile`.
        options: as for `compile`.

    Raises:
        Exception: as `compile`.
    """
    checked = options_from(dict(options))
    given_up = threading.Event()
    done: list[CompiledGraph] = []

    def work() -> None:
        graph = _compile(dag, checked, CREATE, given_up.is_set)
        done.append(graph)
        if given_up.is_set():
            graph.teardown()

    try:
        await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except asyncio.CancelledError:
        given_up.set()
        if done:
            done[0].teardown()
        raise
    return done[0]


def compile_with(dag: DAGNode, options: Options, *, default_communicator: Any = CREATE) -> CompiledGraph:
    """As `compile`, with options that were checked, and what only the adapter has.

    Args:
        dag: the node that ends the DAG.
        options: the options.
        default_communicator: see `read_dag`.
    """
    with Held() as held:

        def given_up() -> bool:
            held.check()
            return False

        return _compile(dag, options, default_communicator, given_up)


def _compile(
    dag: DAGNode, options: Options, default_communicator: Any, given_up: Callable[[], bool]
) -> CompiledGraph:
    _check_platform()
    read = read_dag(dag, default_communicator)
    inquiry = Inquiry(read.graph, read.handles, options.compile_timeout, given_up)
    read = replace(read, graph=_with_gpus(read.graph, options, inquiry))
    read = _with_nccl(dag, default_communicator, read, inquiry)
    plan, deployment = _place(read, options, inquiry.about(read.graph, read.handles), given_up)
    try:
        with limits_named():
            return CompiledGraph(Engine(plan, deployment, options))
    except BaseException:
        deployment.end_loops()
        deployment.close()
        raise


def _place(
    read: RayGraph, options: Options, inquiry: Inquiry, given_up: Callable[[], bool]
) -> tuple[Plan, Deployment]:
    """Plan the graph for the hosts that its processes live on, and deploy it there."""
    apart: dict[str, int] = {}
    while True:
        plan = plan_graph(find_places(read.graph, inquiry, apart))
        try:
            links = make_links(plan, inquiry)
            return plan, deploy(plan, read.handles, options, given_up, links, inquiry.deadline)
        except Apart as one:
            actor = read.graph.actors[one.actor]
            if actor.id in apart:
                raise GraphError(f"{actor} cannot be reached: {one}") from one
            apart[actor.id] = 1 + len(apart)


def _with_nccl(dag: DAGNode, default_communicator: Any, read: RayGraph, inquiry: Inquiry) -> RayGraph:
    """The DAG, read again where NCCL does operations: their actors wait there for one another, so order counts."""
    groups = make_groups(read.graph, inquiry)
    if not groups:
        return read
    try:
        again = read_dag(dag, default_communicator, groups)
    except GraphError:
        # There is no such order, for one. Shared memory needs none, where it may stand in.
        operations = gpu_operations(read.graph)
        demanded = {number: group for number, group in groups.items() if demands_gpu(operations[number][0])}
        if demanded == groups:
            raise
        again = read_dag(dag, default_communicator, demanded)
    return replace(again, graph=with_gpus_of(again.graph, read.graph))


def _check_platform() -> None:
    if sys.platform != "linux":
        raise GraphError(f"async_adag compiles graphs on Linux only (eventfd, memfd); this is {sys.platform}")
    version = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if not OLDEST_RAY <= version <= NEWEST_RAY:
        raise GraphError(
            f"async_adag works with Ray {OLDEST_RAY[0]}.{OLDEST_RAY[1]} to {NEWEST_RAY[0]}.{NEWEST_RAY[1]}; this "
            f"is Ray {ray.__version__}: install a release in that range"
        )
    if is_ray_client():
        raise GraphError(
            "this process is a Ray Client driver (ray://), which shares no memory with the actors: run the driver "
            "inside the cluster, as a job or in an actor"
        )
    if not ray.is_initialized():
        raise GraphError("Ray is not running in this process: call ray.init() first")


def _with_gpus(graph: Graph, options: Options, inquiry: Inquiry) -> Graph:
    """The graph, with the GPUs of its actors where its edges may use them."""
    return graph if options.device == "cpu" else find_gpus(graph, inquiry)
