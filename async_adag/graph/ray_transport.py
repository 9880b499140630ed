"""Reads the hints about transport in a Ray DAG, and the communicators that they name.

One of the modules that know names which Ray does not promise to keep: its types of hints, `Communicator` and
`CPUCommunicator`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray.dag import DAGNode

from async_adag.errors import GraphError
from async_adag.graph.model import Actor, FromNode, Graph, TensorTransport

CREATE = "create"
"""The default communicator of a graph where none was given, but one may be made."""


def is_communicator(value: object) -> bool:
    """Whether this is a ``ray.experimental.channel.communicator.Communicator``."""
    if value is None or isinstance(value, str):
        return False
    from ray.experimental.channel.communicator import Communicator  # at import it would cost users without any

    return isinstance(value, Communicator)


def is_for_tests(communicator: object) -> bool:
    """Whether this is Ray's ``CPUCommunicator``, for which our shared memory stands: it moves no tensors itself.

    A class derived from it that does, since it has a ``send`` of its own, is a communicator like any other.
    """
    if not is_communicator(communicator):
        return False
    from ray.experimental.channel.cpu_communicator import CPUCommunicator

    return isinstance(communicator, CPUCommunicator) and type(communicator).send is CPUCommunicator.send


def default_for(what: str, default: Any) -> Any:
    """The communicator for what asks for accelerator transport and names none; None where one is to be made.

    Raises:
        GraphError: there is to be none.
    """
    if default is None:
        raise GraphError(
            f"{what} asks for accelerator transport and has no communicator, and _default_communicator=None says "
            "that there is none for it: give it one (transport=...), or leave _default_communicator out"
        )
    return default if is_communicator(default) else None


def read_transport(node: DAGNode, name: str, default: Any = CREATE) -> TensorTransport | None:
    """What ``with_tensor_transport`` asked for at a node; None where nothing was. Ranks are left out.

    Args:
        node: the node.
        name: the node in words.
        default: the communicator for a node that asks for accelerator transport and names none: one of the
            user's; None where there is none; `CREATE`.

    Raises:
        GraphError: as `default_for`.
    """
    hint = node.type_hint
    kind = type(hint).__name__
    if kind not in ("AutoTransportType", "TorchTensorType"):
        return None
    communicator = hint.get_custom_communicator()
    asks = "auto" if kind == "AutoTransportType" else "accelerator" if hint.requires_accelerator() else "shm"
    if asks == "accelerator" and communicator is None:
        communicator = default_for(name, default)
    promised = asks != "shm"  # as with Ray, nothing is made of promises about what goes through shared memory
    if is_for_tests(communicator):
        asks, communicator = "shm", None
    device = {"cuda": "gpu"}.get(str(hint.device), str(hint.device))
    static, direct = promised and bool(hint._static_shape), promised and bool(hint._direct_return)
    return TensorTransport(asks, device, static, direct, communicator)


def ranks_of(communicator: Any, actors: Iterable[Actor]) -> tuple[int | None, ...]:
    """The rank of each of these actors; None for those that the communicator does not have.

    Raises:
        GraphError: two of them are to have one rank, or what the communicator gives is no rank.
    """
    handles = {handle._actor_id.hex(): handle for handle in communicator.get_actor_handles()}
    ranks = tuple(communicator.get_rank(handles[actor.id]) if actor.id in handles else None for actor in actors)
    name = type(communicator).__name__
    taken = [rank for rank in ranks if rank is not None]
    if not all(isinstance(rank, int) for rank in taken):
        raise GraphError(f"{name}.get_rank gave {ranks}: it has to give an integer for each of its actors")
    if len(set(taken)) < len(taken):
        raise GraphError(f"{name}.get_rank gave {ranks}: two actors of the graph have the same rank")
    return ranks


def check_ranks(graph: Graph) -> None:
    """Check that every communicator of the user's can carry what it is to carry.

    Raises:
        GraphError: one lacks the actor of a node or of a reader; or it is to carry what comes from a collective
            operation of a communicator.
    """
    for node in graph.nodes:
        for source in node.sources():
            if not isinstance(source, FromNode):
                continue
            writer = graph.nodes[source.node]
            mover = writer.mover(source.index)
            if mover is None or writer.actor == node.actor:
                continue
            name = type(mover.communicator).__name__
            result = f"the result of {graph.label(writer.number)}"
            if writer.collective is not None and writer.collective.communicator is not None:
                # Its ranks have all left the operation before one of them sends, and might each send first.
                raise GraphError(
                    f"{name} is to carry {result}, an operation of a communicator: have a method of that actor "
                    "pass the result on, and give the hint to that"
                )
            for actor in (writer.actor, node.actor):
                if mover.ranks[actor] is None:
                    raise GraphError(
                        f"{name} is to carry {result} to {graph.label(node.number)}, and has no rank for "
                        f"{graph.actors[actor]}: make the communicator with the handles of both actors"
                    )
