"""SIGKILL at each operation of an actor's loop: what had got through stays right, the rest fails, by name."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from contextlib import aclosing

import pytest
import ray
from ray.dag import InputNode
from ray.exceptions import ActorDiedError

import async_adag
from async_adag import GraphBroken
from tests.actors import AsyncWorker, Worker
from tests.faults.test_actor_death import are_free, exit_, fault, leave
from tests.threads import in_thread

# Functions of the loop, in the order in which an execution comes by.
OPERATIONS = {
    "between executions": "asked",
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
# Those of the loop of an async actor, where several executions are under way at once.
ASYNC_OPERATIONS = {
    "looking what to do": "_turn",
    "beginning executions": "_begin_executions",
    "reading": "read",
    "computing": "_compute",
    "having computed": "_leaves",
    "pickling the result": "encode",
    "keeping the order of results": "put",
    "writing results": "flush",
    "sending the result": "publish",
    "waking the next actor": "ring",
    "going to sleep": "_arm",
}


def die_at(value, function):
    """From now on, this thread kills its process when it calls ``function``."""

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_name == function and "async_adag" in frame.f_code.co_filename:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    return value


@pytest.mark.interpreted(reason="it replaces methods")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_while(workers, make_victim, operation):
    victim = make_victim()
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
        ray.get(victim.pid.remote(), timeout=100)
    asyncio.run(are_free(workers))


@pytest.mark.interpreted(reason="it replaces methods")
@pytest.mark.parametrize("operation", ASYNC_OPERATIONS)
def test_an_async_actor_is_killed_while(workers, make_victim, operation):
    victim = make_victim(AsyncWorker)
    function = ASYNC_OPERATIONS[operation]
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(die_at, workers[0].echo.bind(x), function))
    with async_adag.compile(dag, max_inflight=4) as compiled:
        refs = [compiled.execute(n) for n in range(4)]
        failed = []
        for number, thread in enumerate([in_thread(ref.get) for ref in refs]):
            error = thread.exception()
            if error is None:
                assert refs[number].get() == number
                assert not failed, "results came behind one that had not"
                continue
            failed.append(number)
            assert isinstance(error, GraphBroken)
            assert isinstance(error, ActorDiedError)
            assert f"({victim._actor_id.hex()[:6]})" in str(error)
            assert f"execution {number} had not arrived" in str(error)
        # What it does only before it computes, it does again in the next execution.
        with pytest.raises(GraphBroken):
            compiled.execute(9).get()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(victim.pid.remote(), timeout=100)
    asyncio.run(are_free(workers))


@pytest.mark.parametrize("kind", [Worker, AsyncWorker])
@pytest.mark.parametrize("ending", ["SIGKILL", "os._exit", "segfault", "SystemExit", "ray.kill"])
async def test_an_actor_that_ends_in_the_midst_of_map(workers, make_victim, kind, ending):
    victim = make_victim(kind)
    with InputNode() as x:
        dag = workers[1].echo.bind(victim.call.bind(end_if, x, ending))
    results = []

    async def run(compiled):
        async with aclosing(compiled.map(range(100))) as stream:
            async for result in stream:
                results.append(result)  # noqa: PERF401 - what came before the error counts

    async with async_adag.compile(dag, max_inflight=4) as compiled:
        with pytest.raises(ActorDiedError) as caught:
            await run(compiled)
    assert results == list(range(len(results)))
    assert len(results) <= LAST
    assert f"execution {len(results)} had not arrived" in str(caught.value)
    await are_free(workers)


def kill_oneself(_):
    ray.kill(ray.get_runtime_context().current_actor)
    threading.Event().wait()


LAST = 50
ENDINGS = {
    "SIGKILL": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "os._exit": leave,
    "segfault": fault,
    "SystemExit": exit_,
    "ray.kill": kill_oneself,
}


def end_if(value, ending):
    if value == LAST:
        ENDINGS[ending](value)
    return value
