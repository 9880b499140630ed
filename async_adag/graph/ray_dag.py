"""Reads a DAG that was written with Ray's DAG API.

One of the modules that know names which Ray does not promise to keep: what is read here are the attributes of
`ray.dag` nodes (Ray 2.60). The rest of the package sees only `graph.model`.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle
from ray.dag import ClassMethodNode, ClassNode, DAGNode, FunctionNode, InputNode, MultiOutputNode
from ray.dag.collective_node import CollectiveOutputNode
from ray.dag.input_node import InputAttributeNode

from async_adag.errors import GraphError
from async_adag.graph.model import Actor, Const, FromInput, FromNode, Graph, InputKey, Node, Signature, Source


@dataclass(frozen=True, slots=True)
class RayGraph:
    """A graph, and Ray's handle for each of its actors."""

    graph: Graph
    handles: tuple[ActorHandle, ...]


def read_dag(root: object) -> RayGraph:
    """Read the DAG that ends in ``root``.

    Raises:
        GraphError: it is no DAG of actor methods that can be compiled; names the node and the remedy.
    """
    if not isinstance(root, DAGNode):
        raise GraphError(f"compile() takes a Ray DAG, such as actor.method.bind(input); got {type(root).__name__}")
    if isinstance(root, InputNode | InputAttributeNode):
        raise GraphError("the DAG is its input alone: bind an actor's method to it")
    nodes = _component(root)
    calls = _ordered([node for node in nodes if _is_call(node)])
    if not calls:
        raise GraphError("the DAG has no actor method: bind one to its input")
    actors, handles = _actors(calls)
    numbers = {id(call): number for number, call in enumerate(calls)}
    reader = _Arguments(numbers)
    specs = tuple(
        Node(
            number=number,
            actor=actors[_handle(call)._actor_id.hex()].number,
            method=call.get_method_name(),
            args=tuple(reader.source(arg, call) for arg in call.get_args()),
            kwargs=tuple((name, reader.source(arg, call)) for name, arg in call.get_kwargs().items()),
            returns=_returns(call),
            transport=_transport(call),
        )
        for number, call in enumerate(calls)
    )
    multi = isinstance(root, MultiOutputNode)
    outputs = tuple(reader.output(end) for end in (root.get_args() if multi else (root,)))
    if not outputs:
        raise GraphError("MultiOutputNode([]) gives nothing: name at least one output")
    return RayGraph(Graph(tuple(actors.values()), specs, _signature(nodes), outputs, multi), handles)


def _component(root: DAGNode) -> list[DAGNode]:
    """All nodes connected with ``root``, each refused that cannot be compiled."""
    seen = {id(root): root}
    queue = [root]
    for node in queue:
        if isinstance(node, MultiOutputNode) and node is not root:
            continue  # the end of another graph over the same nodes
        _check(node)
        for neighbour in [*node._upstream_nodes, *node._downstream_nodes]:
            if id(neighbour) not in seen:
                seen[id(neighbour)] = neighbour
                queue.append(neighbour)
    return [node for node in queue if not isinstance(node, MultiOutputNode) or node is root]


def _check(node: DAGNode) -> None:
    if isinstance(node, FunctionNode):
        raise GraphError(f"{_name(node)} is a task: only methods of actors can be compiled; make it a method")
    if isinstance(node, ClassNode):
        raise GraphError(
            f"{_name(node)} creates an actor: create it first with .remote(), and bind the handle's methods"
        )
    if isinstance(node, CollectiveOutputNode):
        raise GraphError(f"{_name(node)} is a collective operation, which is not supported yet")
    if not isinstance(node, InputNode | InputAttributeNode | MultiOutputNode | ClassMethodNode):
        raise GraphError(f"{_name(node)}: nodes of type {type(node).__name__} cannot be compiled")


def _is_call(node: DAGNode) -> bool:
    return isinstance(node, ClassMethodNode) and bool(node.is_class_method_call)


def _name(node: DAGNode) -> str:
    if isinstance(node, ClassMethodNode):
        handle = node._get_actor_handle()
        owner = f" on {_class_name(handle)}({handle._actor_id.hex()[:6]})" if handle is not None else ""
        return f"{node.get_method_name()}{owner}"
    body = getattr(node, "_body", None)
    return getattr(body, "__name__", None) or type(node).__name__


def _handle(call: ClassMethodNode) -> ActorHandle:
    handle = call._get_actor_handle()
    if handle is None:
        raise GraphError(
            f"{_name(call)} is bound to an actor that does not exist yet: create the actor with .remote() first, "
            "and bind its handle's method"
        )
    return handle


def _class_name(handle: ActorHandle) -> str:
    return str(handle._ray_actor_creation_function_descriptor.class_name).rpartition(".")[2]


