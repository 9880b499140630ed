"""The timeline that is made of records: of a plan written by hand, whose processes told what one likes."""

from __future__ import annotations

import io
import json

from async_adag.actor.records import Activity, Record
from async_adag.graph.model import FromInput, FromNode
from async_adag.graph.plan import DRIVER
from async_adag.graph.planner import plan_graph
from async_adag.observe.timeline import Log, Timeline, write_timeline
from tests.graphs import build_graph
from tests.timelines import check_events, names_of, spans, ways

US = 1000
WAIT, READ, COMPUTE, WRITE = Activity.WAIT, Activity.READ, Activity.COMPUTE, Activity.WRITE

PAIR = plan_graph(build_graph((0, [FromInput(None)]), (1, [FromNode(0)])))
"""The driver, an actor, another, and back: channels 0, 1 and 2."""


def execution(seq, at, step=10 * US, failed=False):
    """The records of one execution by process, with a step between any two events."""
    names = [
        (DRIVER, WRITE, 0),
        (0, READ, 0),
        (0, COMPUTE, 0),
        (0, WRITE, 1),
        (1, READ, 1),
        (1, COMPUTE, 0),
        (1, WRITE, 2),
        (DRIVER, READ, 2),
    ]
    found = {DRIVER: [], 0: [], 1: []}
    for place, (process, what, number) in enumerate(names):
        begin = at + 2 * place * step
        end = begin + step
        found[process].append(Record(what, number, seq, begin, end, failed and (process, what) == (DRIVER, READ)))
    return found


def timeline_of(*executions, plan=PAIR, began=1, ended=10**9, admitted=100, lost=None):
    logs = {
        process: Log([record for one in executions for record in one[process]], (lost or {}).get(process, 0))
        for process in executions[0]
    }
    return Timeline(plan, logs, began, ended, admitted)


def checked(timeline):
    events = timeline.events()
    check_events(events)
    return events


def test_an_execution_goes_from_the_driver_through_the_actors_and_back():
    events = checked(timeline_of(execution(0, 1000), execution(1, 500_000)))
    for seq in (0, 1):
        assert ways(events, seq) == {
            ("driver: write channel 0", "Actor0: read channel 0"),
            ("Actor0: read channel 0", "Actor0: method0"),
            ("Actor0: method0", "Actor0: write channel 1"),
            ("Actor0: write channel 1", "Actor1: read channel 1"),
            ("Actor1: read channel 1", "Actor1: method1"),
            ("Actor1: method1", "Actor1: write channel 2"),
            ("Actor1: write channel 2", "driver: read channel 2"),
        }
    (flight, _) = spans(events, cat="in flight")
    assert (flight["ts"], flight["dur"], flight["name"]) == (1.0, 150.0, "execution 0")


def test_names_and_order_of_processes_and_lanes():
    events = checked(timeline_of(execution(0, 1000)))
    assert list(names_of(events, "process_name").values()) == [
        *("1 driver", "2 Actor0(000000)", "3 Actor1(000000)")
    ]
    assert list(names_of(events, "thread_name").values()) == [
        *("in flight", "read", "write"),
        *("read", "compute", "write"),
        *("read", "compute", "write"),
    ]


def test_spans_that_overlap_are_drawn_in_lanes_of_their_own():
    both = [execution(0, 1000), execution(1, 1000 + 5 * US), execution(2, 1000 + 150 * US)]
    events = checked(timeline_of(*both))
    lanes = [names_of(events, "thread_name")[e["pid"], e["tid"]] for e in spans(events, name="method0")]
    assert lanes == ["compute", "compute 2", "compute"]


def test_what_had_begun_before_is_cut_off_and_what_had_ended_is_left_out():
    events = checked(timeline_of(execution(0, 1000), began=1000 + 25 * US))
    assert spans(events, name="write channel 0") == []
    (read,) = spans(events, name="read channel 0")
    assert (read["ts"], read["dur"]) == (26.0, 5.0)
    assert spans(events, cat="in flight") == [], "nobody knows when it was admitted"
    assert ("driver: write channel 0", "Actor0: read channel 0") not in ways(events, 0)


