"""GPU edges before they are planned: which actor has which GPU, and the links that join two of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from async_adag.actor.gpu_facts import GpuFacts, gpu_of, new_groups, new_links
from async_adag.actor.ray_runtime import own_actor
from async_adag.collectives.over_nccl import OverNccl
from async_adag.driver.gpu_operations import choose_operations, demands_gpu, gpu_operations
from async_adag.driver.inquiry import Inquiry
from async_adag.errors import GpuUnavailable
from async_adag.graph.model import FromNode, Graph, Node, TensorTransport
from async_adag.graph.plan import Plan


def find_gpus(graph: Graph, inquiry: Inquiry) -> Graph:
    """The graph with `Graph.gpus`, where any edge or operation may go from GPU to GPU; else the same.

    Raises:
        GpuUnavailable: an edge or an operation asks for accelerator transport, and there is none; names it, and
            says why.
        GraphError: as `Inquiry.ask`.
    """
    edges = list(_gpu_edges(graph))
    parts = [part for operation in gpu_operations(graph).values() for part in operation]
    # Of an edge to the CPU's memory, only its writer can have to do with a GPU.
    asked = [ends[:1] if transport.device == "cpu" else ends for _, transport, ends in edges]
    actors = sorted({actor for ends in asked for actor in ends} | {part.actor for part in parts})
    if not actors:
        return graph
    facts: dict[int, GpuFacts] = inquiry.ask(gpu_of, dict.fromkeys(actors, ()), "what GPU is there")
    for node, transport, ends in edges:
        accelerator = transport.kind == "accelerator"
        needed = ends if accelerator else ends[1:] if transport.device == "gpu" else ()
        without = [end for end in needed if not facts[end].identity]
        if without:
            asks = "accelerator transport" if accelerator else "tensors on a GPU"
            reason = f"{graph.actors[without[0]]} has no GPU to use ({facts[without[0]].reason})"
            raise unavailable(graph, node, asks, reason)
    _check_driver(graph)
    for part in parts:
        if demands_gpu(part) and not facts[part.actor].identity:
            reason = f"{graph.actors[part.actor]} has no GPU to use ({facts[part.actor].reason})"
            raise unavailable(graph, part, "accelerator transport", reason, "the operation")
    gpus = tuple(facts[n].identity if n in facts else "" for n in range(len(graph.actors)))
    interleaving = frozenset(actor for actor, one in facts.items() if one.is_async)
    return replace(graph, gpus=gpus, driver_gpu=_driver_gpu(graph, gpus), async_actors=interleaving)


def _check_driver(graph: Graph) -> None:
    """Where results are to be on the driver's GPU, it needs one."""
    for output in graph.outputs:
        if isinstance(output, FromNode):
            writer = graph.nodes[output.node]
            transport = writer.transports[output.index] if writer.transports else None
            if transport is None or not transport.may_stage() or transport.device != "gpu":
                continue
            facts = gpu_of(None)
            if not facts.identity:
                reason = f"the driver, which gets the result, has no GPU to use ({facts.reason})"
                raise unavailable(graph, writer, "tensors on a GPU", reason)


def _driver_gpu(graph: Graph, gpus: tuple[str, ...]) -> str:
    """The driver's GPU, where a result that is to stay on one goes to the driver, and it has that one too.

    Without a word of the user's, a driver that has made no use of its GPU is not made to.
    """
    own = own_actor()
    if own is not None and any(actor.id == own[0] for actor in graph.actors):
        return ""  # no process opens its own memory
    for output in graph.outputs:
        if isinstance(output, FromNode):
            writer = graph.nodes[output.node]
            transport = writer.transports[output.index] if writer.transports else None
            wanted = transport is not None and transport.may_use_gpu() and gpus[writer.actor]
            if wanted and (transport.needs_gpu() or "cupy" in sys.modules or "torch" in sys.modules):  # type: ignore[union-attr]
                identity = gpu_of(None).identity
                return identity if identity == gpus[writer.actor] else ""
    return ""


def make_links(plan: Plan, inquiry: Inquiry) -> dict[int, tuple[Any, ...]]:
    """The links of a plan's channels between two GPUs, by channel, one to each reader.

    Raises:
        GraphError: as `Inquiry.ask`.
    """
    channels = [channel for channel in plan.channels if channel.gpu == "nccl"]
    wanted: dict[int, int] = {}
    for channel in channels:
        wanted[channel.writer] = wanted.get(channel.writer, 0) + len(channel.readers)
    made = inquiry.ask(new_links, {actor: (count,) for actor, count in wanted.items()}, "for links of NCCL")
    return {channel.number: tuple(made[channel.writer].pop() for _ in channel.readers) for channel in channels}


def make_groups(graph: Graph, inquiry: Inquiry) -> dict[int, OverNccl]:
    """What does operations over NCCL, by the operations' numbers; one for all those of the same ranks.

    Raises:
        GpuUnavailable: as `choose_operations`.
        GraphError: as `Inquiry.ask`.
    """
    own = own_actor()
    chosen = choose_operations(graph, "" if own is None else own[0])
    wanted: dict[int, list[tuple[int, ...]]] = {}
    for ranks in dict.fromkeys(chosen.values()):
        wanted.setdefault(ranks[0], []).append(ranks)
    sizes = {actor: ([len(one) for one in many],) for actor, many in wanted.items()}
    made = inquiry.ask(new_groups, sizes, "for groups of NCCL")
    groups = {
        ranks: OverNccl(group)
        for actor, many in wanted.items()
        for ranks, group in zip(many, made[actor], strict=True)
    }
    return {number: groups[ranks] for number, ranks in chosen.items()}


def unavailable(
    graph: Graph, node: Node, asks: str, reason: str = "", what: str = "the edge out of"
) -> GpuUnavailable:
    """What is raised for an edge out of ``node``, or for the node itself, that cannot be had."""
    because = f"; {reason}" if reason else ""
    return GpuUnavailable(
        f"{what} {graph.label(node.number)} asks for {asks}, which needs the GPU stack{because}: install "
        "async-adag[gpu] where the actors run, on a machine with a GPU, and give them one (num_gpus), or compile "
        "with device='cpu'"
    )


def _gpu_edges(graph: Graph) -> Iterator[tuple[Node, TensorTransport, tuple[int, ...]]]:
    """Results with a hint that a GPU may be needed for: the node, the hint, its actor and others that read it."""
    readers: dict[FromNode, set[int]] = {}
    for node in graph.nodes:
        for source in node.sources():
            if isinstance(source, FromNode):
                readers.setdefault(source, set()).add(node.actor)
    for node in graph.nodes:
        for index, transport in enumerate(node.transports):
            if transport is not None and (transport.may_use_gpu() or transport.may_stage()):
                others = sorted(readers.get(FromNode(node.number, index), set()) - {node.actor})
                yield node, transport, (node.actor, *others)
