"""Reads a DAG that was written with Ray's DAG API.

One of the modules that know names which Ray does not promise to keep: what is read here are the attributes of
`ray.dag` nodes (Ray 2.60). The rest of the package sees only `graph.model`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ray.actor import ActorHandle
from ray.dag import ClassMethodNode, ClassNode, DAGNode, FunctionNode, InputNode, MultiOutputNode
from ray.dag.input_node import InputAttributeNode

from async_adag.errors import GraphError
from async_adag.graph.announce import announce
from async_adag.graph.model import (
    Actor,
    Collective,
    Const,
    FromInput,
    FromNode,
    Graph,
    InputKey,
    Node,
    Packed,
    Signature,
    Source,
    TensorTransport,
    leaves,
)
from async_adag.graph.ray_collective import Group, group_of
from async_adag.graph.ray_transport import CREATE, check_ranks, ranks_of, read_transport


@dataclass(frozen=True, slots=True)
class RayGraph:
    """A graph, and Ray's handle for each of its actors."""

    graph: Graph
    handles: tuple[ActorHandle, ...]


def read_dag(
    root: object, default_communicator: Any = CREATE, over_nccl: Mapping[int, Any] = MappingProxyType({})
) -> RayGraph:
    """Read the DAG that ends in ``root``. Deterministic: operations have the same numbers each time.

    Args:
        root: the node that ends it.
        default_communicator: carries what asks for accelerator transport and names no communicator: one of the
            user's; None where there is to be none; "create".
        over_nccl: the operations that NCCL is to do, by number, and by what.

    Raises:
        GraphError: it is no DAG of actor methods that can be compiled; names the node and the remedy.
    """
    if not isinstance(root, DAGNode):
        raise GraphError(f"compile() takes a Ray DAG, such as actor.method.bind(input); got {type(root).__name__}")
    if isinstance(root, InputNode | InputAttributeNode):
        raise GraphError("the DAG is its input alone: bind an actor's method to it")
    multi = isinstance(root, MultiOutputNode)
    ends = root.get_args() if multi else (root,)
    if multi and any(isinstance(end, MultiOutputNode) for end in ends):
        raise GraphError("a MultiOutputNode can only be the end of a DAG: name its nodes one by one")
    nodes = _component(root)
    unordered = [node for node in nodes if _is_call(node)]
    operations = _Operations(unordered, default_communicator, over_nccl)
    calls = _ordered(unordered, operations, ends)
    if not calls:
        raise GraphError("the DAG has no actor method: bind one to its input")
    actors, handles = _actors(calls)
    reader = _Arguments({id(call): number for number, call in enumerate(calls)})
    specs = [
        _node(number, call, actors, reader, operations, default_communicator) for number, call in enumerate(calls)
    ]
    outputs = tuple(reader.output(end) for end in ends)
    if not outputs:
        raise GraphError("MultiOutputNode([]) gives nothing: name at least one output")
    read = {source for spec in specs for source in spec.sources() if isinstance(source, FromInput)}
    signature = _signature(nodes, read | {output for output in outputs if isinstance(output, FromInput)})
    complete, outputs = announce(specs, [operations.announced(call) for call in calls], outputs)
    graph = Graph(tuple(actors.values()), complete, signature, outputs, multi)
    check_ranks(graph)
    return RayGraph(graph, handles)


def _node(
    number: int,
    call: ClassMethodNode,
    actors: dict[str, Actor],
    reader: _Arguments,
    operations: _Operations,
    default: Any,
) -> Node:
    actor = actors[_handle(call)._actor_id.hex()].number
    group = operations.group(call)
    if group is None:
        args, kwargs = reader.sources(call)
        transports = _transports(call, _returns(call), default, actors)
        return Node(number, actor, call.get_method_name(), args, kwargs, _returns(call), transports)
    parts = operations.parts(call)
    contributions = [reader.sources(part)[0] for part in parts]
    rank = parts.index(call)
    collective = Collective(
        group.kind,
        group.reduction,
        rank,
        len(parts),
        group.communicator,
        group.operation,
        group.number,
        group.transport,
    )
    args = contributions[rank] if group.communicator is not None else tuple(itertools.chain(*contributions))
    results = len(contributions[rank])
    transports = _transports(call, results, default, actors)
    if group.transport == "accelerator" and not transports:
        transports = (TensorTransport("auto"),) * results  # they are on the GPU where the contributions are
    return Node(number, actor, str(group), args, (), results, transports, collective)


