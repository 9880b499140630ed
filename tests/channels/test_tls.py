"""Edges through TLS, with the certificates that Ray was told to use."""

from __future__ import annotations

import secrets
import socket
import threading
import time

import numpy as np
import pytest

from async_adag.channels.gate import Gate
from async_adag.channels.stream import TlsStream, _records
from async_adag.channels.tls import Tls, ray_tls
from async_adag.protocol.handshake import Purpose
from tests.certificates import make_ca
from tests.proxy import Proxy, Way
from tests.tcp import connected, link

SECRET = secrets.token_bytes(32)
EDGE = Purpose("edge", 0)
SOON = 100.0  # seconds; only a failing test waits


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_ca(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def tls(certificate):
    return Tls(certificate.certificate, certificate.key, certificate.ca)


@pytest.fixture
def open_link(tls):
    """Makes channels through TLS."""
    made, proxies = [], []

    def shake(sock, box):
        sock.setblocking(True)
        sock.do_handshake()
        sock.setblocking(False)
        box.append(TlsStream(sock))

    def make(onward=None, back=None, **options):
        if onward is None and back is None:
            near, far = connected()
        else:
            (near, near_proxy), (far_proxy, far) = connected(), connected()
            proxies.append(Proxy(near_proxy, far_proxy, onward, back))
        near, far = tls.wrap(near, is_server=False), tls.wrap(far, is_server=True)
        box: list[TlsStream] = []
        thread = threading.Thread(target=shake, args=(near, box))
        thread.start()
        shake(far, box)
        thread.join()
        streams = {stream.fileno(): stream for stream in box}
        made.append(link(sockets=(near, far), make_stream=lambda end: streams[end.fileno()], **options))
        return made[-1]

    yield make
    for proxy in proxies:
        proxy.close()
    for each in made:
        each.close()


@pytest.mark.parametrize("size", [0, 1, 1000, 16 * 1024, 100_000, 9 << 20])
def test_values_arrive(open_link, size):
    channel = open_link()
    array = np.random.default_rng(1).integers(0, 255, size, np.uint8)
    for _ in range(3):
        assert channel.pass_on("small") == "small"
        assert np.array_equal(channel.pass_on([array, array])[1], array)


def test_bursts_arrive_in_order_and_credits_go_back(open_link):
    channel = open_link(slots=64)
    for first in range(0, 640, 64):
        for number in range(64):
            if not channel.writer.may_write():
                channel.settle()
            channel.send([first + number, b"x" * (number * 50)])
        for number in range(64):
            channel.settle()
            assert channel.reader.read()[0] == first + number


def test_much_both_ways_at_once_and_through_a_slow_network(open_link):
    one, other = open_link(Way(piece=10_000)), open_link(back=Way(piece=3))
    much = np.arange(1 << 20)
    one.send(much)
    other.send(-much)
    for channel, expected in ((one, much), (other, -much)):
        channel.settle()
        assert np.array_equal(channel.reader.read(), expected)


def test_a_flipped_byte_anywhere_is_a_loss(open_link):
    channel = open_link()
    channel.close()
    for at in (5, 300, 5000):
        way = Way()
        channel = open_link(way)
        way.flip_at = way.passed + at
        channel.send(np.zeros(10_000))
        channel.there.wait(lambda: channel.landing.lost)  # noqa: B023
        assert not channel.reader.may_read()


def test_a_cut_is_a_loss(open_link):
    way = Way(piece=1000)
    channel = open_link(way)
    way.cut_at = way.passed + 40_000
    channel.send(np.zeros(10_000))
    channel.there.wait(lambda: channel.landing.lost)
    assert channel.landing.lost == "closed in the midst of a frame"


def test_a_forked_child_takes_nothing_from_its_parent(open_link):
    channel = open_link()
    channel.leave_in_child()
    assert channel.pass_on("after") == "after"


def test_records_hold_what_buffers_do():
    buffers = [b"a" * 3, b"", b"b" * 40_000, b"c" * 16_000, b"d" * 500, memoryview(b"e" * 16_384), b"f"]
    records = list(_records(buffers))
    assert b"".join(records) == b"".join(buffers)
    assert max(map(len, records)) <= 16 * 1024
    assert len(records) < 9


# -- gates


def meet(one, other, until):
    deadline = time.monotonic() + SOON
    through = [[], []]
    while not until(through):
        for gate, into in zip((one, other), through, strict=True):
            into += gate.step(0.005)
        assert time.monotonic() < deadline
    return through


@pytest.fixture
def make_gate():
    made = []

    def make(tls):
        made.append(Gate("127.0.0.1", None, SECRET, 5.0, tls))
        return made[-1]

    yield make
    for gate in made:
        gate.close()


def test_gates_meet(make_gate, tls):
    one, other = make_gate(tls), make_gate(tls)
    one.dial(other.address, EDGE)
    through = meet(one, other, all)
    for ((purpose, stream),) in through:
        assert purpose == EDGE
        assert type(stream) is TlsStream
        stream.close()


def test_a_certificate_of_another_ca_is_refused(make_gate, tls, tmp_path):
    stranger = make_ca(tmp_path, "theirs")
    one = make_gate(Tls(stranger.certificate, stranger.key, stranger.ca))
    other = make_gate(tls)
    one.dial(other.address, EDGE)
    assert meet(one, other, lambda _: one.failures) == [[], []]
    assert one.failures[0][1].startswith("TLS: ")


def test_who_shows_no_certificate_of_the_ca_is_refused(make_gate, tls, tmp_path, certificate, caplog):
    stranger = make_ca(tmp_path, "theirs")
    one, other = make_gate(Tls(stranger.certificate, stranger.key, certificate.ca)), make_gate(tls)
    one.dial(other.address, EDGE)
    assert meet(one, other, lambda _: one.failures and caplog.records) == [[], []]
    assert "TLS: " in caplog.text


def test_who_does_not_speak_tls_gets_nowhere(make_gate, tls, caplog):
    plain, encrypted = make_gate(None), make_gate(tls)
    plain.dial(encrypted.address, EDGE)
    meet(plain, encrypted, lambda _: plain.failures or caplog.records)
    encrypted.dial(plain.address, Purpose("edge", 1))
    meet(plain, encrypted, lambda _: "does not speak this protocol" in caplog.text)
    with socket.create_connection(encrypted.address) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        meet(plain, encrypted, lambda _: caplog.text.count("TLS") >= 2 or "HTTP_REQUEST" in caplog.text)


# -- the environment


def test_ray_tells_whether_and_with_what(monkeypatch, certificate):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    assert ray_tls() is None
    monkeypatch.setenv("RAY_USE_TLS", "0")
    assert ray_tls() is None
    for name, value in certificate.environment().items():
        monkeypatch.setenv(name, value)
    assert isinstance(ray_tls(), Tls)
    monkeypatch.delenv("RAY_TLS_CA_CERT")
    with pytest.raises(OSError, match="RAY_USE_TLS is set, and RAY_TLS_CA_CERT is not"):
        ray_tls()
    monkeypatch.setenv("RAY_TLS_CA_CERT", "/nowhere.pem")
    with pytest.raises(OSError, match=r"nowhere\.pem"):
        ray_tls()