def _ordered(calls: list[ClassMethodNode]) -> list[ClassMethodNode]:
    """An order in which all can run: after their arguments, and within an actor handle as they were bound."""
    place = {id(call): number for number, call in enumerate(calls)}
    after: dict[int, set[int]] = {number: set() for number in range(len(calls))}
    per_handle: dict[int, list[ClassMethodNode]] = {}
    for number, call in enumerate(calls):
        for upstream in call._upstream_nodes:
            source = upstream.class_method_call if _is_output(upstream) else upstream
            if id(source) in place:
                after[number].add(place[id(source)])
        per_handle.setdefault(id(_handle(call)), []).append(call)
    for same in per_handle.values():
        same.sort(key=_bind_index)
        for first, second in itertools.pairwise(same):
            after[place[id(second)]].add(place[id(first)])
    missing = {number: len(before) for number, before in after.items()}
    followers: dict[int, list[int]] = {}
    for number, before in after.items():
        for earlier in before:
            followers.setdefault(earlier, []).append(number)
    # Discovery began at the end of the graph, so the larger number tends to come first in the flow of data.
    ready = [(-number) for number, count in missing.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        number = -heapq.heappop(ready)
        order.append(calls[number])
        for follower in followers.get(number, ()):
            missing[follower] -= 1
            if missing[follower] == 0:
                heapq.heappush(ready, -follower)
    if len(order) < len(calls):
        stuck = [_name(call) for number, call in enumerate(calls) if missing[number]]
        raise GraphError(f"these nodes wait for one another and would deadlock: {', '.join(stuck)}")
    return order


def _bind_index(call: ClassMethodNode) -> int:
    return int(call._get_bind_index() or 0)


def _is_output(node: DAGNode) -> bool:
    return isinstance(node, ClassMethodNode) and bool(node.is_class_method_output)


def _actors(calls: list[ClassMethodNode]) -> tuple[dict[str, Actor], tuple[ActorHandle, ...]]:
    actors: dict[str, Actor] = {}
    handles = []
    for call in calls:
        handle = _handle(call)
        key = handle._actor_id.hex()
        if key not in actors:
            actors[key] = Actor(len(actors), key, _class_name(handle))
            handles.append(handle)
    return actors, tuple(handles)


def _returns(call: ClassMethodNode) -> int:
    returns = call.num_returns
    if not isinstance(returns, int) or returns < 1:
        raise GraphError(
            f"{_name(call)} has num_returns={returns!r}: a compiled method returns a fixed number of values, at "
            "least one; generators cannot be compiled"
        )
    return returns


def _transport(call: ClassMethodNode) -> str | None:
    hint = call.type_hint
    if type(hint).__name__ == "AutoTransportType":
        return "auto"
    if hint.requires_accelerator():
        return "accelerator"
    return "shm" if type(hint).__name__ == "TorchTensorType" else None


class _Arguments:
    """Turns what was bound into sources."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers

    def source(self, arg: Any, call: ClassMethodNode) -> Source:
        if isinstance(arg, InputNode):
            return FromInput(None)
        if isinstance(arg, InputAttributeNode):
            return FromInput(arg.key)
        if isinstance(arg, DAGNode):
            return self._result(arg)
        if _contains_node(arg):
            raise GraphError(
                f"{_name(call)} takes a container with a node inside: bind each node as an argument of its own"
            )
        return Const(arg)

    def output(self, end: Any) -> FromNode:
        if isinstance(end, InputNode | InputAttributeNode):
            raise GraphError("an output of the DAG is its input: bind an actor's method to it, and output that")
        if not isinstance(end, DAGNode):
            raise GraphError(f"MultiOutputNode takes nodes; got {type(end).__name__}")
        return self._result(end)

    def _result(self, node: DAGNode) -> FromNode:
        if _is_output(node):
            return FromNode(self._numbers[id(node.class_method_call)], int(node.output_idx))
        if isinstance(node, MultiOutputNode):
            raise GraphError("a MultiOutputNode can only be the end of a DAG")
        return FromNode(self._numbers[id(node)])


def _contains_node(value: Any) -> bool:
    if isinstance(value, DAGNode):
        return True
    if isinstance(value, dict):
        return any(_contains_node(part) for part in (*value.keys(), *value.values()))
    return isinstance(value, list | tuple | set) and any(_contains_node(part) for part in value)


def _signature(nodes: list[DAGNode]) -> Signature:
    inputs = [node for node in nodes if isinstance(node, InputNode)]
    if not inputs:
        raise GraphError(
            "the DAG has no InputNode: build it inside `with InputNode() as x:` and bind x where the input goes"
        )
    if len(inputs) > 1:
        raise GraphError("the DAG has two InputNodes: build it from one, and read parts of it as x[0], x[1]")
    direct = any(
        argument is inputs[0]
        for node in nodes
        if not isinstance(node, InputAttributeNode)
        for argument in (*node.get_args(), *node.get_kwargs().values())
    )
    keys: list[InputKey] = [node.key for node in nodes if isinstance(node, InputAttributeNode)]
    if direct and keys:
        raise GraphError(
            f"the DAG reads its input both whole and by part ({keys[0]!r}): use one of the two throughout"
        )
    if direct:
        return Signature(1)
    positions = [key for key in keys if isinstance(key, int)]
    if any(position < 0 for position in positions):
        raise GraphError("the DAG reads its input at a negative index: count positional arguments from 0")
    return Signature(
        max(positions) + 1 if positions else 0, tuple(sorted({k for k in keys if isinstance(k, str)}))
    )
