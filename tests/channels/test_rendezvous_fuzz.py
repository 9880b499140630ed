"""The handshake against anything at all: whatever comes, in however many messages, is refused and closed."""

from __future__ import annotations

import os
import socket
import struct

from hypothesis import example, given, settings
from hypothesis import strategies as st

from async_adag.channels.rendezvous import (
    TOKEN_BYTES,
    Listener,
    RendezvousError,
    receive_fds,
    receive_text,
)

CHUNK = struct.Struct("=II")  # descriptors here, and still to come
counts = st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1))
fds = st.one_of(st.integers(0, 4), st.sampled_from([200, 201, 253]))


def open_fds():
    return sorted(os.listdir("/proc/self/fd"), key=int)


def rights(count):
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{count}i", *[0] * count))] if count else []


@settings(max_examples=200)
@given(
    hello=st.one_of(
        st.binary(max_size=200),
        st.binary(min_size=TOKEN_BYTES + 4, max_size=TOKEN_BYTES + 4),
        st.binary(min_size=1, max_size=40).map(lambda tail: ("token", tail)),
    ),
    count=fds,
)
@example(hello=("token", b"\0\0\0\0"), count=3)
def test_a_client_that_says_anything_to_the_listener(hello, count):
    """Let in by the token and a number alone; what it hands over with that is not kept."""
    before = open_fds()
    listener = Listener()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        client.connect(listener.address.name)
        said = listener.address.token + hello[1] if isinstance(hello, tuple) else hello
        client.sendmsg([said], rights(count))
        ours = listener.accept()
        assert ours is not None
        number = listener.identify(ours)
        if isinstance(hello, tuple) and len(hello[1]) == 4:
            assert number == int.from_bytes(hello[1], "little")
            ours.close()
        else:
            assert number is None
            assert ours.fileno() == -1
    finally:
        client.close()
        listener.close()
    assert open_fds() == before


chunks = st.one_of(
    st.tuples(st.binary(max_size=20), fds),
    st.tuples(st.builds(CHUNK.pack, counts, counts), fds),
    fds.flatmap(lambda count: st.tuples(st.builds(CHUNK.pack, st.just(count), counts), st.just(count))),
)


@settings(max_examples=300)
@given(messages=st.lists(chunks, max_size=5), expected=st.integers(0, 6))
@example(messages=[(CHUNK.pack(200, 201), 200), (CHUNK.pack(200, 1), 200), (CHUNK.pack(1, 0), 1)], expected=401)
@example(messages=[(CHUNK.pack(2, 1), 2), (CHUNK.pack(1, 0), 1)], expected=3)
def test_a_driver_that_sends_anything_to_an_actor(messages, expected):
    """Taken if it is what was expected, else refused; no descriptor stays either way."""
    before = open_fds()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        theirs.settimeout(30)
        for data, count in messages:
            ours.sendmsg([data], rights(count))
        ours.close()
        try:
            received = receive_fds(theirs, expected)
        except RendezvousError:
            assert not is_an_answer(messages, expected)
        else:
            assert is_an_answer(messages, expected)
            assert len(received) == expected
            for fd in received:
                assert not os.get_inheritable(fd)
                os.close(fd)
    finally:
        ours.close()
        theirs.close()
    assert open_fds() == before


def is_an_answer(messages, expected):
    """Whether these messages, as far as the last of an answer, hand out what is expected."""
    for data, count in messages:
        if len(data) != CHUNK.size or count > 200:
            return False
        announced, left = CHUNK.unpack(data)
        expected -= count
        if announced != count or left != expected or (left and not count):
            return False
        if left == 0:
            return True
    return False


@settings(max_examples=200)
@given(st.binary(max_size=300), fds)
def test_an_actor_that_says_anything_to_its_driver(said, count):
    """Any bytes are words of a kind: the driver reads text, and keeps no descriptors."""
    before = open_fds()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        ours.setblocking(False)
        theirs.sendmsg([said or b"\0"], rights(count))
        assert isinstance(receive_text(ours), str)
        assert receive_text(ours) is None
    finally:
        ours.close()
        theirs.close()
    assert open_fds() == before
