"""Plans a graph: which channels join which processes, and what each actor does in an execution.

A channel joins one process to the set of processes that need the same values, so that a value is written once
however many read it. Values that do not leave their actor stay in its registers. Every actor begins an execution
with a read: that is what starts it, and what tells it to stop; an actor that would not read first is sent an
empty frame, a trigger.

A channel's readers live on one host, so that they share memory: values for several hosts take several channels.

Where a communicator of the user's carries the tensors of a result, both ends wait for one another. All nodes have
one order, and such a transfer has its place right behind the node whose result it carries, at both ends: a reader
receives it ahead of its first node behind that place, needed there or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

from async_adag.graph.model import (
    Const,
    FromInput,
    FromNode,
    Graph,
    Host,
    Node,
    Packed,
    Source,
    TensorTransport,
)
from async_adag.graph.plan import (
    DRIVER,
    ActorPlan,
    Channel,
    Membership,
    Move,
    Output,
    Pack,
    Plan,
    Promise,
    Read,
    Task,
    Write,
    gpu_moves,
    mover_of,
)


def plan_graph(graph: Graph) -> Plan:
    """Plan ``graph``. Deterministic: the same graph gives the same plan."""
    channels = _channels(graph)
    actors = tuple(_actor_plan(graph, channels, actor.number) for actor in graph.actors)
    results: dict[FromInput | FromNode, Output] = {
        value: Output(channel.number, position if len(channel.values) > 1 else None)
        for channel in channels
        if DRIVER in channel.readers
        for position, value in enumerate(channel.values)
    }
    outputs = tuple(out if isinstance(out, FromInput) else results[out] for out in graph.outputs)
    return Plan(graph, channels, actors, outputs)


def _channels(graph: Graph) -> tuple[Channel, ...]:
    consumers: dict[FromInput | FromNode, set[int]] = {}
    for node in graph.nodes:
        for source in node.sources():
            if not isinstance(source, Const):
                consumers.setdefault(source, set()).add(node.actor)
    for output in graph.outputs:
        if isinstance(output, FromNode):
            consumers.setdefault(output, set()).add(DRIVER)

    groups: dict[tuple[int, tuple[int, ...]], list[FromInput | FromNode]] = {}
    for value in sorted((v for v in consumers if isinstance(v, FromInput)), key=_input_order):
        for readers in _by_host(graph, consumers[value]):
            groups.setdefault((DRIVER, readers), []).append(value)
    _add_triggers(graph, groups)
    found = [_channel(graph, number, *key, values) for number, (key, values) in enumerate(groups.items())]
    for node in graph.nodes:
        # Per node, not per actor: a result must not wait for the actor's next node.
        found += _channels_of(graph, node, len(found), consumers)
    return tuple(found)


def _channels_of(
    graph: Graph, node: Node, first: int, consumers: dict[FromInput | FromNode, set[int]]
) -> list[Channel]:
    """The channels of a node's results, numbered from ``first``: those that a communicator carries come last."""
    groups: dict[tuple[_Carrier, tuple[int, ...]], list[FromInput | FromNode]] = {}
    for index in range(node.returns):
        result = FromNode(node.number, index)
        readers = consumers.get(result, set()) - {node.actor}
        mover = node.mover(index)
        moving = readers - {DRIVER} if mover is not None else set()  # the driver is no rank
        by: dict[_Carrier, list[int]] = {}
        for reader in sorted(readers):
            moved = reader in moving
            communicator = id(mover.communicator) if moved and mover is not None else 0
            actor = None if reader == DRIVER else reader
            gpu = "" if moved else graph.gpu_edge(result, actor)
            carrier = _Carrier(moved, gpu, communicator, *graph.staging(result, actor))
            by.setdefault(carrier, []).append(reader)
        for carrier, some in sorted(by.items()):
            for there in _by_host(graph, some):
                groups.setdefault((carrier, there), []).append(result)
    ordered = sorted(groups.items(), key=lambda item: item[0][0].moved)
    return [
        _channel(graph, number, node.actor, readers, values, carrier)
        for number, ((carrier, readers), values) in enumerate(ordered, first)
    ]