def _by_nccl(group: Group, communicator: Any) -> Group:
    """The operation, done by NCCL if this is what is to do it, and not None."""
    if communicator is None:
        return group
    return replace(group, communicator=communicator, operation=group.reduction, by="NCCL")


class _Operations:
    """The collective operations of a DAG, and the nodes that are their parts."""

    def __init__(self, calls: list[ClassMethodNode], default: Any, over_nccl: Mapping[int, Any]) -> None:
        self._groups: dict[int, Group] = {}
        numbers: dict[int, int] = {}
        for call in calls:
            group = group_of(call, default)
            if group is not None:
                number = numbers.setdefault(id(group.identity), len(numbers))
                self._groups[id(call)] = _by_nccl(replace(group, number=number), over_nccl.get(number))
        self._parts: dict[int, list[ClassMethodNode]] = {}
        for call in calls:
            if id(call) in self._groups:
                self._parts.setdefault(id(self._groups[id(call)].identity), []).append(call)
        for parts in self._parts.values():
            group = self._groups[id(parts[0])]
            parts.sort(key=lambda part: group.actors.index(_handle(part)._actor_id.hex()))
            if len(parts) < len(group.actors):
                raise GraphError(
                    f"{group} is connected with this DAG at {len(parts)} of its {len(group.actors)} actors only: "
                    "bind the input to every contribution, or use every actor's result"
                )

    def group(self, call: ClassMethodNode) -> Group | None:
        """The operation that this is a part of."""
        return self._groups.get(id(call))

    def parts(self, call: ClassMethodNode) -> list[ClassMethodNode]:
        """The parts of that operation, by rank; of a method, the call itself."""
        group = self.group(call)
        return [call] if group is None else self._parts[id(group.identity)]

    def meeting(self) -> list[list[ClassMethodNode]]:
        """The parts of each operation in which the actors wait for one another: those of communicators."""
        return [parts for parts in self._parts.values() if self.announced(parts[0]) is not None]

    def announced(self, call: ClassMethodNode) -> object:
        """What the parts of an operation share that needs announcements; otherwise None."""
        group = self.group(call)
        return None if group is None or group.communicator is None else group.identity


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
    if isinstance(node, InputNode | InputAttributeNode):
        transport = read_transport(node, "the input")
        if transport is not None and (transport.kind == "accelerator" or transport.communicator is not None):
            raise GraphError(
                "the input asks for accelerator transport, or for a communicator, of which the driver is no part: "
                "send tensors as they are, and have a node move them"
            )
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


def _ordered(
    calls: list[ClassMethodNode], operations: _Operations, ends: Iterable[DAGNode]
) -> list[ClassMethodNode]:
    """An order in which all can run: after their arguments, and within an actor handle as they were bound.

    Where an actor has several handles, its nodes are in the order of `_as_bound`, as far as that leaves one.
    """
    place = {id(call): number for number, call in enumerate(calls)}
    after: dict[int, set[int]] = {number: set() for number in range(len(calls))}
    per_handle: dict[int, list[ClassMethodNode]] = {}
    for number, call in enumerate(calls):
        for part in operations.parts(call):
            after[number].update(_places_of(part._upstream_nodes, place))
        per_handle.setdefault(id(_handle(call)), []).append(call)
    for same in per_handle.values():
        same.sort(key=_bind_index)
        for first, second in itertools.pairwise(same):
            after[place[id(second)]].add(place[id(first)])
    together: dict[int, list[int]] = {}
    for parts in operations.meeting():
        numbers = [place[id(part)] for part in parts]
        _join(after, set(numbers))
        together |= dict.fromkeys(numbers, numbers)
    if len(per_handle) > len({_handle(call)._actor_id for call in calls}):
        rank = _as_bound(calls, per_handle.values(), ends)
    else:
        # Discovery began at the end of the graph, so the larger number tends to come first in the flow of data.
        rank = [-number for number in range(len(calls))]
    order = _sorted(after, together, rank)
    if len(order) < len(calls):
        stuck = [_name(call) for number, call in enumerate(calls) if number not in order]
        raise GraphError(f"these nodes wait for one another and would deadlock: {', '.join(stuck)}")
    return [calls[number] for number in order]


