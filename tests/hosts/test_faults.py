"""What goes wrong between hosts: deaths, cuts, silence, strangers."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
import threading

import pytest
import ray
from ray.dag import InputNode
from ray.exceptions import ActorDiedError

import async_adag
from async_adag import GraphBroken, GraphError
from async_adag.channels import rendezvous
from async_adag.driver.abroad import Abroad
from async_adag.driver.meeting import Meeting
from async_adag.graph.plan import DRIVER
from tests.actors import Worker, wait_until_dead
from tests.belongings import take_stock
from tests.nodes import node, on
from tests.proxy import Proxy, Way
from tests.scripts import start, wait_until_ready

new_node = itertools.count(2)
SOON = 0.4  # seconds of silence after which the other side is given up


def chain(*actors, held=None):
    """A chain, in which one actor may be held at a gate."""
    with InputNode() as x:
        made = x
        for actor in actors:
            made = (actor.hold_or_echo if actor is held else actor.echo).bind(made)
    return made


@pytest.fixture
def victim(second):
    made = Worker.options(**on(1)).remote()
    yield made
    ray.kill(made)


async def run_on(compiled):
    """Run executions until one fails."""
    while True:
        await compiled(2)


async def are_free(*actors):
    """They can be compiled and called at once."""
    async with async_adag.compile(chain(*actors)) as compiled:
        assert await compiled(1) == 1


async def test_an_actor_on_the_other_host_is_killed(here, there, victim, gate):
    pid = await victim.pid.remote()
    dag = chain(here[0], victim, there[0], held=victim)
    compiled = async_adag.compile(dag)
    arrived = [await compiled.execute_async(n) for n in range(3)]
    assert await arrived[-1] == 2
    held = await compiled.execute_async(gate.path)
    gate.entered()
    while "computing execution 3" not in compiled._engine.describe_computing():
        pass  # from here on it is known, whether it can still be asked or not
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorDiedError) as caught:
        await held
    assert isinstance(caught.value, GraphBroken)
    name = rf"Worker\({victim._actor_id.hex()[:6]}\)"
    last = rf"in hold_or_echo on {name} of execution 3 when it was last heard of, \d\.\d\d s before"
    assert re.match(
        rf"the process of {name} died, {last}; it ran hold_or_echo on {name} on [^;]*\(node \w+\)",
        str(caught.value),
    )
    assert [await future for future in arrived] == [0, 1, 2]
    await compiled.aclose()
    await are_free(here[0], there[0])


async def test_a_whole_node_is_killed(nodes, here):
    number = next(new_node)  # Ray thinks for a while that the last one lives
    third = nodes.add_node(**node(number))
    lost = Worker.options(**on(number)).remote()
    compiled = async_adag.compile(chain(here[0], lost, here[1]))
    assert await compiled(1) == 1
    pid = ray.get(lost.pid.remote())
    nodes.remove_node(third, allow_graceful=False)
    os.kill(pid, signal.SIGKILL)  # a worker notices the end of its raylet in its own time; a host takes it along
    with pytest.raises(GraphBroken, match="node "):
        await run_on(compiled)
    compiled.teardown()
    await are_free(*here[:2])


DRIVER_PROGRAM = """
here, there = (ray.get_actor(name) for name in sys.argv[2:4])
with InputNode() as x:
    dag = there.echo.bind(here.echo.bind(x))
