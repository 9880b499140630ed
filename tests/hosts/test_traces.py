"""What one sees of actors on other hosts: timelines on one clock, and how far their channels are."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import re
import signal
import time

import pytest
import ray
from ray.dag import InputNode

import async_adag
from async_adag import GraphBroken
from async_adag.actor import traced
from async_adag.actor.records import CAPACITY, count_of
from async_adag.driver import abroad
from async_adag.driver.remote_actor import RemoteActor
from tests.actors import Worker
from tests.nodes import on
from tests.timelines import check_trace, names_of, spans

AHEAD = 1_000_000.0  # seconds
plain = time.monotonic_ns, traced.monotonic_ns


def chain(*actors, held=None):
    with InputNode() as x:
        node = x
        for actor in actors:
            node = (actor.hold_or_echo if actor is held else actor.echo).bind(node)
    return node


async def run_on(compiled):
    """Run executions until one fails."""
    while True:
        await compiled(1)


def shift_clock(seconds):
    """Have this process live on a host whose clock is ahead by that; 0: as it was."""
    real = plain[0]
    shifted = (lambda: real() + round(seconds * 1e9)) if seconds else real
    time.monotonic_ns = traced.monotonic_ns = shifted


@pytest.fixture
def elsewhere(there):
    """The actors on the other host, whose clock is far ahead."""
    ray.get([actor.call.remote(shift_clock, AHEAD) for actor in there[:2]])
    yield there
    ray.get([actor.call.remote(shift_clock, 0) for actor in there[:2]])


def processes(trace):
    """The names of processes, without the numbers by which they are in order."""
    return {pid: name.partition(" ")[2] for pid, name in names_of(trace.events, "process_name").items()}


async def test_a_timeline_is_on_one_clock(here, elsewhere, tmp_path):
    """Each step of an execution ends before the next host's begins: as exactly as is said."""
    path = tmp_path / "trace.json"
    actors = [here[0], elsewhere[0], elsewhere[1]]
    async with async_adag.compile(chain(*actors)) as compiled:
        await compiled(0)
        async with compiled.trace(path) as trace:
            for n in range(5):
                assert await compiled(n) == n
    told = json.loads(path.read_text())
    assert told["traceEvents"] == trace.events
    names = [f"Worker({actor._actor_id.hex()[:6]})" for actor in actors]
    assert list(processes(trace).values()) == ["driver", *names]
    assert trace.lost == {}
    assert trace.missing == []
    assert trace.clock_errors.keys() == {*names[1:]}
    assert told["otherData"]["clock_error_s"] == trace.clock_errors
    error = max(trace.clock_errors.values()) * 1e6
    assert 0 < error < 1e6
    for n in range(1, 6):
        (flight,) = spans(trace.events, cat="in flight", execution=n)
        by_name = {processes(trace)[s["pid"]]: s for s in spans(trace.events, cat="compute", execution=n)}
        steps = [by_name[name] for name in names]
        times = [
            flight["ts"],
            *(at for s in steps for at in (s["ts"], s["ts"] + s["dur"])),
            flight["ts"] + flight["dur"],
        ]
        assert all(later - earlier > -2 * error for earlier, later in itertools.pairwise(times))
        (_, first), (second, _) = ((s["ts"], s["ts"] + s["dur"]) for s in steps[1:])
        assert first <= second + 0.01, "on one host they are in order whatever the clock"


async def test_the_first_execution_is_recorded_everywhere(here, there):
    """The block begins when those on the other host record."""
    async with async_adag.compile(chain(there[0], here[0])) as compiled:
        for n in range(20):
            with compiled.trace() as trace:
                await compiled(n)
            check_trace(trace)
            assert [event["name"] for event in spans(trace.events, cat="compute", execution=n)] == ["echo", "echo"]
        await compiled(20)


def count_records():
    """In the actor: how many records it has made."""
    import gc

    from async_adag.actor.control import Control
    from async_adag.actor.records import records_in

    gc.collect()  # those of earlier graphs
    pages = [one for one in gc.get_objects() if type(one) is Control]
    return [count_of(records_in(page.records)) for page in pages]


async def test_nothing_is_recorded_before_and_after(there):
    async with async_adag.compile(chain(there[0])) as compiled:
        await compiled(1)
        assert await there[0].call.remote(count_records) == [0]
        async with compiled.trace():
            await compiled(1)
        await compiled(2)  # the loop may have waited for this one before it was told
        before = await there[0].call.remote(count_records)
        assert before[0]
        await compiled(3)
        assert await there[0].call.remote(count_records) == before


def pretend_many_records():
    """In the actor: as if it had written that many more."""
    import gc

    from async_adag.actor.control import Control
    from async_adag.actor.records import records_in

    for one in gc.get_objects():
        if type(one) is Control:
            records_in(one.records)[0] += CAPACITY


