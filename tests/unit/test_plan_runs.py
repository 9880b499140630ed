"""Any plan, run over plain queues, gives what its graph means, execution after execution."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.actor.calls import packed, registers_done
from async_adag.graph.model import Const, FromInput, FromNode, Packed, TensorTransport
from async_adag.graph.plan import DRIVER
from async_adag.graph.planner import plan_graph

EXECUTIONS = 3


@st.composite
def calls(draw):
    """Nodes on a few actors, each taking constants, the input, and results of earlier nodes."""
    by_part = draw(st.booleans())
    keys = [0, 1, "a"] if by_part else [None]
    nodes = []
    results = []
    used = 0  # actors are numbered in the order of their first node
    for number in range(draw(st.integers(1, 7))):
        actor = draw(st.integers(0, min(used, 3)))
        used = max(used, actor + 1)
        sources = [FromInput(key) for key in keys] + [Const("c")] + results
        leaf = st.sampled_from(sources)
        argument = st.recursive(leaf, lambda parts: parts_of(st.lists(parts, max_size=2)), max_leaves=3)
        arguments = draw(st.lists(argument, max_size=4))
        returns = draw(st.integers(1, 3))
        nodes.append((actor, arguments, returns))
        results += [FromNode(number, index) for index in range(returns)]
    # One output at least is a result, so that the graph has something to wait for.
    outputs = [draw(st.sampled_from(results))]
    outputs += draw(st.lists(st.sampled_from(results + [FromInput(key) for key in keys]), max_size=3))
    return nodes, outputs


def parts_of(lists):
    """Containers of these parts."""
    plain = st.builds(lambda kind, parts: Packed(kind, tuple(parts)), st.sampled_from([list, tuple]), lists)
    return plain | st.builds(lambda parts: Packed(dict, tuple(parts), tuple(range(len(parts)))), lists)


def frozen(value):
    """A container as something that hashes, so that results can tell their whole history."""
    if isinstance(value, dict):
        return ("dict", *((key, frozen(part)) for key, part in value.items()))
    return (type(value).__name__, *map(frozen, value)) if isinstance(value, list | tuple) else value


def result(node, index, arguments):
    """What a node returns: a value that tells its whole history."""
    return f"{node.method}.{index}{[frozen(argument) for argument in arguments]}"


def meaning(graph, inputs):
    """The outputs of one execution, straight from the graph."""
    values = {}

    def value(source):
        if isinstance(source, Const):
            return source.value
        if isinstance(source, Packed):
            parts = [value(part) for part in source.parts]
            return dict(zip(source.keys, parts, strict=True)) if source.type is dict else source.type(parts)
        return inputs[source.key] if isinstance(source, FromInput) else values[source]

    for node in graph.nodes:
        arguments = [value(source) for source in (*node.args, *(source for _, source in node.kwargs))]
        for index in range(node.returns):
            values[FromNode(node.number, index)] = result(node, index, arguments)
    return [value(output) for output in graph.outputs]


class Blocked(Exception):
    """An actor has to wait for a frame."""


class Process:
    """One actor: it goes as far as it can, and is called again for more."""

    def __init__(self, plan, actor, queues):
        self.plan = plan
        self.actor = actor
        self.queues = queues
        self.begun = 0  # method calls
        self.steps = self.run()

    def run(self):
        while True:
            registers = [*self.actor.constants, *[None] * (self.actor.registers - len(self.actor.constants))]
            for task, done in zip(self.actor.tasks, registers_done(self.actor), strict=True):
                for read in task.reads:
                    queue = self.queues[read.channel, self.actor.actor]
                    while not queue:
                        yield
                    frame = queue.popleft()
                    values = frame if len(read.registers) > 1 else (frame,) * len(read.registers)
                    for register, value in zip(read.registers, values, strict=True):
                        registers[register] = value
                self.begun += 1
                for pack in task.packs:
                    registers[pack.register] = packed(pack, [registers[part] for part in pack.parts])
                arguments = [registers[register] for register in task.args]
                arguments += [registers[register] for _, register in task.kwargs]
                node = self.plan.graph.nodes[task.node]
                for index, register in enumerate(task.results):
                    registers[register] = result(node, index, arguments)
                for write, emptied in zip(task.writes, done, strict=True):
                    values = tuple(registers[register] for register in write.registers)
                    for register in emptied:
                        registers[register] = "emptied"  # would be seen in the results
                    send(self.plan, self.queues, write.channel, values if len(values) > 1 else values[0])
            yield


def send(plan, queues, channel, frame):
    for reader in plan.channels[channel].readers:
        queues[channel, reader].append(frame)


@settings(max_examples=150)
@given(calls(), st.randoms(use_true_random=False), st.sets(st.integers(0, 6)))
def test_every_plan_gives_what_its_graph_means(make_graph, made, random, moved):
    """Also where a communicator carries the results of some nodes."""
    nodes, outputs = made
    graph = make_graph(*nodes, outputs=outputs)
    by = TensorTransport("shm", communicator="one", ranks=tuple(range(len(graph.actors))))
    changed = [replace(one, transports=(by,) * one.returns) if one.number in moved else one for one in graph.nodes]
    graph = replace(graph, nodes=tuple(changed))
    plan = plan_graph(graph)
    queues = {(c.number, reader): deque() for c in plan.channels for reader in c.readers}
    processes = [Process(plan, actor, queues) for actor in plan.actors]

    expected = []
    for execution in range(EXECUTIONS):
        inputs = {key: f"{key} of {execution}" for key in (None, 0, 1, "a")}
        expected.append(meaning(graph, inputs))
        for channel in plan.inputs():
            values = tuple(inputs[value.key] for value in channel.values)
            send(plan, queues, channel.number, values[0] if len(values) == 1 else values or None)

    # Everybody runs until nobody moves: every round something moves, or all are done.
    while True:
        before = {key: len(queue) for key, queue in queues.items()}
        for process in random.sample(processes, len(processes)):
            next(process.steps)
        if before == {key: len(queue) for key, queue in queues.items()}:
            break

    arrived = {c.number: list(queues[c.number, DRIVER]) for c in plan.results()}
    for execution in range(EXECUTIONS):
        frames = {number: frames[execution] for number, frames in arrived.items()}
        got = []
        for output in plan.outputs:
            if isinstance(output, FromInput):
                got.append(f"{output.key} of {execution}")
            else:
                frame = frames[output.channel]
                got.append(frame if output.position is None else frame[output.position])
        assert got == expected[execution]
    assert all(len(frames) == EXECUTIONS for frames in arrived.values())
    assert not any(queue for (_, reader), queue in queues.items() if reader != DRIVER)
    for process in processes:
        # No node runs before its execution has begun: its actor begins with a read.
        assert process.begun == EXECUTIONS * len(process.actor.tasks)