def _by_host(graph: Graph, processes: Iterable[int]) -> list[tuple[int, ...]]:
    """These processes, in order, those of each host by themselves."""
    groups: dict[Host | None, list[int]] = {}
    for process in sorted(processes):
        groups.setdefault(host_of(graph, process), []).append(process)
    return [tuple(group) for group in groups.values()]


def host_of(graph: Graph, process: int) -> Host | None:
    """Where a process lives; None where all live on one host."""
    return graph.host(None if process == DRIVER else process)


class _Carrier(NamedTuple):
    """How tensors go to a reader; see `Channel`. Results that go to the same readers alike share a channel."""

    moved: bool = False
    gpu: str = ""
    communicator: int = 0
    to_host: bool = False
    to_gpu: bool = False


def _channel(
    graph: Graph,
    number: int,
    writer: int,
    readers: tuple[int, ...],
    values: list[FromInput | FromNode],
    carrier: _Carrier | None = None,
) -> Channel:
    carried = set(values)
    sources = [graph.label(value.node) for value in values if isinstance(value, FromNode)]
    targets = [
        graph.label(node.number)
        for node in graph.nodes
        if node.actor in readers and not carried.isdisjoint(s for s in node.sources() if not isinstance(s, Const))
    ] or [str(graph.actors[reader]) for reader in readers if reader != DRIVER]
    if DRIVER in readers:
        targets.append("the driver")
    edge = f"{', '.join(dict.fromkeys(sources)) or 'the driver'} to {', '.join(dict.fromkeys(targets))}"
    moved, gpu, _, to_host, to_gpu = carrier or _Carrier()
    remote = host_of(graph, writer) != host_of(graph, readers[0])
    return Channel(number, writer, readers, tuple(values), moved, gpu, to_host, to_gpu, remote, edge)


def _input_order(value: FromInput) -> tuple[bool, int, str]:
    key = value.key
    return isinstance(key, str), key if isinstance(key, int) else 0, key if isinstance(key, str) else ""


def _add_triggers(graph: Graph, groups: dict[tuple[int, tuple[int, ...]], list[FromInput | FromNode]]) -> None:
    idle = set()
    for actor in graph.actors:
        first = next(node for node in graph.nodes if node.actor == actor.number)
        fed = any(actor.number in readers for _, readers in groups)
        if not fed and all(isinstance(source, Const) for source in first.sources()):
            idle.add(actor.number)
    for readers in _by_host(graph, idle):
        groups.setdefault((DRIVER, readers), [])


