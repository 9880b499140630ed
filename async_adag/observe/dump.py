"""The state of a graph in words: what every loop does, how far every channel is, what is in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from async_adag.actor.control import Control, LoopSnapshot, LoopState
from async_adag.channels.gauge import Gauge, Level
from async_adag.graph.plan import DRIVER, Channel, Plan
from async_adag.observe.words import describe

SHOWN = 20  # executions, the oldest first


@dataclass(frozen=True, slots=True)
class InFlight:
    """An execution in flight: its number, and the outputs that have not arrived, by number."""

    execution: int
    missing: tuple[int, ...]


def describe_state(
    plan: Plan,
    controls: Sequence[Control],
    gauges: Mapping[int, Gauge],
    flights: Sequence[InFlight],
    summary: str,
) -> str:
    """The state in words, some lines.

    Args:
        plan: of the graph.
        controls: the actors' control pages, by actor.
        gauges: of the channels, by number; none of a graph that was closed.
        flights: the executions in flight, oldest first.
        summary: the first line.
    """
    loops = [control.snapshot() for control in controls]
    levels = {number: gauge.read() for number, gauge in gauges.items()}
    lines = [summary, "loops"]
    lines += [f"  {_loop(plan, number, loop, levels)}" for number, loop in enumerate(loops)]
    if levels:
        lines.append("channels")
        lines += [f"  {_channel(plan, channel, levels[channel.number])}" for channel in plan.channels]
    if flights:
        lines.append("executions")
        lines += [f"  {_flight(plan, flight, loops, levels)}" for flight in flights[:SHOWN]]
        if len(flights) > SHOWN:
            lines.append(f"  and {len(flights) - SHOWN} younger ones")
    return "\n".join(lines)


def _name(plan: Plan, process: int) -> str:
    return "driver" if process == DRIVER else plan.actors[process].name


def _loop(plan: Plan, actor: int, loop: LoopSnapshot, levels: Mapping[int, Level]) -> str:
    if loop.state is not LoopState.WAITING:
        return str(loop)
    asleep = []
    for number, level in levels.items():
        channel = plan.channels[number]
        if level.writer_sleeps and channel.writer == actor:
            asleep.append(f"room in channel {number}")
        asleep += [f"channel {number}" for reader in level.sleepers if channel.readers[reader] == actor]
    return f"{loop.actor}: asleep until news of {' or '.join(asleep)}" if asleep else f"{loop.actor}: awake"


def _channel(plan: Plan, channel: Channel, level: Level) -> str:
    values = ", ".join(describe(plan.graph, value) for value in channel.values) or "triggers"
    readers = [
        f"{_name(plan, process)} (has taken {taken})"
        for process, taken in zip(channel.readers, level.taken, strict=True)
    ]
    return (
        f"{channel.number}: {values}: {_name(plan, channel.writer)} (has written {level.written}) -> "
        f"{', '.join(readers)}"
    )


def _flight(plan: Plan, flight: InFlight, loops: Sequence[LoopSnapshot], levels: Mapping[int, Level]) -> str:
    seq = flight.execution
    where = [
        f"computing in {loop.node} since {loop.seconds:.1f} s"
        for loop in loops
        if loop.state is LoopState.COMPUTING and loop.execution == seq
    ]
    for number, level in levels.items():
        channel = plan.channels[number]
        behind = [
            _name(plan, process)
            for process, taken in zip(channel.readers, level.taken, strict=True)
            if taken <= seq < level.written
        ]
        if behind:
            where.append(f"in channel {number}, for {', '.join(behind)}")
    outputs = f"output{'' if len(flight.missing) == 1 else 's'} {', '.join(map(str, flight.missing))}"
    return f"{seq}: {'; '.join(where) or 'on its way'}; {outputs} missing"
