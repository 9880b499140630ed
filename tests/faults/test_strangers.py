"""Strangers at the socket of a graph that is being compiled: refused, with a log line; the graph comes to be."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct

import pytest
from ray.dag import InputNode

import async_adag
from async_adag.channels.reception import SILENT
from async_adag.channels.rendezvous import TOKEN_BYTES, Address, connect
from tests.belongings import take_stock
from tests.scripts import start, wait_until_ready
from tests.strangers import NOBODY, PATIENCE, addresses, is_refused, knock, of_another_user
from tests.threads import in_thread

__all__ = ["addresses"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def rights(fds):
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]


def garbage(address):
    one = knock(address)
    one.send(b"\xff" * 1000)
    return one


def wrong_token(address):
    return connect(Address(address.name, b"x" * TOKEN_BYTES), 0, PATIENCE)


def half_a_hello(address):
    one = knock(address)
    one.send(address.token)
    return one


def an_actor_too_many(address):
    return connect(address, 99, PATIENCE)


def garbage_with_descriptors(address):
    one = knock(address)
    one.sendmsg([b"take these"], rights([0] * 253))
    return one


def hangs_up_at_once(address):
    one = knock(address)
    one.shutdown(socket.SHUT_RDWR)
    return one


STRANGERS = {
    garbage: "did not show the graph's token",
    wrong_token: "did not show the graph's token",
    half_a_hello: "did not show the graph's token",
    garbage_with_descriptors: "did not show the graph's token",
    an_actor_too_many: "waits for no actor 99",
    hangs_up_at_once: "said nothing",
}


@pytest.fixture
def compiling(workers, gate, addresses):
    """Begins to compile a graph, one actor of which is busy until the gate opens; gives where it listens."""
    workers[1].hold.remote(gate.path)
    gate.entered()

    def begin(compiling=async_adag.compile):
        with InputNode() as x:
            dag = workers[1].echo.bind(workers[0].echo.bind(x))
        future = in_thread(compiling, dag)
        return addresses.get(timeout=PATIENCE), future

    return begin


def compile_async(dag):
    async def main():
        compiled = await async_adag.compile_async(dag)
        assert await compiled(0) == 0
        return compiled

    return asyncio.run(main())


@pytest.mark.parametrize("way", [async_adag.compile, compile_async])
def test_strangers_of_every_kind(compiling, gate, caplog, way):
    before = take_stock()
    address, future = compiling(way)
    with caplog.at_level(logging.WARNING, "async_adag"):
        for stranger in STRANGERS:
            one = stranger(address)
            assert is_refused(one)
            one.close()
        assert not future.done()
        gate.open()
        with future.result(PATIENCE) as compiled:
            assert compiled.execute(1).get() == 1
    said = [record.getMessage() for record in caplog.records]
    who = f"of process {os.getpid()} of user {os.geteuid()}"
    assert all(who in line for line in said)
    assert [line.partition(who)[2] for line in said] == [
        f": {'the graph' if reason.startswith('waits') else 'it'} {reason}" for reason in STRANGERS.values()
    ]
    assert address.token.hex() not in caplog.text
    assert not take_stock().fds - before.fds


@as_root
def test_a_stranger_of_another_user(compiling, gate, caplog):
    address, future = compiling()
    act = f"one.connect({address.name!r}); assert one.recv(1) == b''"
    with caplog.at_level(logging.WARNING, "async_adag"), of_another_user(act) as (pid, process):
        gate.open()
        with future.result(PATIENCE) as compiled:
            assert compiled.execute(1).get() == 1
    assert process.returncode == 0
    assert f"of process {pid} of user {NOBODY}: the graph is of user 0" in caplog.text


@as_root
def test_another_user_is_refused_whatever_it_knows(compiling, gate, caplog):
    """The token does not help, and nothing but a hang-up comes back."""
    address, future = compiling()
    hello = address.token + struct.pack("=I", 1)
    act = f"one.connect({address.name!r})\ntry: one.send({hello!r})\nexcept BrokenPipeError: pass\n"
    act += "try: assert one.recv(1) == b''\nexcept ConnectionError: pass"
    with caplog.at_level(logging.WARNING, "async_adag"), of_another_user(act) as (_, process):
        gate.open()
        with future.result(PATIENCE) as compiled:
            assert compiled.execute(1).get() == 1
    assert process.returncode == 0
    assert f"user {NOBODY}" in caplog.text


def test_hundreds_that_say_nothing(compiling, gate, caplog):
    """Only so many are kept waiting, those who came last; a graph is compiled all the same."""
    before = take_stock()
    address, future = compiling()
    with caplog.at_level(logging.WARNING, "async_adag"):
        silent = [knock(address) for _ in range(700)]
        for one in silent[: 700 - SILENT]:
            assert is_refused(one)
        assert not future.done()
        gate.open()
        with future.result(PATIENCE) as compiled:
            assert compiled.execute(1).get() == 1
            for one in silent:
                assert is_refused(one)
    assert caplog.text.count("it said nothing") == 700
    for one in silent:
        one.close()
    assert not take_stock().fds - before.fds


FEW_DESCRIPTORS = """
import resource
from async_adag.channels import reception
first, second = (ray.get_actor(name) for name in sys.argv[2:4])
ray.get([first.pid.remote(), second.pid.remote()])
with InputNode() as x:
    dag = second.echo.bind(first.echo.bind(x))
class Told(reception.Listener):
    def __init__(self):
        super().__init__()
        print(self.address.name[1:], flush=True)
reception.Listener = Told
used = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
busy = second.hold.remote(sys.argv[4])
print("ready", flush=True)
with async_adag.compile(dag) as compiled:
    print(compiled.execute(1).get(), flush=True)
"""


def test_a_driver_with_fewer_descriptors_than_there_are_silent_strangers(cluster, make_actor, gate):
    names = ["knocked first", "knocked second"]
    for name in names:
        make_actor(name=name)
    driver = start(cluster, FEW_DESCRIPTORS, args=[*names, gate.path])
    wait_until_ready(driver)
    gate.entered()
    address = Address("\0" + driver.stdout.readline().strip(), b"")
    silent = [knock(address) for _ in range(200)]
    assert is_refused(silent[0])
    gate.open()
    output, errors = driver.communicate()
    assert output == "1\n", errors
    assert errors.count("it said nothing") >= 100
    for one in silent:
        one.close()
