"""Graphs over the same actors of two hosts, compiled at once: neither waits for the other's actors for ever."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest
import ray
from ray.dag import InputNode

import async_adag
from async_adag import GraphError
from async_adag.driver import meeting
from tests.gate import wait_at
from tests.nodes import on
from tests.scripts import start, wait_until_over


def chain(*actors):
    with InputNode() as x:
        node = x
        for actor in actors:
            node = actor.echo.bind(node)
    return node


async def test_two_compiles_at_once_name_the_actors_in_opposite_order(here, there, crosswise):
    one, other = await asyncio.gather(
        async_adag.compile_async(chain(here[0], there[0]), compile_timeout=100),
        async_adag.compile_async(chain(there[0], here[0]), compile_timeout=100),
    )
    assert [await one(1), await other(2)] == [1, 2]
    await one.aclose()
    await other.aclose()


async def test_two_compiles_at_once_over_three_on_each_host(here, there, crosswise):
    """Among them async actors, and those that get their memory from another of their host."""
    actors = [*here, *there]
    one, other = await asyncio.gather(
        async_adag.compile_async(chain(*actors), compile_timeout=100),
        async_adag.compile_async(chain(*reversed(actors)), compile_timeout=100),
    )
    assert [await one(1), await other(2)] == [1, 2]
    await one.aclose()
    await other.aclose()


PROGRAM = """
from async_adag.driver import meeting

asked, gate, *names = sys.argv[2:]
actors = [ray.get_actor(name) for name in names]
with InputNode() as x:
    dag = x
    for actor in actors:
        dag = actor.echo.bind(dag)
plain, called = meeting.call_in_actor, []

def call_in_actor(*args):
    if not called:
        open(asked).read()
    called.append(plain(*args))
    if len(called) == 1:
        open(gate).read()
    return called[-1]

meeting.call_in_actor = call_in_actor
with async_adag.compile(dag, compile_timeout=100) as compiled:
    assert compiled.execute(5).get(timeout=100) == 5
"""


def test_two_drivers_at_once_name_the_actors_in_opposite_order(cluster, second, make_actor, make_gate):
    names = ["crosswise 0", "crosswise 1"]
    ray.get([make_actor(name=name, **on(number)).pid.remote() for number, name in enumerate(names)])
    asked, called = [make_gate(), make_gate()], [make_gate(), make_gate()]
    orders = (names, names[::-1])
    programs = [
        start(cluster, PROGRAM, args=[first.path, then.path, *order])
        for first, then, order in zip(asked, called, orders, strict=True)
    ]
    for gates in (asked, called):  # each knows where the actors live; each has called one of them
        for gate in gates:
            gate.entered()
        for gate in gates:
            gate.open()
    for program in programs:
        _, errors = wait_until_over(program)
        assert program.returncode == 0, errors


@pytest.fixture
def stuck(here, there, gate, monkeypatch):
    """What starts a compile that comes to hold two actors and waits for a third, at a gate; and those two."""
    first, second, last = by_id(here[0], here[1], there[0])
    plain = meeting.call_in_actor
    called = []
    waits = threading.Event()

    def call_in_actor(*args):
        if waits.is_set():
            return plain(*args)
        if not called:  # it knows by now where they all live
            last.call.remote(wait_at, gate.path)
            gate.entered()
        called.append(plain(*args))
        if len(called) == 3:
            waits.set()
        return called[-1]

    async def begin(within):
        compiling = asyncio.ensure_future(
            async_adag.compile_async(chain(second, last, first), compile_timeout=within)
        )
        await asyncio.to_thread(waits.wait)
        return compiling

    monkeypatch.setattr(meeting, "call_in_actor", call_in_actor)
    return begin, first, second


def by_id(*actors):
    """In the order in which they are asked."""
    return sorted(actors, key=lambda actor: actor._actor_id.hex())


async def test_a_compile_that_is_cancelled_lets_another_go_on(there, stuck):
    begin, first, second = stuck
    compiling = await begin(20)
    next_one = asyncio.ensure_future(async_adag.compile_async(chain(there[1], second, first)))
    compiling.cancel()
    async with await next_one as compiled:
        assert await compiled(1) == 1


async def test_a_compile_whose_time_is_over_lets_another_go_on(there, stuck):
    begin, first, second = stuck
    compiling = await begin(5)  # which it takes a loaded machine to come so far
    next_one = async_adag.compile_async(chain(there[1], second, first))
    late, compiled = await asyncio.gather(compiling, next_one, return_exceptions=True)
    assert isinstance(late, GraphError)
    assert re.search(r"no answer within compile_timeout=5 s from Worker\(\w+\) \(for [^,]*: busy", str(late))
    assert await compiled(1) == 1
    await compiled.aclose()
