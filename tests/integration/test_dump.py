"""What `dump` prints: where everything is, while everything goes on."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from uuid import uuid4

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import ExecutionTimeout
from tests.gate import wait_at


def dumped(compiled):
    file = io.StringIO()
    compiled.dump(file)
    return re.sub(r"\([0-9a-f]{6}\)", "", file.getvalue())


@pytest.fixture
def chain(workers):
    with InputNode() as x:
        return workers[2].echo.bind(workers[1].hold_or_echo.bind(workers[0].echo.bind(x)))


def until(compiled, *texts):
    """What is dumped once all of these stand in it; the actors take their time to go to sleep."""
    while True:
        text = dumped(compiled)
        if all(part in text for part in texts):
            return text


async def test_executions_behind_a_method_that_hangs(chain, gate):
    async with async_adag.compile(chain, max_inflight=4) as compiled:
        futures = [await compiled.execute_async(gate.path)]
        await asyncio.to_thread(gate.entered)
        futures += [await compiled.execute_async(n) for n in (1, 2)]
        first = "Worker: asleep until news of channel 0"
        last = "Worker: asleep until news of channel 2"
        text = until(compiled, first, last, "channel 1, for Worker; output 0 missing\n  2: in channel 1")
        lines = [re.sub(r"\d\.\d s", "0.0 s", line) for line in text.splitlines()]
        assert lines == [
            "open; 3 of 4 executions in flight, 0 callers in line for a place",
            "loops",
            f"  {first}",
            "  hold_or_echo on Worker: computing execution 0 since 0.0 s",
            f"  {last}",
            "channels",
            "  0: input: driver (has written 3) -> Worker (has taken 3)",
            "  1: #0: Worker (has written 3) -> Worker (has taken 1)",
            "  2: #1: Worker (has written 0) -> Worker (has taken 0)",
            "  3: #2: Worker (has written 0) -> driver (has taken 0)",
            "executions",
            "  0: computing in hold_or_echo on Worker since 0.0 s; output 0 missing",
            "  1: in channel 1, for Worker; output 0 missing",
            "  2: in channel 1, for Worker; output 0 missing",
        ]
        gate.open("held")
        assert await asyncio.gather(*futures) == ["held", 1, 2], "nothing was disturbed"


async def test_an_output_of_several(workers, gate):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].echo.bind(x), workers[1].hold_or_echo.bind(x)])
    async with async_adag.compile(dag) as compiled:
        one, other = await compiled.execute_async(gate.path)
        assert await one == gate.path
        await asyncio.to_thread(gate.entered)
        assert "; output 1 missing" in dumped(compiled)
        gate.open("held")
        assert await other == "held"


async def test_those_that_wait_for_a_place(worker, gate):
    with InputNode() as x:
        dag = worker.hold_or_echo.bind(x)
    async with async_adag.compile(dag, max_inflight=1) as compiled:
        held = await compiled.execute_async(gate.path)
        waiting = asyncio.ensure_future(compiled(1))
        await asyncio.to_thread(gate.entered)
        assert dumped(compiled).startswith("open; 1 of 1 executions in flight, 1 caller in line for a place\n")
        gate.open("held")
        assert await asyncio.gather(held, waiting) == ["held", 1]


async def test_of_an_async_actor_the_execution_that_takes_longest(async_worker):
    with InputNode() as x:
        dag = async_worker.wait.bind(x)
    async with async_adag.compile(dag) as compiled:
        names = [f"{uuid4()} {n}" for n in range(4)]  # of this test alone: the actor keeps them
        futures = [await compiled.execute_async(name) for name in names]
        for name in (names[2], names[1], names[3]):
            await async_worker.set.remote(name)
        until(compiled, "wait on AsyncWorker: computing execution 0 since", "1: on its way; output 0 missing")
        with pytest.raises(ExecutionTimeout, match=r"^execution 4 .*; wait on .* computing execution 0 since"):
            await compiled.options(timeout=0)(names[1])
        await async_worker.set.remote(names[0])
        assert await asyncio.gather(*futures) == names


class Slow:
    """Stands at a gate in the process that unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return wait_at, (self.path,)


def test_while_a_thread_takes_in_a_result_that_hangs(worker, gate):
    with InputNode() as x:
        dag = worker.call.bind(make_slow, x)
    with async_adag.compile(dag) as compiled:
        ref = compiled.execute(gate.path)
        taker = threading.Thread(target=ref.get)
        taker.start()
        gate.entered()
        assert "; a thread is in the midst of a call\nloops\n" in dumped(compiled)
        gate.open("taken")
        taker.join()
        assert ref.get() == "taken"


def make_slow(path):
    return Slow(path)


def test_of_a_graph_without_executions(worker, capsys):
    with InputNode() as x:
        compiled = async_adag.compile(worker.echo.bind(x))
    compiled.execute(1).get()
    assert "\nexecutions\n" not in dumped(compiled)
    compiled.teardown()
    compiled.dump()
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0].startswith("closed; 0 of ")
    assert lines[1] == "loops"
    assert re.fullmatch(r"  Worker\([0-9a-f]{6}\): (ended|awake)", lines[2])
    assert len(lines) == 3


@ray.remote(num_cpus=0)
class Dumper:
    """Runs a node of its own graph."""

    def echo(self, value):
        return value

    def dump_myself(self):
        me = ray.get_runtime_context().current_actor
        with InputNode() as x:
            dag = me.echo.bind(x)
        with async_adag.compile(dag) as compiled:
            compiled.execute(1).get()
            return dumped(compiled)


def test_hand_overs_within_the_driver(make_actor):
    text = ray.get(make_actor(Dumper).dump_myself.remote(), timeout=100)
    assert "0: input: driver (has written 1) -> Dumper (has taken 1)" in text
