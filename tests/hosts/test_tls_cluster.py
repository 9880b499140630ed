"""A whole cluster with Ray's TLS: edges are encrypted, by the same certificates; nobody comes in without one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from tests.certificates import make_ca

LIMIT = 150  # seconds; two nodes and five programs of it start, one after another

PROGRAM = '''
import json, logging, os, socket, ssl, sys, threading
from unittest import mock

import async_adag
from async_adag.channels.gate import Gate
from async_adag.driver.abroad import Abroad
from async_adag.driver.meeting import Meeting
from async_adag.graph.plan import DRIVER
from ray.dag import InputNode
from tests.actors import Worker
from tests.nodes import on, several_nodes

MARK = b"in plain words " * 10
other = json.loads(sys.argv[1])  # another CA's environment
facts = {"refused": []}


class Refusals(logging.Handler):
    def emit(self, record):
        facts["refused"].append(record.getMessage())


logging.getLogger("async_adag").addHandler(Refusals())


def chain(*actors):
    with InputNode() as x:
        node = x
        for actor in actors:
            node = actor.echo.bind(node)
    return node


class Tap:
    """Passes on what comes for an address, and keeps it."""

    def __init__(self, address):
        self.address = address
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.heard = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(self.address)
            for one, other in ((near, far), (far, near)):
                heard = bytearray()
                self.heard.append(heard)
                threading.Thread(target=self.pass_on, args=(one, other, heard), daemon=True).start()

    def pass_on(self, one, other, heard):
        try:
            while data := one.recv(1 << 16):
                heard += data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass


taps = {}


def tapped(plain, self, process):
    address = plain(self, process)
    if address not in taps:
        taps[address] = Tap(address)
    return taps[address].listener.getsockname()[:2]


def run(*actors, **options):
    with async_adag.compile(chain(*actors), **options) as compiled:
        got = [compiled.execute(MARK * n).get(timeout=100) for n in (1, 1000)]
        assert got == [MARK, MARK * 1000]
        return compiled.visualize()


def without_certificate(address):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address, timeout=100) as connection, context.wrap_socket(connection) as stream:
        stream.sendall(bytes(100))
        assert not stream.recv(1)


def in_plain_words(address):
    with socket.create_connection(address, timeout=100) as connection:
        connection.sendall(bytes(100))
        while connection.recv(100):  # an alert, in words of TLS
            pass


def knock(way, address):
    try:
        way(address)
    except OSError:
        pass  # of which ssl.SSLError is one


def knock_first(plain, self, *args):
    """While the graph is compiled, from other threads: it is this one that answers, and does so to the end."""
    if not knocks:
        address = self._abroad.address_of(DRIVER)
        for way in (without_certificate, in_plain_words):
            knocks.append(threading.Thread(target=knock, args=(way, address)))
            knocks[-1].start()
    plain(self, *args)


def is_complete(plain, self):
    return plain(self) and not any(one.is_alive() for one in knocks)


knocks = []


def without_tls():
    del os.environ["RAY_USE_TLS"]


def by_another_ca(environment):
    os.environ.update(environment)


def refused(actor, *args):
    ray.get(actor.call.remote(*args))
    try:
        run(here, actor, compile_timeout=3)
    except async_adag.GraphError as error:
        return str(error)


with several_nodes(2, log_to_driver=False, logging_level="error"):
    import ray

    here, there, bare, false = (Worker.options(**on(n)).remote() for n in (0, 1, 1, 1))
    plain, invite, complete = Abroad.address_of, Meeting.invite, Meeting._is_complete
    with mock.patch.object(Abroad, "address_of", lambda *args: tapped(plain, *args)):
        facts["picture"] = run(here, there, here)
    heard = [bytes(one) for tap in taps.values() for one in tap.heard]
    facts["connections"] = len(heard) // 2
    facts["begin"] = sorted({one[:2].hex() for one in heard})
    facts["bytes"] = sum(map(len, heard))
    facts["in plain words"] = sum(MARK in one for one in heard)
    with (
        mock.patch.object(Meeting, "invite", lambda *args: knock_first(invite, *args)),
        mock.patch.object(Meeting, "_is_complete", lambda self: is_complete(complete, self)),
    ):
        run(here, there)
    for one in knocks:
        one.join()
    facts["knocks"] = facts["refused"].copy()
    facts["without TLS"] = refused(bare, without_tls)
    facts["by another CA"] = refused(false, by_another_ca, other)
    run(here, there)  # nobody was harmed
print(json.dumps(facts))
'''


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What a program finds that starts a cluster with TLS."""
    folder = tmp_path_factory.mktemp("certificates")
    address = ray.util.get_node_ip_address()
    hosts = f"IP:127.0.0.1,IP:{address},DNS:localhost"
    certificate, other = make_ca(folder, "cluster", hosts), make_ca(folder, "other", hosts)
    root = str(Path(__file__).parents[2])
    environment = os.environ | certificate.environment()
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(other.environment())],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    return json.loads(program.stdout.splitlines()[-1])


def test_a_graph_over_both_hosts_speaks_tls_only(facts):
    """Its line to the other host's actor, and both edges, are heard in between."""
    assert facts["picture"].count("[TCP") == 2
    assert facts["connections"] == 3
    assert facts["begin"] == ["1603"], "each side begins with a record of TLS, a handshake"
    assert facts["bytes"] > 2 * 150_000, "the values went that way"
    assert facts["in plain words"] == 0


def test_who_has_no_certificate_is_turned_away(facts):
    reasons = sorted(re.fullmatch(r"refused .* from [\d.]+:\d+: (.*)", one)[1] for one in facts["knocks"])
    assert reasons == ["TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE", "TLS: WRONG_VERSION_NUMBER"]


def test_an_actor_without_tls_does_not_come_in(facts):
    assert re.search(r"the last connection that was refused came from [\d.]+:\d+: TLS", facts["without TLS"])


def test_an_actor_with_a_certificate_of_another_ca_does_not_come_in(facts):
    assert re.search("left while the graph was being compiled: .*TLS: .*certificate", facts["by another CA"])
