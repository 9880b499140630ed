"""Somebody else listens where an actor expects its driver: refused in time, and nothing is left in the actor."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import socket
import struct
import time
from types import SimpleNamespace

import pytest
import ray
from ray.dag import InputNode

import async_adag
from async_adag.actor.control import control_size
from async_adag.actor.install import READY, install
from async_adag.actor.ray_runtime import call_in_actor
from async_adag.actor.share import Share
from async_adag.actor.wiring import ring_spec, wire
from async_adag.channels import rendezvous
from async_adag.channels.codec import dumps
from async_adag.channels.memory import create_file
from async_adag.channels.pollers import create_board
from async_adag.channels.rendezvous import KNOCKS, TOKEN_BYTES, Address, receive_text, send_fds
from async_adag.channels.ring import create_ring
from async_adag.graph.planner import plan_graph
from async_adag.graph.ray_dag import read_dag
from tests.belongings import take_stock
from tests.gate import wait_at
from tests.strangers import NOBODY, PATIENCE, of_another_user

SOON = 0.3  # seconds that the actor waits for its driver
CHUNK = struct.Struct("=II")  # descriptors here, and still to come


class Graph:
    """What a driver would hand to the one actor of a graph."""

    def __init__(self, worker):
        with InputNode() as x:
            plan = plan_graph(read_dag(worker.echo.bind(x)).graph)
        specs = {channel.number: ring_spec(channel, 4, 1 << 20) for channel in plan.channels}
        self.actor = plan.actors[0]
        self.wiring = wire(plan.channels, 0)
        self.share = Share(self.actor, self.wiring, plan.channels, specs, 4, 2, 0)
        control = create_file("control", control_size(self.actor))
        bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.wiring.doorbells]
        self.fds = [
            control,
            create_board(2),
            *bells,
            *(create_ring(specs[number]) for number in self.wiring.channels),
        ]

    def close(self):
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def graph(worker):
    made = Graph(worker)
    yield made
    made.close()


@pytest.fixture
def false_driver():
    """Listens; the address, and the socket."""
    address = Address(f"\0async-adag-test-{secrets.token_hex(8)}", b"t" * TOKEN_BYTES)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address.name)
        listening.listen()
        listening.settimeout(PATIENCE)
        yield address, listening


def installing(worker, graph, address, timeout=SOON):
    return call_in_actor(worker, install, async_adag.__version__, address, dumps(graph.share), timeout)


def refusal(ref):
    """What the actor says to it: as the driver would be told, one way or the other."""
    try:
        said = ray.get(ref, timeout=PATIENCE)
    except ray.exceptions.RayTaskError as error:
        return f"{type(error.cause).__name__}: {error.cause}"
    assert said is not None, "it took the stranger for its driver"
    return said


def stock(worker):
    return ray.get(worker.call.remote(take_stock))


def rights(fds):
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]


def says_nothing(connection, graph):
    assert connection.recv(1) == b""  # until the actor has had enough


def says_garbage(connection, graph):
    connection.send(os.urandom(500))


def says_garbage_with_descriptors(connection, graph):
    connection.sendmsg([b"garbage"], rights(graph.fds))


def hands_out_too_many(connection, graph):
    send_fds(connection, [*graph.fds, *graph.fds])


def hands_out_too_few(connection, graph):
    send_fds(connection, graph.fds[:-1])


def hands_out_without_end(connection, graph):
    try:
        while True:
            connection.sendmsg([CHUNK.pack(200, 2**31)], rights([0] * 200))
    except OSError:
        pass


def announces_without_end(connection, graph):
    connection.send(CHUNK.pack(0, len(graph.fds)))


DRIVERS = {
    says_nothing: "sent nothing: timed out",
    says_garbage: "descriptors were lost",
    says_garbage_with_descriptors: "descriptors were lost",
    hands_out_too_many: "12 descriptors came where 6 were expected",
    hands_out_too_few: "5 descriptors came where 6 were expected",
    hands_out_without_end: f"{200 + 2**31} descriptors came where 6 were expected",
    announces_without_end: "announced did not come",
}


@pytest.mark.parametrize("behaves", DRIVERS, ids=lambda function: function.__name__)
def test_a_false_driver(worker, graph, false_driver, behaves):
    address, listening = false_driver
    before = stock(worker)
    ref = installing(worker, graph, address)
    with listening.accept()[0] as connection:
        connection.settimeout(PATIENCE)
        assert len(connection.recv(1000)) == TOKEN_BYTES + 4
        behaves(connection, graph)
        assert re.search(DRIVERS[behaves], refusal(ref))
    assert not stock(worker).more_than(before)


def test_a_driver_that_drips(worker, graph, false_driver):
    """One descriptor now and then, so that it never is quiet for long: each comes in time, all of them do not."""
    address, listening = false_driver
    before = stock(worker)
    ray.get(worker.call.remote(let_time_fly, PATIENCE / 4))
    ref = installing(worker, graph, address, PATIENCE)
    try:
        with listening.accept()[0] as connection:
            for left in range(len(graph.fds), 1, -1):
                with contextlib.suppress(ConnectionError):  # it has had enough
                    connection.sendmsg([CHUNK.pack(1, left - 1)], rights([graph.fds[-left]]))
            assert "not all descriptors came within" in refusal(ref)
    finally:
        ray.get(worker.call.remote(pause_as_ever))
    assert not stock(worker).more_than(before)


def let_time_fly(step):
    """Each look at the clock is ``step`` seconds later than the one before."""
    looks = itertools.count()
    rendezvous.time = SimpleNamespace(monotonic=lambda: next(looks) * step, sleep=time.sleep)


def a_pipe(fd):
    read, write = os.pipe()
    os.close(read)
    return write


def a_short_file(fd):
    return create_file("short", 0)


def an_unsealed_file(fd):
    made = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(made, 1 << 20)
    return made


def a_file_that_could_shrink(fd):
    made = os.memfd_create("sealed otherwise", os.MFD_ALLOW_SEALING)
    os.ftruncate(made, 1 << 20)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    return made


@pytest.mark.parametrize("wrong", [a_pipe, a_short_file, an_unsealed_file, a_file_that_could_shrink])
@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "should be a control page"),
        (1, "should be a board"),
        (2, "should be a doorbell"),
        (-1, "should be a sealed memory file"),
    ],
)
def test_descriptors_of_the_wrong_kind(worker, graph, false_driver, at, said, wrong):
    """Touching what can shrink, or is too short, would kill the actor (SIGBUS)."""
    address, listening = false_driver
    before = stock(worker)
    ref = installing(worker, graph, address)
    os.dup2(made := wrong(graph.fds[at]), graph.fds[at])
    os.close(made)
    with listening.accept()[0] as connection:
        send_fds(connection, graph.fds)
        assert said in refusal(ref)
    assert not stock(worker).more_than(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_listener_of_another_user(worker, graph):
    address = Address(f"\0async-adag-test-{secrets.token_hex(8)}", b"t" * TOKEN_BYTES)
    before = stock(worker)
    with of_another_user(f"one.bind({address.name!r}); one.listen()"):
        assert f"belongs to user {NOBODY}" in refusal(installing(worker, graph, address))
    assert not stock(worker).more_than(before)


def test_a_driver_that_hangs_up_however_often_one_knocks(worker, graph, false_driver):
    address, listening = false_driver
    before = stock(worker)
    ref = installing(worker, graph, address, PATIENCE)
    for _ in range(KNOCKS):
        listening.accept()[0].close()
    assert "hung up" in refusal(ref)
    assert not stock(worker).more_than(before)


def test_an_actor_that_is_turned_away_unheard_knocks_again(worker, graph, false_driver):
    address, listening = false_driver
    ref = installing(worker, graph, address, PATIENCE)
    for _ in range(KNOCKS - 1):
        listening.accept()[0].close()
    with listening.accept()[0] as connection:
        connection.settimeout(PATIENCE)
        assert len(connection.recv(1000)) == TOKEN_BYTES + 4
        send_fds(connection, graph.fds, PATIENCE)
        assert ray.get(ref, timeout=PATIENCE) is None
        connection.settimeout(PATIENCE)
        assert receive_text(connection) == READY
    for _ in range(100):  # looks: its loop ends with the connection
        if not stock(worker).of_graphs():
            return
    pytest.fail(f"left in the actor: {stock(worker).of_graphs()}")


def test_nobody_listens(worker, graph):
    before = stock(worker)
    address = Address(f"\0async-adag-test-{secrets.token_hex(8)}", b"t" * TOKEN_BYTES)
    assert "cannot be reached" in refusal(installing(worker, graph, address))
    assert not stock(worker).more_than(before)


def test_a_queue_that_is_full_of_strangers_is_waited_for(worker, graph, false_driver, gate):
    """The kernel turns away who knocks while its queue is full: an actor knocks again."""
    address, listening = false_driver
    before = stock(worker)
    listening.listen(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
        first.connect(address.name)  # the queue holds one
        assert "cannot be reached" in refusal(installing(worker, graph, address))
        ray.get(worker.call.remote(pause_at, gate.path))
        ref = installing(worker, graph, address, PATIENCE)
        gate.entered()  # it has knocked in vain
        listening.accept()[0].close()
    gate.open()
    with listening.accept()[0] as connection:
        assert len(connection.recv(1000)) == TOKEN_BYTES + 4
        connection.send(b"enough")
        assert "descriptors were lost" in refusal(ref)
    ray.get(worker.call.remote(pause_as_ever))
    assert not stock(worker).more_than(before)


def pause_at(path):
    """Stand at a gate instead of pausing before the next knock."""
    rendezvous.time = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: wait_at(path))


def pause_as_ever():
    rendezvous.time = time


def test_the_actor_works_on(worker):
    """After all of these."""
    with InputNode() as x, async_adag.compile(worker.add.bind(x)) as compiled:
        assert compiled.execute(1).get() == 2
