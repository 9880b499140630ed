"""What a timeline has to keep to, so that Perfetto shows it whole."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

Event = dict[str, Any]


def check_trace(trace: Any) -> None:
    """As `check_events`, of a trace that may be of several hosts."""
    check_events(trace.events, trace.clock_errors)


def check_events(events: list[Event], clock_errors: Mapping[str, float] | None = None) -> None:
    """Every span has its lane to itself and a name for it; every arrow has two ends, in order, in spans.

    Args:
        events: of the timeline.
        clock_errors: by how many seconds the times of some processes may be wrong: arrows may go back by as much.
    """
    slack = 2e6 * max((clock_errors or {}).values(), default=0)
    assert json.loads(json.dumps(events)) == events
    named = {(e["name"], e["pid"], e["tid"]) for e in events if e["ph"] == "M"}
    lanes = defaultdict(list)
    for event in events:
        assert {"ph", "name", "pid", "tid"} <= event.keys()
        assert event["ph"] in "MXsf"
        if event["ph"] == "X":
            assert event["dur"] > 0
            lanes[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for (pid, tid), spans in lanes.items():
        assert ("process_name", pid, 0) in named
        assert ("thread_name", pid, tid) in named
        spans.sort()
        assert all(end <= begin + 1e-4 for (_, end), (begin, _) in itertools.pairwise(spans))
    begun, ended = ({e["id"]: e for e in events if e["ph"] == kind} for kind in "sf")
    assert len(begun) + len(ended) == sum(e["ph"] in "sf" for e in events), "ids are used once"
    assert begun.keys() == ended.keys()
    for number, origin in begun.items():
        target = ended[number]
        assert target["bp"] == "e", "it leads to the span around it, not to the next one"
        assert origin["ts"] <= target["ts"] + slack
        assert (origin["name"], origin["cat"]) == (target["name"], target["cat"])
        for end in (origin, target):
            spans = lanes[end["pid"], end["tid"]]
            assert any(begin <= end["ts"] < finish for begin, finish in spans)


def spans(events: list[Event], **fields: Any) -> list[Event]:
    """The spans with these fields, or arguments, by the time of their beginnings."""
    found = [e for e in events if e["ph"] == "X"]
    for name, value in fields.items():
        found = [e for e in found if e.get(name, e["args"].get(name)) == value]
    return found


def names_of(events: list[Event], what: str) -> dict[Any, str]:
    """The names of processes, by pid, or of lanes, by pid and tid."""
    found = [e for e in events if e["name"] == what]
    return {e["pid"] if what == "process_name" else (e["pid"], e["tid"]): e["args"]["name"] for e in found}


def ways(events: list[Event], execution: int) -> set[tuple[str, str]]:
    """The arrows of an execution: from which span to which, each as its process and name."""
    named = names_of(events, "process_name").items()
    processes = {pid: name.partition(" ")[2].partition("(")[0] for pid, name in named}

    def at(end: Event) -> str:
        (span,) = [
            e for e in spans(events, pid=end["pid"], tid=end["tid"]) if e["ts"] <= end["ts"] < e["ts"] + e["dur"]
        ]
        return f"{processes[end['pid']]}: {span['name']}"

    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    begins = [e for e in events if e["ph"] == "s" and e["name"] == f"execution {execution}"]
    return {(at(begin), at(ends[begin["id"]])) for begin in begins}
