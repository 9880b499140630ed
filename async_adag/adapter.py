"""Ray's own call on this backend, for programs that were written for Ray's compiled graph.

Nothing runs here: every name is mapped on what `async_adag.compile` does, and on the graph that it gives.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import ray
from ray.dag import DAGContext, DAGNode

from async_adag.driver.compile import compile_with
from async_adag.driver.graph import CompiledGraph
from async_adag.driver.results import FutureList, GraphRef, RefList
from async_adag.errors import GraphError
from async_adag.graph.ray_dag import read_dag
from async_adag.graph.ray_transport import CREATE, is_communicator
from async_adag.options import Options


def experimental_compile(
    dag: DAGNode,
    _submit_timeout: float | None = None,
    _buffer_size_bytes: int | None = None,
    enable_asyncio: bool = False,
    _max_inflight_executions: int | None = None,
    _max_buffered_results: int | None = None,
    _overlap_gpu_communication: bool | None = None,
    _default_communicator: Any = "create",
) -> CompiledDAG:
    """Compile a Ray DAG as ``dag.experimental_compile`` does, with the same arguments; blocks until it is ready.

    What is left at None is taken from Ray's ``DAGContext``, and so from the ``RAY_CGRAPH_*`` variables; the time
    that ``ref.get()`` waits when told nothing is always taken from there.

    Args:
        dag: the node that ends the DAG.
        _submit_timeout: seconds that ``execute`` waits while the graph is full; 0 raises at once, -1 waits for
            ever. ``execute_async`` waits for as long as it is awaited.
        _buffer_size_bytes: bytes that each idle payload block keeps warm; payloads may be of any size.
        enable_asyncio: which of ``execute_async`` (True) and ``execute`` (False) may be called; the graph behind
            always has both.
        _max_inflight_executions: executions that may be in flight at once. A result that has arrived does not
            count, fetched or not.
        _max_buffered_results: checked, and without effect: results wait in their refs and futures, without limit.
        _overlap_gpu_communication: whether GPU communication may overlap with compute.
        _default_communicator: what carries the tensors of nodes, and the collective operations, that ask for
            accelerator transport and name no communicator: one of your own (a ``Communicator``); "create" for one
            that is made; None if there is to be none, so that they are refused.

    Raises:
        ValueError: an option out of range; where `async_adag.compile` has it too, under its name there.
        GraphError: the DAG cannot be compiled, or not with this ``_default_communicator``.
        GpuUnavailable: a node asks for GPU transport, and there is none here.
    """
    results = _max_buffered_results
    if results is not None and (isinstance(results, bool) or not isinstance(results, int) or results < 1):
        raise ValueError(f"_max_buffered_results must be None or an integer of at least 1, not {results!r}")
    if not is_communicator(_default_communicator) and _default_communicator not in (None, CREATE):
        raise GraphError(
            f"_default_communicator must be 'create', None or a Communicator, not {_default_communicator!r}: if "
            "none of your own is to be used, leave it out"
        )
    context = DAGContext.get_current()
    options = Options(
        max_inflight=_given(_max_inflight_executions, context.max_inflight_executions),
        buffer_size=_given(_buffer_size_bytes, context.buffer_size_bytes),
        submit_timeout=_seconds(_given(_submit_timeout, context.submit_timeout)),
        get_timeout=_seconds(context.get_timeout),
        overlap=_given(_overlap_gpu_communication, context.overlap_gpu_communication),
    )
    graph = compile_with(dag, options, default_communicator=_default_communicator)
    return CompiledDAG(graph, dag, enable_asyncio)


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _seconds(value: float) -> float | None:
    """Ray's word for waiting for ever is -1, ours None."""
    return None if value == -1 else value


class CompiledDAG:
    """A compiled graph with the methods of Ray's. Made by `experimental_compile`.

    Attributes:
        graph: the `CompiledGraph` behind it, which has what Ray's has no word for: ``map``, ``stats``, ``aclose``.
    """

    def __init__(self, graph: CompiledGraph, dag: DAGNode, enable_asyncio: bool) -> None:
        self.graph = graph
        self._actors = read_dag(dag).handles
        self._enable_asyncio = enable_asyncio

    def execute(self, /, *args: Any, **kwargs: Any) -> GraphRef | list[GraphRef]:
        """Admit an execution; waits while the graph is full. See `CompiledGraph.execute`.

        Returns:
            A `GraphRef`, to be got with ``ref.get(timeout=)`` or ``ray.get``; for a ``MultiOutputNode`` a list of
            one per output.

        Raises:
            ValueError: compiled with ``enable_asyncio=True``.
            CapacityExceeded: no place came free within ``_submit_timeout``; a ``RayCgraphCapacityExceeded``.
            TypeError: not the arguments that the graph takes.
        """
        if self._enable_asyncio:
            raise ValueError("compiled with enable_asyncio=True: call execute_async")
        refs = self.graph.execute(*args, **kwargs)
        return list(refs) if isinstance(refs, RefList) else refs

    async def execute_async(self, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any] | list[asyncio.Future[Any]]:
        """Admit an execution; waits while the graph is full. See `CompiledGraph.execute_async`.

        Returns:
            An `asyncio.Future`; for a ``MultiOutputNode`` a list of one per output.

        Raises:
            ValueError: compiled with ``enable_asyncio=False``.
            TypeError: not the arguments that the graph takes.
        """
        if not self._enable_asyncio:
            raise ValueError("compiled with enable_asyncio=False: call execute")
        futures = await self.graph.execute_async(*args, **kwargs)
        return list(futures) if isinstance(futures, FutureList) else futures

    def teardown(self, kill_actors: bool = False) -> None:
        """Abandon what is in flight and free the actors. Idempotent.

        Args:
            kill_actors: whether to end the actors of the graph, too.
        """
        self.graph.teardown()
        if kill_actors:
            for actor in self._actors:
                ray.kill(actor)

    def visualize(
        self,
        filename: str = "compiled_graph",  # noqa: ARG002 - no file is written
        format: Literal["ascii", "dot", "svg"] = "ascii",  # noqa: A002 - Ray's name
        view: bool = False,
        channel_details: bool = False,  # noqa: ARG002 - the text always has them
    ) -> str:
        """The graph as a picture.

        Args:
            filename: without effect: no file is written.
            format: "ascii" for text, "dot" for Graphviz, "svg".
            view: whether to print it as well.
            channel_details: without effect: channels are always part of it.

        Raises:
            ValueError: another format, such as those for which Ray runs Graphviz.
        """
        if format not in ("ascii", "dot", "svg"):
            raise ValueError(f"format must be 'ascii', 'dot' or 'svg', not {format!r}: Graphviz is not run here")
        text = self.graph.visualize("text" if format == "ascii" else format)
        if view:
            print(text)
        return text
