"""Which collective operations go over NCCL."""

from __future__ import annotations

from dataclasses import replace

from async_adag.errors import GpuUnavailable
from async_adag.graph.model import Graph, Node


def gpu_operations(graph: Graph) -> dict[int, list[Node]]:
    """The operations that may go over NCCL, by number: their parts, by rank."""
    found: dict[int, list[Node]] = {}
    for node in graph.nodes:
        part = node.collective
        if part is not None and part.communicator is None and part.transport in ("auto", "accelerator"):
            found.setdefault(part.number, []).append(node)
    return {number: sorted(parts, key=_rank) for number, parts in found.items()}


def demands_gpu(part: Node) -> bool:
    """Whether its operation asked for accelerator transport, so that shared memory would not do."""
    return part.collective is not None and part.collective.transport == "accelerator"


def choose_operations(graph: Graph, driver: str = "") -> dict[int, tuple[int, ...]]:
    """The operations that go over NCCL, by number: their actors, by rank.

    Args:
        graph: the graph, with `Graph.gpus` where anybody asked.
        driver: the id of the actor that compiles, if it is one.

    Raises:
        GpuUnavailable: one asked for accelerator transport, and cannot have it; names it, and says why.
    """
    chosen = {}
    for number, parts in gpu_operations(graph).items() if graph.gpus else ():
        reason = _why_not(graph, [part.actor for part in parts], driver)
        if not reason:
            chosen[number] = tuple(part.actor for part in parts)
        elif demands_gpu(parts[0]):
            raise GpuUnavailable(
                f"the operation {graph.label(parts[0].number)} asks for accelerator transport, which cannot be: "
                f"{reason}. Otherwise bind it with transport='shm', or compile with device='cpu'"
            )
    return chosen


def _why_not(graph: Graph, actors: list[int], driver: str) -> str:
    """Why these actors cannot do an operation over NCCL, and what to do; "" if they can."""
    users: dict[str, int] = {}
    for actor in actors:
        name, gpu = graph.actors[actor], graph.gpus[actor]
        if not gpu:
            return f"{name} has no GPU; give it one (num_gpus)"
        if gpu in users:
            other = graph.actors[users[gpu]]
            return f"{other} and {name} are on one GPU, which NCCL takes once; give each actor one of its own"
        users[gpu] = actor
        if actor in graph.async_actors:
            return f"{name} is an async actor, whose executions interleave; make its methods synchronous"
        if graph.actors[actor].id == driver:
            return f"{name} is the driver, which cannot meet the others while it compiles; compile elsewhere"
    return ""


def with_gpus_of(graph: Graph, known: Graph) -> Graph:
    """The graph with the GPUs that are known of the same actors, in another order."""
    gpus = {actor.id: known.gpus[actor.number] for actor in known.actors}
    interleaving = {known.actors[number].id for number in known.async_actors}
    return replace(
        graph,
        gpus=tuple(gpus[actor.id] for actor in graph.actors),
        driver_gpu=known.driver_gpu,
        async_actors=frozenset(actor.number for actor in graph.actors if actor.id in interleaving),
    )


def _rank(part: Node) -> int:
    assert part.collective is not None
    return part.collective.rank