def _sorted(after: dict[int, set[int]], together: dict[int, list[int]], rank: list[int]) -> list[int]:
    """Each after those that it has to come after, the smaller rank first; without those that cannot come."""
    missing = {number: len(before) for number, before in after.items()}
    followers: dict[int, list[int]] = {}
    for number, before in after.items():
        for earlier in before:
            followers.setdefault(earlier, []).append(number)
    ready = [(rank[number], number) for number, count in missing.items() if count == 0]
    heapq.heapify(ready)
    order: dict[int, None] = {}
    while ready:
        _, first = heapq.heappop(ready)
        # What meets stands together, with nothing between: no transfer may have its place there.
        for number in together.get(first, [first]) if first not in order else ():
            order[number] = None
            for follower in followers.get(number, ()):
                missing[follower] -= 1
                if missing[follower] == 0:
                    heapq.heappush(ready, (rank[follower], follower))
    return list(order)


def _as_bound(
    calls: list[ClassMethodNode], per_handle: Iterable[list[ClassMethodNode]], ends: Iterable[DAGNode]
) -> list[int]:
    """For each call, its place in the order of binding, as far as that can be told, whatever the handles.

    Ray counts per handle. Of other nodes it shows the order where they take the same argument, by the argument's
    list of them; the rest come as they are found from the outputs, depth first, arguments from left to right.
    """
    place = {id(call): number for number, call in enumerate(calls)}
    earlier = [_places_of(call._upstream_nodes, place) for call in calls]
    taken = {id(source): source for call in calls for source in call._upstream_nodes}
    for same in (*per_handle, *(source._downstream_nodes for source in taken.values())):
        for first, second in itertools.pairwise(dict.fromkeys(_places_of(same, place))):
            earlier[second].append(first)
    return _depth_first([*_places_of(ends, place), *range(len(calls))], earlier)


def _places_of(nodes: Iterable[DAGNode], place: dict[int, int]) -> list[int]:
    """The places of the calls that these are, or are results of; ``place``: by the identity of calls."""
    return [place[id(source)] for source in map(_source_of, nodes) if id(source) in place]


def _depth_first(roots: list[int], earlier: list[list[int]]) -> list[int]:
    """For each number its place, with what is earlier before it, except in a circle."""
    places: dict[int, int] = {}
    entered: set[int] = set()
    stack = roots[::-1]
    while stack:
        if stack[-1] in entered:
            places.setdefault(stack.pop(), len(places))
        else:
            entered.add(stack[-1])
            stack += [number for number in reversed(earlier[stack[-1]]) if number not in entered]
    return [places[number] for number in range(len(places))]


def _join(after: dict[int, set[int]], parts: set[int]) -> None:
    """Let these be one in the order: what comes before or after one of them does so for all."""
    before = set().union(*(after[part] for part in parts)) - parts
    for number, earlier in after.items():
        if number in parts:
            earlier |= before
            earlier -= parts
        elif earlier & parts:
            earlier |= parts


def _bind_index(call: ClassMethodNode) -> int:
    return int(call._get_bind_index() or 0)


def _source_of(node: DAGNode) -> DAGNode:
    """The call of which this is a result, or the node itself."""
    return node.class_method_call if _is_output(node) else node


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


def _transports(
    call: ClassMethodNode, results: int, default: Any, actors: dict[str, Actor]
) -> tuple[TensorTransport | None, ...]:
    """What was asked for each result: at the call, or at one of its several results."""
    asked: list[DAGNode] = [call] * results
    for node in call._downstream_nodes:
        if _is_output(node) and node.class_method_call is call:
            asked[int(node.output_idx)] = node
    found = tuple(_transport(node, _name(call), default, actors) for node in asked)
    return found if any(found) else ()