async def test_records_that_are_lost_are_counted(there):
    async with async_adag.compile(chain(there[0]), max_inflight=100) as compiled:
        async with compiled.trace() as trace:
            async for _ in compiled.map(range(10)):
                pass
            await there[0].call.remote(pretend_many_records)
        async with compiled.trace() as next_one:
            await compiled(1)
    (lost,) = trace.lost.items()
    assert lost[0] == f"Worker({there[0]._actor_id.hex()[:6]})"
    assert lost[1] > 1
    assert next_one.lost == {}, "those of an earlier one do not count"


async def test_a_full_ring_of_records_comes_across(here, there):
    """It is megabytes, in pieces."""
    async with async_adag.compile(chain(there[0]), max_inflight=50) as compiled, compiled.trace() as trace:
        async for _ in compiled.map(range(CAPACITY // 3)):
            pass
    assert len(spans(trace.events, cat="compute")) > CAPACITY // 5
    assert all(lost < CAPACITY for lost in trace.lost.values())


async def test_a_graph_that_is_closed_meanwhile(here, there):
    async with async_adag.compile(chain(here[0], there[0])) as compiled, compiled.trace() as trace:
        await compiled(1)
        await compiled.aclose()
    check_trace(trace)
    assert [event["name"] for event in spans(trace.events, cat="compute", execution=0)] == ["echo", "echo"]
    assert trace.missing == []


async def test_an_actor_that_dies_meanwhile_is_missing(here, there, second):
    victim = Worker.options(**on(1)).remote()
    compiled = async_adag.compile(chain(there[0], victim))
    async with compiled.trace() as trace:
        assert await compiled(1) == 1
        os.kill(await victim.pid.remote(), signal.SIGKILL)
        with pytest.raises(GraphBroken):
            await run_on(compiled)
    compiled.teardown()
    assert trace.missing == [f"Worker({victim._actor_id.hex()[:6]})"]
    (step,) = spans(trace.events, cat="compute", execution=0)
    assert processes(trace)[step["pid"]] == f"Worker({there[0]._actor_id.hex()[:6]})"


async def test_an_actor_that_does_not_answer_is_missing(there, monkeypatch):
    monkeypatch.setattr(abroad, "GATHERED", 0.1)
    monkeypatch.setattr(RemoteActor, "ask_for_records", lambda self: None)
    async with async_adag.compile(chain(there[0])) as compiled:
        async with compiled.trace() as trace:
            await compiled(1)
        assert trace.missing == [f"Worker({there[0]._actor_id.hex()[:6]})"]
        assert len(spans(trace.events, cat="in flight")) == 1
        assert await compiled(2) == 2


async def test_an_actor_that_is_busy_still_tells(here, there, gate):
    """Its attendant answers while its method computes."""
    async with async_adag.compile(chain(there[0], held=there[0])) as compiled:
        async with compiled.trace() as trace:
            held = await compiled.execute_async(gate.path)
            await asyncio.to_thread(gate.entered)
        assert trace.missing == []
        gate.open("held")
        assert await held == "held"


def dumped(compiled):
    file = io.StringIO()
    compiled.dump(file)
    return re.sub(r"\([0-9a-f]{6}\)", "", file.getvalue())


async def test_dump_says_where_executions_are_on_the_other_host(here, there, gate):
    """As on one host: what waits before whom, in rings that the driver does not see."""
    async with async_adag.compile(chain(there[0], there[1], here[0], held=there[1])) as compiled:
        futures = [await compiled.execute_async(gate.path)]
        await asyncio.to_thread(gate.entered)
        futures += [await compiled.execute_async(n) for n in (1, 2)]
        wanted = (
            "  0: input: driver (has written 3) -> Worker (has taken 3)\n"
            "  1: #0: Worker (has written 3) -> Worker (has taken 1)\n"
            "  2: #1: Worker (has written 0) -> Worker (has taken 0)\n"
        )
        while wanted not in (text := dumped(compiled)) or "asleep until news of channel 0" not in text:
            pass
        assert "  1: in channel 1, for Worker; output 0 missing" in text
        assert "hold_or_echo on Worker: computing execution 0 since" in text
        gate.open("held")
        assert await asyncio.gather(*futures) == ["held", 1, 2]


def test_pages_of_the_other_hosts_clock(elsewhere, gate):
    """How long it has been computing is told by this host's clock."""
    with async_adag.compile(chain(elsewhere[0], held=elsewhere[0])) as compiled:
        ref = compiled.execute(gate.path)
        gate.entered()
        while not (found := re.search(r"computing execution 0 since (\d+\.\d) s", dumped(compiled))):
            pass
        assert float(found[1]) < 60
        gate.open("held")
        assert ref.get(timeout=100) == "held"
