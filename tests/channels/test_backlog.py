"""The backlog: bytes go out as they came in, and memory is used again."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.channels import backlog as module
from async_adag.channels.backlog import CHUNK, IDLE, KEEP, Backlog, Chunks
from async_adag.channels.network import Network


def put_all(backlog, data):
    at = 0
    while at < len(data):
        at = backlog.put(data, at)


def take(backlog, count):
    """Send ``count`` bytes."""
    taken = b"".join(backlog.pieces())[:count]
    backlog.sent(len(taken))
    return taken


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(st.binary(max_size=40).map(lambda d: ("put", d)), st.integers(0, 60).map(lambda n: ("take", n)))
    )
)
def test_bytes_go_out_as_they_came_in(actions):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 16)
        backlog, expected, got = Backlog(Chunks()), b"", b""
        for what, operand in actions:
            if what == "put":
                put_all(backlog, operand)
                expected += operand
            else:
                got += take(backlog, operand)
            assert bool(backlog) == (len(got) < len(expected))
        while backlog:
            got += take(backlog, 7)
        assert got == expected


def test_it_is_a_copy():
    backlog = Backlog(Chunks())
    data = bytearray(b"before")
    put_all(backlog, data)
    data[:] = b"after!"
    assert take(backlog, 6) == b"before"


def test_chunks_are_used_again_and_only_so_many_kept():
    chunks = Chunks()
    backlog = Backlog(chunks)
    put_all(backlog, bytes(3 * CHUNK))
    backlog.clear()
    assert not backlog
    free = list(chunks._free)
    assert len(free) == 3
    put_all(backlog, bytes(2 * CHUNK + 1))
    assert not chunks._free
    deque(iter(lambda: take(backlog, CHUNK), b""), 0)
    assert sorted(map(id, chunks._free)) == sorted(map(id, free))
    many = [chunks.take() for _ in range(KEEP + 10)]
    for chunk in many:
        chunks.give_back(chunk)
    assert len(chunks._free) == KEEP


def test_chunks_that_nobody_needs_are_let_go():
    chunks = Chunks()
    taken = [chunks.take() for _ in range(5)]
    for chunk in taken:
        chunks.give_back(chunk)
    chunks.trim()
    assert len(chunks._free) == 5  # they were in use since the last time
    chunks.give_back(chunks.take())
    chunks.trim()
    assert len(chunks._free) == 1  # of the four others nobody had need
    chunks.trim()
    assert not chunks._free


def test_a_network_lets_go_of_them_however_rare_its_signs_of_life_are():
    asked = []
    attendant = SimpleNamespace(every=lambda seconds, callback: asked.append((seconds, callback)))
    network = Network(attendant, heartbeat=3600)
    network.chunks.give_back(network.chunks.take())
    for _ in range(2):
        for seconds, callback in asked:
            if seconds <= IDLE:
                callback()
    assert not network.chunks._free
    network.close()
