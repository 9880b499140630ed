"""A timeline in Chrome's trace event format, which Perfetto reads: from what each process has recorded.

Each process of the graph is a process there, and each activity a lane of it; a lane in which spans overlap, as
executions do that interleave, is drawn as several. Arrows lead each execution from whoever writes a frame to
whoever reads it, on to the node that needs it, and to what that writes. Times are microseconds of the clock of
`time.monotonic`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

from async_adag.actor.records import Activity, Record
from async_adag.graph.plan import DRIVER, Plan
from async_adag.observe.words import printable

Event = dict[str, Any]

LANES = {
    Activity.WAIT: "wait",
    Activity.READ: "read",
    Activity.COMPUTE: "compute",
    Activity.WRITE: "write",
    Activity.RECEIVE: "GPU receive",
    Activity.DEVICE: "GPU compute",
    Activity.SEND: "GPU send",
}
_OF_TASKS = (Activity.COMPUTE, Activity.DEVICE)
_IN_FLIGHT = 0  # the driver's lane above the others
_LANES_APART = 100_000  # between the numbers of lanes; in between are those that they are drawn as


@dataclass(frozen=True, slots=True)
class Log:
    """What one process has recorded.

    Attributes:
        records: those.
        lost: how many it has lost, as later ones took their places.
        clock_error: how many nanoseconds its times may be wrong, either way: it lives on another host.
    """

    records: list[Record]
    lost: int = 0
    clock_error: int = 0


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution, as the driver saw it.

    Attributes:
        number: counted from 0.
        began: when it was admitted, in nanoseconds.
        ended: when its last result arrived; None where one has not.
        failed: whether a result was a failure.
        nodes: what its nodes did, and the numbers of those.
    """

    number: int
    began: int
    ended: int | None
    failed: bool
    nodes: tuple[tuple[int, Record], ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """A record with its place in the timeline."""

    process: int
    lane: int
    record: Record


class Timeline:
    """What all processes of a graph did in a span of time.

    Args:
        plan: of the graph.
        logs: by process.
        began: when recording began, in nanoseconds; what had begun before is shown from there.
        ended: when it ended.
        admitted: how many executions the graph had begun by then.
    """

    def __init__(self, plan: Plan, logs: Mapping[int, Log], began: int, ended: int, admitted: int) -> None:
        self._plan = plan
        self._logs = logs
        self._began = began
        self._ended = ended
        self._events: list[Event] | None = None  # made when first asked for
        self._records = {
            process: [
                replace(record, began=max(record.began, began))
                for record in log.records
                if began < record.ended and record.execution < admitted and self._exists(process, record)
            ]
            for process, log in logs.items()
        }

    def lost(self) -> dict[str, int]:
        """Records that were lost, by the names of the processes that lost some."""
        return {self._name(process): log.lost for process, log in self._logs.items() if log.lost}

    def missing(self) -> list[str]:
        """The names of the processes that have no log."""
        return [self._name(actor.actor) for actor in self._plan.actors if actor.actor not in self._logs]

    def clock_errors(self) -> dict[str, float]:
        """Seconds that times may be wrong, either way, by the names of the processes that have another clock."""
        return {self._name(n): log.clock_error / 1e9 for n, log in self._logs.items() if log.clock_error}

    def label(self, node: int) -> str:
        """A node in words."""
        return printable(self._plan.graph.label(node))

    def executions(self) -> list[Execution]:
        """Those that were admitted meanwhile, and not lost."""
        sent: dict[int, list[Record]] = {}
        results: dict[int, list[Record]] = {}
        for record in self._records.get(DRIVER, ()):
            by_execution = sent if record.activity is Activity.WRITE else results
            by_execution.setdefault(record.execution, []).append(record)
        nodes: dict[int, list[tuple[int, Record]]] = {}
        for process, records in self._records.items():
            for record in records:
                if record.activity is Activity.COMPUTE:
                    node = self._plan.actors[process].tasks[record.number].node
                    nodes.setdefault(record.execution, []).append((node, record))
        found = []
        for seq, inputs in sorted(sent.items()):
            awaited = len(self._plan.results())
            last = results.get(seq, []) if awaited else inputs
            arrived = len(last) >= awaited
            found.append(
                Execution(
                    seq,
                    min(record.began for record in inputs),
                    max(record.ended for record in last) if arrived else None,
                    any(record.failed for record in last),
                    tuple(sorted(nodes.get(seq, ()), key=lambda one: one[1].began)),
                )
            )
        return found

    def events(self) -> list[Event]:
        """The trace events: names, then spans by the time of their beginnings, then arrows."""
        if self._events is None:
            self._events = self._make_events()
        return self._events

    def _make_events(self) -> list[Event]:
        spans = [
            _Span(process, activity, record)
            for process, records in self._records.items()
            for activity in Activity
            for record in records
            if record.activity is activity
        ]
        drawn = [(span, self._event(span)) for span in spans]
        flights = [
            (_Span(DRIVER, _IN_FLIGHT, Record(Activity.WAIT, 0, one.number, one.began, end)), event)
            for one in self.executions()
            for end, event in (self._flight(one),)
        ]
        _assign_lanes([*drawn, *flights])
        events = sorted((event for _, event in [*flights, *drawn]), key=lambda event: float(event["ts"]))
        arrows = list(self._arrows({(s.process, s.record): event for s, event in drawn}))
        return [*self._names(events), *events, *arrows]

    def as_json(self) -> Event:
        """The whole file."""
        return {
            "traceEvents": self.events(),
            "displayTimeUnit": "ns",
            "otherData": {
                "producer": "async_adag",
                "clock": "CLOCK_MONOTONIC",
                "lost_records": self.lost(),
                "clock_error_s": self.clock_errors(),
                "missing": self.missing(),
            },
        }

    def _exists(self, process: int, record: Record) -> bool:
        """Whether the plan has such a thing: what lies in shared memory is not believed any further."""
        if record.activity not in _OF_TASKS:
            return record.number < len(self._plan.channels)
        return process != DRIVER and record.number < len(self._plan.actors[process].tasks)

    def _name(self, process: int) -> str:
        return "driver" if process == DRIVER else printable(self._plan.actors[process].name)

    def _event(self, span: _Span) -> Event:
        record = span.record
        arguments: Event = {"execution": record.execution}
        if record.activity in _OF_TASKS:
            task = self._plan.actors[span.process].tasks[record.number]
            name = printable(task.method)
            arguments |= {"node": task.node, "label": printable(task.label)}
        else:
            channel = self._plan.channels[record.number]
            writes = span.process == channel.writer
            words = "wait for room in" if record.activity is Activity.WAIT and writes else LANES[record.activity]
            if record.activity is Activity.WAIT and not writes:
                words = "wait for"
            name = f"{words} channel {record.number}"
            arguments |= {"channel": record.number, "edge": printable(channel.edge)}
        if record.failed:
            arguments["failed"] = True
        return _complete(name, LANES[record.activity], span.process, record.began, record.ended, arguments)

    def _flight(self, one: Execution) -> tuple[int, Event]:
        """When an execution ended, as far as one can tell, and the event that shows it in flight."""
        arguments: Event = {"execution": one.number}
        if one.failed:
            arguments["failed"] = True
        if one.ended is None:
            arguments["unfinished"] = True
        end = self._ended if one.ended is None else one.ended
        return end, _complete(f"execution {one.number}", "in flight", DRIVER, one.began, end, arguments)

    def _arrows(self, events: Mapping[tuple[int, Record], Event]) -> Iterator[Event]:
        """Arrows between the spans of each execution, in the order in which its values go."""
        channels: dict[tuple[Activity, int, int, int], Event] = {}  # what, process, channel, execution
        tasks: dict[tuple[int, int, int], Event] = {}  # process, task, execution
        for (process, record), event in events.items():
            if record.activity is Activity.COMPUTE:
                tasks[process, record.number, record.execution] = event
            elif record.activity in (Activity.READ, Activity.WRITE):
                channels[record.activity, process, record.number, record.execution] = event
        pairs: list[tuple[int, Event, Event]] = []
        for (what, _, number, seq), event in channels.items():
            writer = self._plan.channels[number].writer
            sent = channels.get((Activity.WRITE, writer, number, seq))
            if what is Activity.READ and sent is not None:
                pairs.append((seq, sent, event))
        for (process, place, seq), event in tasks.items():
            task = self._plan.actors[process].tasks[place]
            reads = [channels.get((Activity.READ, process, read.channel, seq)) for read in task.reads]
            writes = [channels.get((Activity.WRITE, process, write.channel, seq)) for write in task.writes]
            pairs += [(seq, taken, event) for taken in reads if taken is not None]
            pairs += [(seq, event, sent) for sent in writes if sent is not None]
        pairs.sort(key=lambda pair: (pair[0], pair[1]["ts"], pair[2]["ts"]))
        for number, (seq, origin, target) in enumerate(pairs, 1):
            common = {"name": f"execution {seq}", "cat": "execution", "id": number}
            yield {"ph": "s", **common, **_place(origin)}
            yield {"ph": "f", "bp": "e", **common, **_place(target)}

    def _names(self, events: Iterable[Event]) -> list[Event]:
        """What processes and lanes are called, and their order; of those that occur."""
        names = []
        digits = len(str(max(map(_pid, self._records), default=0)))
        for process in self._records:
            pid = _pid(process)
            # The number in front, as Perfetto orders processes by how many spans they have, and only then by name.
            names.append(_metadata("process_name", pid, 0, name=f"{pid:0{digits}} {self._name(process)}"))
            names.append(_metadata("process_sort_index", pid, 0, sort_index=pid))
        lanes = {(event["pid"], event["tid"]): event["cat"] for event in events}
        for (pid, tid), name in sorted(lanes.items()):
            number = tid % _LANES_APART
            names.append(_metadata("thread_name", pid, tid, name=f"{name} {number}" if number > 1 else name))
            names.append(_metadata("thread_sort_index", pid, tid, sort_index=tid))
        return names


def write_timeline(timeline: Timeline, file: IO[str]) -> None:
    """Write the file."""
    json.dump(timeline.as_json(), file)


def _pid(process: int) -> int:
    """A number for a process: the driver's is 1. The system's would not do: a driver may be an actor too."""
    return process - DRIVER + 1


def _complete(name: str, lane: str, process: int, began: int, ended: int, arguments: Event) -> Event:
    """A span as a complete event; of a nanosecond at least, so that arrows find it."""
    return {
        "ph": "X",
        "name": name,
        "cat": lane,
        "pid": _pid(process),
        "tid": 0,
        "ts": began / 1000,
        "dur": max(1, ended - began) / 1000,
        "args": arguments,
    }


def _place(event: Event) -> Event:
    """Where an arrow begins or ends: at the beginning of a span."""
    return {"pid": event["pid"], "tid": event["tid"], "ts": event["ts"]}


def _metadata(what: str, pid: int, tid: int, **arguments: Any) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": arguments}


def _assign_lanes(drawn: list[tuple[_Span, Event]]) -> None:
    """Give each event the number of a lane where it overlaps no other."""
    ends: dict[tuple[int, int], list[int]] = {}  # by process and activity: when each of its lanes is free
    for span, event in sorted(drawn, key=lambda one: one[0].record.began):
        free = ends.setdefault((span.process, span.lane), [])
        began, ended = span.record.began, max(span.record.ended, span.record.began + 1)
        place = next((number for number, end in enumerate(free) if end <= began), len(free))
        free[place : place + 1] = [ended]
        event["tid"] = (span.lane + 1) * _LANES_APART + place + 1