def _actor_plan(graph: Graph, channels: tuple[Channel, ...], actor: int) -> ActorPlan:
    nodes = [node for node in graph.nodes if node.actor == actor]
    arriving = {value: c for c in channels if actor in c.readers for value in c.values}
    inputs = [c for c in channels if c.writer == DRIVER and actor in c.readers]
    constants: list[Any] = []
    registers: dict[FromInput | FromNode, int] = {}
    unused = itertools.count(sum(isinstance(source, Const) for node in nodes for source in node.sources()))

    def register(value: FromInput | FromNode) -> int:
        if value not in registers:
            registers[value] = next(unused)
        return registers[value]

    def argument(source: Source, packs: list[Pack]) -> int:
        if isinstance(source, Const):
            constants.append(source.value)
            return len(constants) - 1
        if isinstance(source, Packed):
            parts = tuple(argument(part, packs) for part in source.parts)
            packs.append(Pack(next(unused), source.type, parts, source.keys))
            return packs[-1].register
        return register(source)

    tasks: list[Task] = []
    opened: set[int] = set()
    moved = [c for c in channels if c.moved and actor in c.readers]
    for node in nodes:
        sources = [source for source in node.sources() if not isinstance(source, Const)]  # its value may not hash
        needed = [arriving[source] for source in sources if source in arriving]
        if not tasks and not needed:
            # Nothing would hold it back until the execution begins: an input of a later node does, or a trigger.
            needed = inputs[:1]
        # Writers of these wait until they are received, and may have something else for this node only then.
        needed += [channel for channel in moved if _origin(channel) < node.number]
        reads = []
        for channel in sorted(needed, key=lambda channel: channel.number):
            if channel.number not in opened:
                opened.add(channel.number)
                reads.append(Read(channel.number, tuple(register(value) for value in channel.values)))
        results = [FromNode(node.number, index) for index in range(node.returns)]
        writes = [
            Write(c.number, tuple(register(value) for value in c.values), _promises(graph, c))
            for c in channels
            if c.writer == actor and c.values[0] in results
        ]
        packs: list[Pack] = []
        args = tuple(argument(source, packs) for source in node.args)
        kwargs = tuple((name, argument(source, packs)) for name, source in node.kwargs)
        tasks.append(
            Task(
                node=node.number,
                method=node.method,
                label=graph.label(node.number),
                reads=tuple(reads),
                packs=tuple(packs),
                args=args,
                kwargs=kwargs,
                results=tuple(register(result) for result in results),
                writes=tuple(writes),
                collective=node.collective,
            )
        )
    name = str(graph.actors[actor])
    moves = tuple(
        _move(graph, c, actor) for c in channels if c.moved and (actor == c.writer or actor in c.readers)
    )
    members = _memberships(graph, channels, actor)
    return ActorPlan(
        actor, name, tuple(constants), next(unused), tuple(tasks), moves, gpu_moves(channels, actor), members
    )


def _origin(channel: Channel) -> int:
    """The node whose results a channel of an actor carries."""
    (first, *_) = channel.values
    assert isinstance(first, FromNode)
    return first.node


def _move(graph: Graph, channel: Channel, actor: int) -> Move:
    mover = mover_of(graph, channel)
    assert mover is not None
    others = channel.readers if actor == channel.writer else (channel.writer,)
    peers = tuple(rank for other in others if (rank := mover.ranks[other]) is not None)
    readers = ", ".join(str(graph.actors[reader]) for reader in channel.readers)
    edge = f"the edge from {graph.label(_origin(channel))} to {readers}"
    return Move(channel.number, edge, mover.communicator, peers)


def _promises(graph: Graph, channel: Channel) -> tuple[Promise | None, ...]:
    promises = tuple(_promise(graph, value, channel.gpu) for value in channel.values)
    return promises if any(promises) else ()


def _promise(graph: Graph, value: FromInput | FromNode, gpu: str) -> Promise | None:
    assert isinstance(value, FromNode)
    node = graph.nodes[value.node]
    asked = node.transports[value.index] if node.transports else None
    if asked is None or not (asked.static_shape or asked.direct_return) or (asked.kind == "auto" and not gpu):
        return None
    return Promise(graph.label(node.number), asked.static_shape, asked.direct_return, bool(gpu))


def _memberships(graph: Graph, channels: tuple[Channel, ...], actor: int) -> tuple[Membership, ...]:
    """In the order of the nodes: where starting one waits for its ranks, all of them come to it in turn."""
    moved: dict[int, list[TensorTransport]] = {}
    for channel in channels:
        mover = mover_of(graph, channel)
        if mover is not None:
            moved.setdefault(_origin(channel), []).append(mover)
    found: dict[int, tuple[Any, int | None]] = {}

    def note(communicator: Any, rank: int | None) -> None:
        if found.get(id(communicator), (None, None))[1] is None:
            found[id(communicator)] = communicator, rank

    for node in graph.nodes:
        part = node.collective
        if part is not None and part.communicator is not None:
            note(part.communicator, part.rank if node.actor == actor else None)
        for mover in moved.get(node.number, ()):
            note(mover.communicator, mover.ranks[actor])
    return tuple(Membership(communicator, rank) for communicator, rank in found.values() if rank is not None)