def test_an_execution_whose_result_is_not_there_is_in_flight_until_the_end():
    one = execution(0, 1000)
    one[DRIVER].pop()
    (flight,) = spans(checked(timeline_of(one, ended=1000 + 500 * US)), cat="in flight")
    assert (flight["dur"], flight["args"]) == (500.0, {"execution": 0, "unfinished": True})


def test_a_failure_is_marked():
    events = checked(timeline_of(execution(0, 1000, failed=True)))
    marked = [e["name"] for e in events if e.get("args", {}).get("failed")]
    assert marked == ["execution 0", "read channel 2"]


def test_a_frame_of_no_execution_is_left_out():
    events = checked(timeline_of(execution(0, 1000), execution(1, 500_000), admitted=1))
    assert spans(events, execution=1) == []


def test_records_that_the_plan_cannot_have_are_left_out():
    one = execution(0, 1000)
    one[0] += [Record(COMPUTE, 7, 0, 10, 20), Record(READ, 7, 0, 10, 20)]
    one[DRIVER].append(Record(COMPUTE, 0, 0, 10, 20))
    assert checked(timeline_of(one)) == checked(timeline_of(execution(0, 1000)))


def test_spans_without_length_can_be_seen():
    (read,) = spans(checked(timeline_of(execution(0, 1000, step=0))), name="read channel 0")
    assert read["dur"] == 0.001


def test_what_is_waited_for():
    one = execution(0, 1000)
    one[0] += [Record(WAIT, 0, 0, 500, 900), Record(WAIT, 1, 0, 1000 + 60 * US, 1000 + 65 * US)]
    events = checked(timeline_of(one))
    assert [e["name"] for e in spans(events, cat="wait")] == [
        "wait for channel 0",
        "wait for room in channel 1",
    ]


def test_lanes_of_a_gpu():
    one = execution(0, 1000)
    one[1] += [Record(kind, 0, 0, 100, 200) for kind in (Activity.RECEIVE, Activity.DEVICE, Activity.SEND)]
    events = checked(timeline_of(one))
    lanes = list(names_of(events, "thread_name").values())
    assert lanes[-3:] == ["GPU receive", "GPU compute", "GPU send"]
    assert [e["name"] for e in spans(events, cat="GPU compute")] == ["method1"]


def test_a_graph_that_gives_back_its_input_alone():
    plan = plan_graph(build_graph((0, [FromInput(None)]), outputs=[FromInput(None)]))
    one = {DRIVER: [Record(WRITE, 0, 0, 1000, 2000)], 0: []}
    (flight,) = spans(checked(timeline_of(one, plan=plan)), cat="in flight")
    assert flight["args"] == {"execution": 0}


def test_the_file_tells_what_was_lost():
    file = io.StringIO()
    timeline = timeline_of(execution(0, 1000), lost={1: 12})
    write_timeline(timeline, file)
    told = json.loads(file.getvalue())
    assert told["traceEvents"] == timeline.events()
    assert told["otherData"]["lost_records"] == {"Actor1(000000)": 12}


def test_executions_and_their_nodes():
    one = timeline_of(execution(0, 1000), execution(1, 500_000, failed=True)).executions()
    assert [(e.number, e.began, e.ended, e.failed) for e in one] == [
        (0, 1000, 1000 + 150 * US, False),
        (1, 500_000, 500_000 + 150 * US, True),
    ]
    assert [(node, record.began) for node, record in one[0].nodes] == [(0, 1000 + 40 * US), (1, 1000 + 100 * US)]


def test_processes_are_in_order_by_their_names_too():
    twelve = plan_graph(build_graph(*((n, [FromNode(n - 1) if n else FromInput(None)]) for n in range(12))))
    nothing = {process: [] for process in (DRIVER, *range(12))}
    names = list(names_of(checked(timeline_of(nothing, plan=twelve)), "process_name").values())
    assert names[:2] == ["01 driver", "02 Actor0(000000)"]
    assert names == sorted(names)
