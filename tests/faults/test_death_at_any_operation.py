"""SIGKILL at each operation of an actor's loop: what had got through stays right, the rest fails, by name."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing

import pytest
import ray
from ray.dag import InputNode
from ray.exceptions import ActorDiedError

import async_adag
from async_adag import GraphBroken
from tests.faults.test_actor_death import are_free
from tests.threads import in_thread

# Functions of the loop, in the order in which an execution comes by.
OPERATIONS = {
    "between executions": "should_end",
    "reading": "read",
    "giving the slot back": "take",
    "gathering arguments": "arguments",
    "beginning to compute": "enter",
    "having computed": "leave",
    "pickling the result": "encode",
    "writing the result": "stage",
    "sending the result": "publish",
    "waking the next actor": "ring",
}


def die_at(value, function):
    """From now on, this thread kills its process when it calls ``function``."""

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_name == function and "async_adag" in frame.f_code.co_filename:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    return value


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_while(workers, make_actor, operation):
    victim = make_actor()
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(die_at, workers[0].echo.bind(x), OPERATIONS[operation]))
    with async_adag.compile(dag, max_inflight=4) as compiled:
        refs = [compiled.execute(n) for n in range(4)]
        waiting = [in_thread(ref.get) for ref in refs]
        arrived = 0
        for number, thread in enumerate(waiting):
            error = thread.exception()
            if error is None:
                assert refs[number].get() == number
                arrived += 1
                continue
            assert isinstance(error, GraphBroken)
            assert isinstance(error, ActorDiedError)
            assert f"({victim._actor_id.hex()[:6]})" in str(error)
            assert f"execution {number} had not arrived" in str(error)
        # It dies in its first execution, or in the next one; what was sent before arrives.
        assert arrived <= 1
        with pytest.raises(GraphBroken):
            compiled.execute(9)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(victim.pid.remote(), timeout=20)
    asyncio.run(are_free(workers))


async def test_killed_in_the_midst_of_map(workers, make_actor):
    victim = make_actor()
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(die_if, x))
    results = []

    async def run(compiled):
        async with aclosing(compiled.map(range(100))) as stream:
            async for result in stream:
                results.append(result)  # noqa: PERF401 - what came before the error counts

    async with async_adag.compile(dag, max_inflight=4) as compiled:
        with pytest.raises(ActorDiedError) as caught:
            await run(compiled)
    assert results == list(range(len(results)))
    assert len(results) <= 50
    assert f"execution {len(results)} had not arrived" in str(caught.value)
    await are_free(workers)


def die_if(value):
    if value == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return value
