"""A graph as text."""

from __future__ import annotations

from collections.abc import Callable

from async_adag.graph.model import Const, FromInput, FromNode, Source
from async_adag.graph.plan import DRIVER, Channel, Plan


def draw_text(plan: Plan, transport: Callable[[int], str]) -> str:
    """The plan in the order of flow: the input and its keys, actors with their nodes and channels, the output.

    Args:
        plan: the plan.
        transport: what moves a channel's frames, in words.
    """
    graph = plan.graph
    signature = graph.signature
    keys = [f"[{position}]" for position in range(signature.positional)] if _by_part(plan) else []
    keys += [f"[{name!r}]" for name in signature.keywords]
    lines = [f"Input {' '.join(keys)}".rstrip()]
    lines += [_channel(plan, channel, transport) for channel in plan.inputs()]
    for actor in graph.actors:
        lines.append(str(actor))
        for node in graph.nodes:
            if node.actor != actor.number:
                continue
            arguments = [_source(plan, source) for source in node.args]
            arguments += [f"{name}={_source(plan, source)}" for name, source in node.kwargs]
            lines.append(f"  {node.method}({', '.join(arguments)})  #{node.number}")
            lines += [
                "  " + _channel(plan, channel, transport)
                for channel in plan.channels
                if channel.writer == actor.number and _node_of(channel) == node.number
            ]
    outputs = [_source(plan, output) for output in graph.outputs]
    lines.append(f"Output {'[' + ', '.join(outputs) + ']' if graph.multi else outputs[0]}")
    return "\n".join(lines)


def _by_part(plan: Plan) -> bool:
    return not any(
        isinstance(source, FromInput) and source.key is None
        for node in plan.graph.nodes
        for source in node.sources()
    )


def _node_of(channel: Channel) -> int:
    value = channel.values[0]
    return value.node if isinstance(value, FromNode) else DRIVER


def _channel(plan: Plan, channel: Channel, transport: Callable[[int], str]) -> str:
    readers = ", ".join("Output" if r == DRIVER else str(plan.graph.actors[r]) for r in channel.readers)
    values = ", ".join(_source(plan, value) for value in channel.values) or "trigger"
    return f"  channel {channel.number}: {values} -> {readers}  [{transport(channel.number)}]"


def _source(plan: Plan, source: Source) -> str:
    if isinstance(source, Const):
        text = repr(source.value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    if isinstance(source, FromInput):
        return "input" if source.key is None else f"input[{source.key!r}]"
    node = plan.graph.nodes[source.node]
    return f"#{source.node}" if node.returns == 1 else f"#{source.node}[{source.index}]"
