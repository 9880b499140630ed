"""The gate: how TCP connections of a graph come about, and who is turned away."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time

import pytest

from async_adag.channels.gate import PATIENCE, PENDING, Gate
from async_adag.protocol.handshake import MAGIC, Callee, Caller, Purpose

SECRET = secrets.token_bytes(32)
LOCAL = "127.0.0.1"
SOON = 100.0  # seconds; only a failing test waits


@pytest.fixture
def make_gate():
    made = []

    def make(secret=SECRET, ports=None, **options):
        made.append(Gate(LOCAL, ports, secret, 5.0, **options))
        return made[-1]

    yield make
    for gate in made:
        gate.close()


class Hour:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def step_until(gates, done):
    """Let gates go on until something is so; what has come through each."""
    through = [[] for _ in gates]
    deadline = time.monotonic() + SOON
    while not done(through):
        for gate, into in zip(gates, through, strict=True):
            into += gate.step(0.005)
        assert time.monotonic() < deadline
    return through


def meet(caller, callee, purposes):
    for purpose in purposes:
        caller.dial(callee.address, purpose)
    return step_until([caller, callee], lambda through: all(len(each) == len(purposes) for each in through))


def close_all(*through):
    for connections in through:
        for _, stream in connections:
            stream.close()


def test_connections_of_both_directions_come_through(make_gate):
    one, other = make_gate(), make_gate()
    purposes = [Purpose("edge", 0), Purpose("edge", 70_000), Purpose("control", 3)]
    ours, theirs = meet(one, other, purposes)
    assert sorted(purpose for purpose, _ in ours) == sorted(purpose for purpose, _ in theirs) == sorted(purposes)
    by_purpose = dict(theirs)
    for purpose, stream in ours:
        stream.send([str(purpose).encode()])
        view = memoryview(bytearray(100))
        deadline = time.monotonic() + SOON
        while True:
            try:
                got = by_purpose[purpose].recv_into(view)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
        assert bytes(view[:got]) == str(purpose).encode()
    assert not one.trying()
    close_all(ours, theirs)


def test_a_gate_listens_at_its_address_only_and_on_a_port_of_the_range(make_gate):
    gate = make_gate()
    free = gate.address[1]
    gate.close()
    gate = make_gate(ports=(free, free))
    assert gate.address == (LOCAL, free)
    with pytest.raises(OSError, match=f"no port from {free} to {free} is free at {LOCAL}"):
        Gate(LOCAL, (free, free), SECRET, 5.0)
    with pytest.raises(OSError, match=r"cannot listen at 192\.0\.2\.1"):
        Gate("192.0.2.1", None, SECRET, 5.0)


def test_a_wrong_secret_fails_for_good(make_gate, caplog):
    one, other = make_gate(secrets.token_bytes(32)), make_gate()
    purpose = Purpose("edge", 1)
    with caplog.at_level(logging.WARNING, "async_adag"):
        one.dial(other.address, purpose)
        through = step_until([one, other], lambda _: one.failures and caplog.records)
    assert through == [[], []]
    assert one.failures == [(purpose, "the other side does not know the graph's secret")]
    assert "refused a connection to a graph, from 127.0.0.1:" in caplog.text


def test_who_does_not_speak_the_protocol_fails_for_good(make_gate):
    gate = make_gate()
    with socket.create_server((LOCAL, 0)) as server:
        gate.dial(server.getsockname(), Purpose("edge", 1))
        gate.step(0.1)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 1000)
            step_until([gate], lambda _: gate.failures)
    assert "does not speak this protocol" in gate.failures[0][1]


def test_nobody_there_is_tried_again_until_somebody_is(make_gate):
    gate = make_gate()
    late = make_gate()
    address = late.address
    late.close()
    purpose = Purpose("edge", 1)
    gate.dial(address, purpose)
    step_until([gate], lambda _: gate.trying()[purpose] == "Connection refused")
    late = make_gate(ports=(address[1], address[1]))
    ours, theirs = step_until([gate, late], lambda through: all(through))
    assert [purpose for purpose, _ in theirs] == [purpose]
    close_all(ours, theirs)


def test_a_connection_that_was_cut_before_it_was_heard_is_dialled_again(make_gate):
    gate = make_gate()
    with socket.create_server((LOCAL, 0)) as server:
        server.setblocking(False)
        knocks = []

        def has_knocked(_):
            try:
                server.accept()[0].close()
                knocks.append(1)
            except BlockingIOError:
                pass
            return len(knocks) == 3

        gate.dial(server.getsockname(), Purpose("edge", 1))
        step_until([gate], has_knocked)
        step_until([gate], lambda _: "hung up" in str(gate.trying()) or "reset" in str(gate.trying()))
    assert not gate.failures


# -- strangers


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_after_closing_nobody_connects_and_nothing_is_left(make_gate):
    before = descriptors()
    gate = make_gate()
    strangers = [socket.create_connection(gate.address) for _ in range(3)]
    gate.step(0.1)
    gate.close()
    gate.close()
    for stranger in strangers:
        stranger.settimeout(SOON)
        try:
            assert stranger.recv(1) == b""
        except ConnectionError:
            pass
        stranger.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(gate.address)
    assert descriptors() == before


def hello(secret=SECRET, purpose=Purpose("edge", 1)):  # noqa: B008
    return Caller(secret, purpose).hello


NONSENSE = {
    "one byte": b"x",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 100,
    "wrong magic": b"?" + hello()[1:],
    "wrong version": MAGIC[:-2] + b"\x09" + hello()[len(MAGIC) - 1 :],
    "unknown role": hello()[: len(MAGIC)] + b"\x07" + hello()[len(MAGIC) + 1 :],
    "a hello and no proof": hello() + bytes(32),
    "too much": hello() + bytes(5000),
    "nothing": b"",
}


def test_thousands_who_say_nonsense_or_nothing_leave_a_gate_unharmed(make_gate, caplog):
    gate, friend = make_gate(), make_gate()
    caplog.set_level(logging.CRITICAL, "async_adag")
    before = descriptors()
    most = 0
    strangers = []
    for number in range(2000):
        stranger = socket.create_connection(gate.address)
        said = list(NONSENSE.values())[number % len(NONSENSE)]
        try:
            stranger.sendall(said)
        except ConnectionError:
            pass
        strangers.append(stranger)
        if number % 3 == 0:
            strangers.pop(number * 7 % len(strangers)).close()
        while len(strangers) > 500:
            strangers.pop(0).close()
        assert gate.step(0) == []
        most = max(most, descriptors() - len(strangers))
    assert most - before <= PENDING + 1
    purposes = [Purpose("edge", number) for number in range(20)]
    ours, theirs = meet(friend, gate, purposes)
    assert sorted(purpose for purpose, _ in theirs) == purposes
    close_all(ours, theirs)
    for stranger in strangers:
        stranger.close()


def test_who_says_nothing_is_turned_away_in_time(make_gate, caplog):
    clock = Hour()
    gate = make_gate(clock=clock)
    with socket.create_connection(gate.address) as stranger, caplog.at_level(logging.WARNING, "async_adag"):
        step_until([gate], lambda _: gate._knocks)
        clock.now = PATIENCE - 0.1
        gate.step()
        assert gate._knocks
        clock.now = PATIENCE
        gate.step()
        stranger.settimeout(SOON)
        assert stranger.recv(1) == b""
    assert "it said nothing" in caplog.text


def test_of_many_who_knock_the_silent_make_room_for_those_who_speak(make_gate, caplog):
    gate = make_gate()
    caplog.set_level(logging.CRITICAL, "async_adag")
    with socket.create_connection(gate.address) as half:
        half.sendall(hello())
        step_until([gate], lambda _: any(knock.heard for knock in gate._knocks.values()))
        silent = [socket.create_connection(gate.address) for _ in range(2 * PENDING)]
        gate.step(0.1)
        for _ in range(20):
            gate.step(0)
        assert len(gate._knocks) <= PENDING
        assert any(knock.heard for knock in gate._knocks.values())
        half.settimeout(SOON)
        assert len(half.recv(1000)) > len(MAGIC)
        for each in silent:
            each.close()


def test_a_proof_is_good_for_one_connection_only(make_gate, caplog):
    """What was heard on the way of one connection does not open another."""
    caplog.set_level(logging.CRITICAL, "async_adag")
    gate = make_gate()
    machine = Caller(SECRET, Purpose("edge", 1))

    def talk(says):
        connection = socket.create_connection(gate.address)
        connection.setblocking(False)
        heard, through = b"", []
        deadline = time.monotonic() + SOON
        answers = iter(says)
        connection.send(next(answers)(b""))
        while time.monotonic() < deadline:
            through += gate.step(0.01)
            try:
                got = connection.recv(1000)
            except BlockingIOError:
                continue
            except ConnectionError:
                break
            if not got:
                break
            heard += got
            answer = next(answers, None)
            if answer is None:
                break
            connection.send(answer(got))
        connection.close()
        return heard, through

    said = []

    def prove(challenge):
        said.append(machine.feed(challenge))
        return said[-1]

    _, through = talk([lambda _: machine.hello, prove])
    assert [purpose for purpose, _ in through] == [Purpose("edge", 1)]
    close_all(through)
    _, through = talk([lambda _: machine.hello, lambda _: said[0]])
    assert through == []
    assert Callee(SECRET).purpose is None