def _transport(node: DAGNode, name: str, default: Any, actors: dict[str, Actor]) -> TensorTransport | None:
    transport = read_transport(node, name, default)
    if transport is None or transport.communicator is None:
        return transport
    return replace(transport, ranks=ranks_of(transport.communicator, actors.values()))


class _Arguments:
    """Turns what was bound into sources."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers
        self._endless: set[int] = set()  # containers that hold themselves, by identity

    def sources(self, call: ClassMethodNode) -> tuple[tuple[Source, ...], tuple[tuple[str, Source], ...]]:
        """The positional and the keyword arguments of a call."""
        hidden = {id(node): node for node in call._upstream_nodes}
        args = tuple(self._source(call, arg, hidden) for arg in call.get_args())
        kwargs = tuple((name, self._source(call, arg, hidden)) for name, arg in call.get_kwargs().items())
        for node in hidden.values():
            raise GraphError(
                f"{_name(call)} takes {_name(node)} inside an object, where its value cannot be put: bind it as "
                "an argument of its own, or in a list, tuple or named tuple, or as a value of a dict"
            )
        return args, kwargs

    def output(self, end: Any) -> FromNode | FromInput:
        if not isinstance(end, DAGNode):
            raise GraphError(f"MultiOutputNode takes nodes; got {type(end).__name__}")
        return self._value(end)

    def _source(self, call: ClassMethodNode, arg: Any, hidden: dict[int, DAGNode]) -> Source:
        """Where an argument comes from; the nodes in it are taken out of ``hidden``."""
        source = self._parts_of(call, arg, hidden, ())
        # Containers of constants alone are constants, unless they lie in one that is made anew.
        return Const(arg) if _is_constant(source) else source

    def _parts_of(
        self, call: ClassMethodNode, arg: Any, hidden: dict[int, DAGNode], around: tuple[int, ...]
    ) -> Source:
        if isinstance(arg, DAGNode):
            hidden.pop(id(arg), None)
            return self._value(arg)
        kind = type(arg)
        if kind in (list, tuple) or (isinstance(arg, tuple) and hasattr(kind, "_fields")):
            parts, keys = tuple(arg), ()
        elif kind is dict:
            parts, keys = tuple(arg.values()), tuple(arg)
        else:
            return Const(arg)
        if id(arg) in around:
            self._endless.add(id(arg))
            return Const(arg)  # it holds itself, which nothing but a constant can
        inside = (*around, id(arg))
        packed = Packed(kind, tuple(self._parts_of(call, part, hidden, inside) for part in parts), keys)
        if id(arg) in self._endless and not _is_constant(packed):
            raise GraphError(
                f"{_name(call)} takes a {kind.__name__} that holds itself and a node, so that it cannot be made "
                "anew for each execution: bind the node as an argument of its own, or without the circle"
            )
        return packed

    def _value(self, node: DAGNode) -> FromNode | FromInput:
        if isinstance(node, InputNode):
            return FromInput(None)
        if isinstance(node, InputAttributeNode):
            return FromInput(node.key)
        if _is_output(node):
            return FromNode(self._numbers[id(node.class_method_call)], int(node.output_idx))
        if isinstance(node, MultiOutputNode):
            raise GraphError("a MultiOutputNode can only be the end of a DAG")
        return FromNode(self._numbers[id(node)])


def _is_constant(source: Source) -> bool:
    return all(isinstance(leaf, Const) for leaf in leaves((source,)))


def _signature(nodes: list[DAGNode], read: set[FromInput]) -> Signature:
    """What an execution takes, of a graph with these nodes that reads these parts of the input."""
    inputs = [node for node in nodes if isinstance(node, InputNode)]
    if not inputs:
        raise GraphError(
            "the DAG has no InputNode: build it inside `with InputNode() as x:` and bind x where the input goes"
        )
    if len(inputs) > 1:
        raise GraphError("the DAG has two InputNodes: build it from one, and read parts of it as x[0], x[1]")
    direct = FromInput(None) in read
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
