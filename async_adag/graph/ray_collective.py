"""Collective operations in a Ray DAG: binds ours, and reads ours and Ray's own.

One of the modules that know names which Ray does not promise to keep. In the DAG a collective operation is one
node for each of its actors, bound to that actor's contributions; all of them share one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle
from ray.dag import BIND_INDEX_KEY, IS_CLASS_METHOD_OUTPUT_KEY, PARENT_CLASS_NODE_KEY, ClassMethodNode
from ray.dag.collective_node import CollectiveOutputNode

from async_adag.errors import GraphError
from async_adag.graph.model import REDUCTIONS
from async_adag.graph.ray_transport import CREATE, default_for, is_communicator

_GROUP_KEY = "async_adag_collective"


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A collective operation.

    Attributes:
        identity: what all its nodes share.
        kind: "allreduce", "allgather" or "reducescatter".
        reduction: one of `REDUCTIONS`; None where nothing is reduced.
        actors: the ids of its actors, in hexadecimal, by rank.
        transport: what was asked for: "auto", "accelerator"; "shm" also where a communicator was given.
        communicator: the user's own, or NCCL's; None where it goes through channels.
        operation: Ray's word for the reduction, which the user's communicator is given.
        number: its place among the operations of the DAG.
        by: what does it, in a word, if anything but the channels or the user's communicator.
    """

    identity: object
    kind: str
    reduction: str | None
    actors: tuple[str, ...]
    transport: str
    communicator: Any
    operation: Any
    number: int = 0
    by: str = ""

    def __str__(self) -> str:
        name = self.kind if self.reduction is None else f"{self.kind}({self.reduction})"
        return f"{name} over {self.by}" if self.by else name


@dataclass(frozen=True, slots=True, eq=False)
class _Ours:
    """What the nodes of an operation that was bound here share."""

    kind: str
    reduction: str | None
    handles: tuple[ActorHandle, ...]
    transport: Any


def group_of(node: ClassMethodNode, default: Any = CREATE) -> Group | None:
    """The collective operation that this node is an actor's part of, if any.

    Args:
        node: the node.
        default: the communicator for an operation that asks for accelerator transport and names none.

    Raises:
        GraphError: it asks for accelerator transport, and ``default`` is None or of other actors.
    """
    if isinstance(node, CollectiveOutputNode):
        op = node.collective_op
        if op is None:
            return None
        transport = op.type_hint.get_custom_communicator() or op.type_hint.transport
        return _group(op, *_read_operation(op._op), tuple(op.actor_handles), transport, default)
    ours = node.get_other_args_to_resolve().get(_GROUP_KEY)
    if ours is None:
        return None
    return _group(ours, ours.kind, ours.reduction, ours.handles, ours.transport, default)


def bind_collective(
    kind: str, reduction: Any, inputs: Sequence[Any], transport: Any
) -> list[ClassMethodNode] | list[list[ClassMethodNode]]:
    """Bind a collective operation to one contribution of each actor, or to lists of them, one for each tensor.

    Returns:
        Nodes of the results, in the same shape.

    Raises:
        GraphError: the contributions are not nodes, one for each actor, in the same order of actors in each list.
    """
    if not isinstance(inputs, list | tuple) or not inputs:
        raise GraphError(f"{kind}.bind takes a list of nodes, one for each actor; got {inputs!r}")
    nested = isinstance(inputs[0], list | tuple)
    if any(isinstance(one, list | tuple) != nested or one in ([], ()) for one in inputs):
        raise GraphError(f"{kind}.bind takes a list of nodes, or a list of lists that are not empty; not both")
    lists = [list(one) for one in inputs] if nested else [list(inputs)]
    if nested and kind != "allreduce":
        raise GraphError(
            f"{kind}.bind takes one list of nodes; only allreduce takes several tensors of each actor"
        )
    handles = [_handles(kind, one) for one in lists]
    ids = [[handle._actor_id for handle in one] for one in handles]
    if any(one != ids[0] for one in ids):
        raise GraphError(f"{kind}.bind takes lists with the same actors in the same order")
    if len(set(ids[0])) < len(ids[0]):
        raise GraphError(f"{kind}.bind takes one node for each actor; an actor occurs twice")
    ours = _Ours(kind, None if kind == "allgather" else _reduction(reduction), tuple(handles[0]), transport)
    name = str(_group(ours, ours.kind, ours.reduction, ours.handles, transport))
    bound = [
        _bind_one(name, ours, handle, tuple(one[rank] for one in lists)) for rank, handle in enumerate(handles[0])
    ]
    return bound if nested else [nodes[0] for nodes in bound]


def _bind_one(name: str, ours: _Ours, handle: ActorHandle, inputs: tuple[Any, ...]) -> list[ClassMethodNode]:
    index = handle._ray_dag_bind_index
    handle._ray_dag_bind_index += 1
    options = {"num_returns": len(inputs)}
    shared = {PARENT_CLASS_NODE_KEY: handle, BIND_INDEX_KEY: index}
    node = ClassMethodNode(name, inputs, {}, options, shared | {_GROUP_KEY: ours})
    if len(inputs) == 1:
        return [node]
    parts = range(len(inputs))
    part_of = shared | {IS_CLASS_METHOD_OUTPUT_KEY: True}
    return [ClassMethodNode(f"return_idx_{part}", (node, part), {}, {}, part_of) for part in parts]


def _handles(kind: str, nodes: list[Any]) -> list[ActorHandle]:
    handles = []
    for node in nodes:
        handle = node._get_actor_handle() if isinstance(node, ClassMethodNode) else None
        if handle is None:
            raise GraphError(f"{kind}.bind takes nodes of methods of existing actors; got {type(node).__name__}")
        handles.append(handle)
    return handles


def _reduction(reduction: Any) -> str:
    """One of `REDUCTIONS`, from that word or from Ray's ``ReduceOp``."""
    name = getattr(reduction, "name", reduction)
    word = name.lower() if isinstance(name, str) else ""
    if word not in REDUCTIONS:
        raise GraphError(f"a reduction is one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    return word


def _read_operation(op: Any) -> tuple[str, str | None]:
    kind = type(op).__name__.removesuffix("Op").lower()
    return kind, None if kind == "allgather" else _reduction(op.reduceOp)


def _group(
    identity: object,
    kind: str,
    reduction: str | None,
    handles: tuple[ActorHandle, ...],
    transport: Any,
    default: Any = CREATE,
) -> Group:
    from ray.experimental.channel.cpu_communicator import CPUCommunicator
    from ray.experimental.util.types import ReduceOp

    if transport in ("nccl", "accelerator"):
        transport = default_for(kind, default) or transport
    communicator = None
    if is_communicator(transport):
        if {h._actor_id for h in transport.get_actor_handles()} != {h._actor_id for h in handles}:
            raise GraphError(f"the communicator of {kind} is of other actors than the nodes")
        handles = tuple(sorted(handles, key=transport.get_rank))
        communicator = None if isinstance(transport, CPUCommunicator) else transport
    elif transport not in (None, "auto", "shm", "cpu", "nccl", "accelerator"):
        raise GraphError(
            f"the transport of {kind} is None, 'auto', 'shm', 'cpu', 'nccl', 'accelerator' or a Communicator; got "
            f"{transport!r}"
        )
    asked = (
        "accelerator" if transport in ("nccl", "accelerator") else "auto" if transport in (None, "auto") else "shm"
    )
    operation = None if reduction is None else ReduceOp[reduction.upper()]
    actors = tuple(handle._actor_id.hex() for handle in handles)
    return Group(identity, kind, reduction, actors, asked, communicator, operation)