compiled = async_adag.compile(dag)
assert compiled.execute(1).get(timeout=100) == 1
print("ready", flush=True)
sys.stdin.read()
threading.Event().wait()
"""


def test_the_driver_is_killed_and_actors_on_both_hosts_are_free(cluster, second, make_actor):
    made = [make_actor(name=f"orphan {n}", **on(n)) for n in range(2)]
    program = start(cluster, DRIVER_PROGRAM, args=["orphan 0", "orphan 1"])
    wait_until_ready(program)
    program.kill()
    program.communicate()
    for actor in made:
        for _ in range(200):
            left = ray.get(actor.call.remote(take_stock)).of_graphs()
            if not left:
                break
        assert not left


class Through:
    """Puts proxies before those who listen while a graph is compiled.

    Attributes:
        ways: of each proxy, in the order of connections, what happens to bytes to the listener, and back.
        proxies: those there are.
    """

    def __init__(self):
        self.listeners = []
        self.proxies = []

    def put_before(self, address):
        listener = socket.create_server(("127.0.0.1", 0))
        self.listeners.append(listener)
        threading.Thread(target=self._serve, args=(listener, address), daemon=True).start()
        return listener.getsockname()[:2]

    def _serve(self, listener, address):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self.proxies.append(Proxy(near, socket.create_connection(address), Way(), Way()))

    def close(self):
        for listener in self.listeners:
            listener.close()
        for proxy in self.proxies:
            proxy.close()


@pytest.fixture
def through(monkeypatch):
    """Every connection between hosts goes through a proxy."""
    made = Through()
    plain = Abroad.address_of
    known = {}

    def address_of(self, process):
        address = plain(self, process)
        if address not in known:
            known[address] = made.put_before(address)
        return known[address]

    monkeypatch.setattr(Abroad, "address_of", address_of)
    yield made
    made.close()


def silence(proxy, *, there=True, back=True):
    """From now on nothing gets through, and both connections stay open."""
    proxy.onward.hushed, proxy.back.hushed = there, back


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_a_silent_network_is_given_up(here, there, through, direction):
    compiled = async_adag.compile(chain(there[0]), heartbeat_timeout=SOON)
    assert await compiled(1) == 1
    for proxy in through.proxies:
        silence(proxy, there=direction == "there", back=direction == "back")
    with pytest.raises(GraphBroken, match=r"silent|closed|died"):
        await run_on(compiled)
    compiled.teardown()


async def test_a_silent_edge_is_told_with_both_ends(here, there, through):
    """While the driver hears of both actors."""
    compiled = async_adag.compile(chain(here[0], there[0]), heartbeat_timeout=SOON)
    assert await compiled(1) == 1
    for proxy in through.proxies[1:]:  # the first is the line
        silence(proxy)
    with pytest.raises(GraphBroken) as caught:
        await run_on(compiled)
    assert "silent for 0.4 s" in str(caught.value)
    compiled.teardown()
    await are_free(here[0])


async def test_a_connection_that_is_cut(here, there, through):
    compiled = async_adag.compile(chain(here[0], there[0]))
    assert await compiled(1) == 1
    for proxy in through.proxies[1:]:
        proxy.cut()
    with pytest.raises(GraphBroken) as caught:
        await run_on(compiled)
    assert "(node " in str(caught.value)
    compiled.teardown()
    await are_free(here[0], there[0])


async def test_a_slow_link_is_not_a_dead_one(here, there, through):
    compiled = async_adag.compile(chain(there[0]), heartbeat_timeout=SOON)
    for proxy in through.proxies:
        for way in (proxy.onward, proxy.back):
            way.piece, way.delay = 4096, 0.002
    value = bytes(2_000_000)  # a second each way, at that pace
    assert await compiled(value) == value
    await compiled.aclose()


async def test_strangers_at_the_gate_do_no_harm(here, there, monkeypatch):
    """They knock while the graph is compiled; afterwards there is no gate."""
    knocked = []
    plain = Meeting.invite

    def invite(self, actor, share, waits):
        address = self._abroad.address_of(DRIVER)
        if not knocked:
            for number in range(300):
                stranger = socket.create_connection(address)
                if number % 3:
                    stranger.sendall(os.urandom(100))
                knocked.append((address, stranger))
        plain(self, actor, share, waits)

    monkeypatch.setattr(Meeting, "invite", invite)
    async with async_adag.compile(chain(there[0])) as compiled:
        assert await compiled(1) == 1
        for _, stranger in knocked:
            stranger.settimeout(20)
            assert is_hung_up(stranger)
            stranger.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(knocked[0][0])


def is_hung_up(stranger):
    try:
        return stranger.recv(1) == b""
    except ConnectionResetError:
        return True


async def test_an_actor_that_is_dead_when_compiled(there, victim):
    ray.kill(victim)
    await asyncio.to_thread(wait_until_dead, victim)
    with pytest.raises(GraphError, match="is dead"):
        async_adag.compile(chain(there[0], victim))
    await are_free(there[0])


async def test_those_on_one_node_that_cannot_see_each_other_get_tcp(here, there, monkeypatch):
    """As containers on one host cannot, which have names of their own for sockets."""

    def blind(connection, name, deadline):
        raise ConnectionRefusedError(111, "no such name here")

    def go_blind():
        rendezvous._knock, rendezvous.seeing = blind, rendezvous._knock

    def see():
        rendezvous._knock = rendezvous.seeing

    await here[1].call.remote(go_blind)
    try:
        async with async_adag.compile(chain(here[0], here[1], there[0])) as compiled:
            assert await compiled(1) == 1
            assert compiled.visualize().count("[TCP") == 3
    finally:
        await here[1].call.remote(see)
