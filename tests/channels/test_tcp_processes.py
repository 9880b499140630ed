"""Channels over TCP between two processes."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from async_adag.channels.gate import Gate
from async_adag.channels.interface import STOP
from tests.tcp import HEARTBEAT, Ends, step_until


@pytest.fixture
def peer(start_script):
    """The other process, and this one's ends of the channels to and from it."""
    secret = secrets.token_bytes(32)
    gate = Gate("127.0.0.1", None, secret, HEARTBEAT)
    process = start_script("tcp_peer.py", str(gate.address[1]), secret.hex())
    streams = step_until(gate, 2)
    gate.close()
    ends = Ends(sending=(0, streams[0]), receiving=(1, streams[1]))
    yield process, ends
    ends.close()


def test_values_go_there_and_back(peer):
    process, ends = peer
    for number in range(2000):
        ends.write(number)
        assert ends.read() == number + 1
    for size in (0, 100, 10_000, 1_000_000, 30_000_000):
        array = np.arange(size, dtype=np.uint8)
        ends.write({"a": array, "b": size})
        arrived = ends.read()
        assert arrived["b"] == size
        assert np.array_equal(arrived["a"], array)
    ends.write(STOP)
    assert ends.read() is STOP
    assert process.wait(100) == 0


def test_many_are_under_way(peer):
    process, ends = peer
    sent = 0
    for expected in range(3000):
        while sent < 3000 and sent - expected < 16:
            ends.write(sent)
            sent += 1
        assert ends.read() == expected + 1
    ends.write(STOP)
    assert ends.read() is STOP
    assert process.wait(100) == 0


def test_a_process_that_is_killed_is_lost_on_every_channel(peer):
    process, ends = peer
    ends.write(1)
    assert ends.read() == 2
    process.kill()
    ends.side.wait(lambda: len(ends.side.losses) == 2)
    assert sorted(ends.side.losses) == [(0, "closed by the other side"), (1, "closed by the other side")]
