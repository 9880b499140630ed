"""Two hosts with networks of their own, and a link between them that is cut, loses packets, or is slow.

The driver is in the first network, with a Ray node; the second node is in the other. Bodies of tests run there.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GraphBroken, GraphError
from tests.driven import Driver, driven, driven_on
from tests.gate import Gate

SOON = 0.6  # seconds of silence after which the other side is given up
LONG = 30.0
SLOW = 1.0  # seconds, for links on which a payload takes longer
SLOW_LINK = ("tbf", "rate", "16mbit", "burst", "16kb", "latency", "100ms")
BAD_LINK = ("netem", "delay", "20ms", "5ms", "loss", "2%", "rate", "16mbit")


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.close()


@contextmanager
def a_gate():
    with tempfile.TemporaryDirectory() as place:
        made = Gate(Path(place) / "gate")
        yield made
        made.force()


def chain(*actors, held=None):
    """A chain, in which one actor may be held at a gate."""
    with InputNode() as x:
        made = x
        for actor in actors:
            made = (actor.hold_or_echo if actor is held else actor.echo).bind(made)
    return made


async def are_free(*actors):
    """They can be compiled and called at once."""
    async with async_adag.compile(chain(*actors)) as compiled:
        assert await compiled(1) == 1


@driven
async def test_values_arrive(hosts):
    here, there = hosts.here, hosts.there
    with InputNode() as x:
        made = here[0].echo.bind(x)
        dag = MultiOutputNode([there[0].echo.bind(made), there[1].add.bind(made, 1), here[1].echo.bind(made)])
    async with async_adag.compile(dag, max_inflight=8) as compiled:
        assert compiled.visualize().count("[TCP") >= 3
        assert await compiled(1) == [1, 2, 1]
        for count in (1000, 500_000):
            value = np.arange(count, dtype=float)
            plain, more, near = await compiled(value)
            np.testing.assert_array_equal(plain, value)
            np.testing.assert_array_equal(more, value + 1)
            np.testing.assert_array_equal(near, value)
        assert await asyncio.gather(*(compiled(n) for n in range(100))) == [[n, n + 1, n] for n in range(100)]
        assert [got async for got in compiled.map(range(100))] == [[n, n + 1, n] for n in range(100)]
        refs = [compiled.execute(n) for n in range(8)]
        assert [await asyncio.to_thread(ref.get, timeout=100) for ref in refs] == [[n, n + 1, n] for n in range(8)]


async def is_given_up(hosts, spoil):
    """What is in flight fails, what had arrived stays, and the actors are free."""
    here, there, networks = hosts.here, hosts.there, hosts.networks
    with a_gate() as gate:
        dag = chain(here[0], there[0], here[1], held=there[0])
        compiled = async_adag.compile(dag, heartbeat_timeout=SOON)
        arrived = [await compiled.execute_async(n) for n in range(3)]
        assert await arrived[-1] == 2
        held = [await compiled.execute_async(value) for value in (gate.path, 4)]
        gate.entered()
        spoil(networks)
        for number, future in enumerate(held, 3):
            with pytest.raises(GraphBroken, match=r"silent|no answer|died|lost") as caught:
                await future
            for word in ("(node ", f"execution {number}", there[0]._actor_id.hex()[:6]):
                assert word in str(caught.value)
        assert [await future for future in arrived] == [0, 1, 2]
        compiled.teardown()
        await are_free(*here)
        networks.mend()
    await are_free(*here, *there)


@driven
async def test_a_link_that_is_cut_is_given_up(hosts):
    """Both kernels know at once, and tell nobody."""
    await is_given_up(hosts, lambda networks: networks.cut())


@driven
async def test_a_link_that_loses_all_to_the_other_host_is_given_up(hosts):
    await is_given_up(hosts, lambda networks: networks.lose(networks.sides[1]))


@driven
async def test_a_link_that_loses_all_from_the_other_host_is_given_up(hosts):
    await is_given_up(hosts, lambda networks: networks.lose(networks.sides[0]))


@driven
async def test_a_short_interruption_is_survived(hosts):
    here, there, networks = hosts.here, hosts.there, hosts.networks
    async with async_adag.compile(chain(here[0], there[0], here[1]), heartbeat_timeout=LONG) as compiled:
        assert await compiled(1) == 1
        for spoil in (networks.cut, lambda: networks.lose(networks.sides[1])):
            spoil()
            value = np.arange(100_000)
            calls = [asyncio.ensure_future(compiled(each)) for each in (2, value, 3)]
            await hosts.until_resent(3)
            assert not any(call.done() for call in calls)
            networks.mend()
            two, array, three = await asyncio.gather(*calls)
            assert (two, three) == (2, 3)
            np.testing.assert_array_equal(array, value)


@driven
async def test_a_link_that_loses_packets_by_the_dozen(hosts):
    """In either direction, again and again."""
    here, there, networks = hosts.here, hosts.there, hosts.networks
    async with async_adag.compile(chain(here[0], there[0]), max_inflight=4, heartbeat_timeout=LONG) as compiled:
        arrived = 0
        async for value in compiled.map(np.full(50_000, n) for n in range(40)):
            assert value.shape == (50_000,)
            assert (value == arrived).all()
            arrived += 1
            if arrived % 10 == 0:
                networks.lose(networks.sides[arrived // 10 % 2])
                await hosts.until_resent(1)
                networks.mend()
    assert arrived == 40


async def gets_through(hosts, count):
    """An array that takes longer than the limit, and what is called meanwhile."""
    here, there = hosts.here, hosts.there
    with InputNode() as x:
        dag = there[0].size.bind(here[0].echo.bind(x))
    small = async_adag.compile(chain(here[1], there[1]), heartbeat_timeout=SLOW)
    async with async_adag.compile(dag, heartbeat_timeout=SLOW) as large, small:
        array = asyncio.ensure_future(large(np.zeros(count, np.uint8)))
        assert [await small(n) for n in range(10)] == list(range(10))
        assert await array == count


def shape(networks, *link):
    """Make the link so, if this kernel can."""
    if not networks.has(*link):
        pytest.skip(f"this kernel has no {link[0]} for tc")
    networks.shape(*link)


@driven
async def test_a_slow_link_is_not_a_dead_one(hosts):
    shape(hosts.networks, *SLOW_LINK)
    await gets_through(hosts, 2_500_000)


@driven
async def test_a_link_with_delay_and_loss(hosts):
    shape(hosts.networks, *BAD_LINK)
    await gets_through(hosts, 2_500_000)
    async with async_adag.compile(chain(*hosts.here, *hosts.there), max_inflight=8) as compiled:
        assert [got async for got in compiled.map(range(50))] == list(range(50))


@driven_on("uvloop")
async def test_a_partition_that_both_notice(hosts):
    """One graph before Ray does, the other only when Ray has ended the node."""
    here, there, networks = hosts.here, hosts.there, hosts.networks
    with a_gate() as gate, a_gate() as other:
        quick = async_adag.compile(chain(here[0], there[0], held=there[0]), heartbeat_timeout=SOON)
        patient = async_adag.compile(chain(here[1], there[1], held=there[1]), heartbeat_timeout=LONG)
        calls = [await graph.execute_async(at.path) for graph, at in ((quick, gate), (patient, other))]
        gate.entered()
        other.entered()
        networks.cut()
        with pytest.raises(GraphBroken, match=r"silent|no answer|died"):
            await calls[0]
        await asyncio.to_thread(hosts.wait_until_ray_knows)
        assert not calls[1].done()
        networks.mend()  # so that the node learns what is thought of it, and ends
        with pytest.raises(GraphBroken, match=r"died|closed"):
            await calls[1]
        quick.teardown()
        patient.teardown()
        await are_free(*here)
        with pytest.raises(GraphError, match="is dead"):
            async_adag.compile(chain(*there))
