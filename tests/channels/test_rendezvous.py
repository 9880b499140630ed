"""The rendezvous: who is let in, and how descriptors travel."""

from __future__ import annotations

import logging
import os
import socket
import struct

import pytest

from async_adag.channels.processes import peer_credentials, peer_pidfd
from async_adag.channels.rendezvous import (
    FDS_PER_MESSAGE,
    TOKEN_BYTES,
    Address,
    HungUp,
    Listener,
    RendezvousError,
    connect,
    receive_fds,
    receive_text,
    send_fds,
    send_text,
)

PATIENCE = 100.0  # seconds; only a failing test waits


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def opened():
    """What the test opened; closed at its end."""
    sockets = []
    yield sockets
    for one in sockets:
        one.close()


@pytest.fixture
def pair(opened):
    """A connection, as the rendezvous uses it: the driver's side and the actor's."""
    opened += socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for side in opened:
        side.settimeout(PATIENCE)
    return opened[-2:]


@pytest.fixture
def stranger(listener, opened):
    """Somebody who connects without being of the graph: both sides."""
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    opened.append(theirs)
    theirs.connect(listener.address.name)
    ours = listener.accept()
    opened.append(ours)
    return ours, theirs


def open_fds():
    return sorted(os.listdir("/proc/self/fd"), key=int)


def what(fd):
    """What a descriptor is, whatever its number."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


# -- the handshake


@pytest.mark.parametrize("number", [0, 7, 2**32 - 1])
def test_an_actor_is_known_by_its_token_and_number(listener, opened, number):
    theirs = connect(listener.address, number, PATIENCE)
    ours = listener.accept()
    opened += [theirs, ours]
    assert listener.identify(ours) == number


def test_nobody_is_there_until_somebody_connects(listener):
    assert listener.accept() is None


def test_many_may_connect_before_anybody_is_let_in(listener, opened):
    opened += [connect(listener.address, number, PATIENCE) for number in range(50)]
    ours = [listener.accept() for _ in range(50)]
    opened += ours
    assert sorted(listener.identify(connection) for connection in ours) == list(range(50))


def test_every_graph_has_its_own_name_and_token():
    first, second = Listener(), Listener()
    try:
        assert first.address.name != second.address.name
        assert first.address.token != second.address.token
        assert len(first.address.token) == TOKEN_BYTES
        assert first.address.name.startswith("\0")  # no file system knows it
    finally:
        first.close()
        second.close()


def test_the_token_is_not_shown(listener):
    assert repr(listener.address.token) not in repr(listener.address)
    assert listener.address.token.hex() not in repr(listener.address)


def test_a_wrong_token_is_refused(listener, opened, caplog):
    opened.append(connect(Address(listener.address.name, b"x" * TOKEN_BYTES), 0, PATIENCE))
    opened.append(listener.accept())
    with caplog.at_level(logging.WARNING):
        assert listener.identify(opened[-1]) is None
    assert "token" in caplog.text
    assert listener.address.token.hex() not in caplog.text


@pytest.mark.parametrize("size", [1, TOKEN_BYTES, TOKEN_BYTES + 3, TOKEN_BYTES + 5, 5000])
def test_garbage_is_refused(listener, stranger, size):
    ours, theirs = stranger
    theirs.send(b"\xff" * size)
    assert listener.identify(ours) is None


def test_the_right_token_with_something_behind_it_is_refused(listener, stranger):
    ours, theirs = stranger
    theirs.send(listener.address.token + struct.pack("=I", 0) + b"!")
    assert listener.identify(ours) is None


def test_who_hangs_up_without_a_word_is_refused(listener, stranger):
    ours, theirs = stranger
    theirs.close()
    assert listener.identify(ours) is None


def test_who_says_nothing_keeps_nobody_waiting(listener, stranger, opened):
    silent, _ = stranger
    opened.append(connect(listener.address, 3, PATIENCE))
    opened.append(listener.accept())
    assert listener.identify(opened[-1]) == 3
    assert listener.identify(silent) is None


def test_who_was_refused_changes_nothing_for_the_next(listener, stranger, opened):
    ours, theirs = stranger
    theirs.send(b"garbage")
    assert listener.identify(ours) is None
    opened.append(connect(listener.address, 1, PATIENCE))
    opened.append(listener.accept())
    assert listener.identify(opened[-1]) == 1


def test_nobody_can_be_reached_once_the_listener_is_closed(listener):
    listener.close()
    before = open_fds()
    with pytest.raises(RendezvousError, match="cannot be reached"):
        connect(listener.address, 0, PATIENCE)
    assert open_fds() == before


def test_sockets_are_not_inherited(listener, opened):
    opened.append(connect(listener.address, 0, PATIENCE))
    opened.append(listener.accept())
    assert not any(one.get_inheritable() for one in (listener.socket, *opened))


def test_both_sides_know_whom_they_talk_to(listener, opened):
    theirs = connect(listener.address, 0, PATIENCE)
    ours = listener.accept()
    opened += [theirs, ours]
    for side in (ours, theirs):
        assert peer_credentials(side) == (os.getpid(), os.geteuid())


def test_the_pidfd_of_the_other_side_is_that_of_its_process(pair):
    fd = peer_pidfd(pair[0])
    try:
        assert not os.get_inheritable(fd)
        with open(f"/proc/self/fdinfo/{fd}") as info:
            assert f"Pid:\t{os.getpid()}\n" in info.read()
    finally:
        os.close(fd)


# -- descriptors


@pytest.mark.parametrize("count", [0, 1, 2, FDS_PER_MESSAGE, FDS_PER_MESSAGE + 1, 254, 2 * FDS_PER_MESSAGE, 450])
def test_any_number_of_descriptors_arrives_in_order(pair, count):
    ours, theirs = pair
    read, write = os.pipe()
    event = os.eventfd(0)
    try:
        sent = [(read, write, event)[number % 3] for number in range(count)]
        send_fds(ours, sent)
        arrived = receive_fds(theirs, count)
        try:
            assert list(map(what, arrived)) == list(map(what, sent))
            assert not any(map(os.get_inheritable, arrived))
        finally:
            for fd in arrived:
                os.close(fd)
    finally:
        for fd in (read, write, event):
            os.close(fd)


@pytest.mark.parametrize(("sent", "expected"), [(2, 3), (4, 3), (0, 1), (1, 0), (300, 250), (200, 201)])
def test_too_many_or_too_few_are_refused_and_closed(pair, sent, expected):
    ours, theirs = pair
    send_fds(ours, [0] * sent)
    before = open_fds()
    with pytest.raises(RendezvousError, match=f"{sent} descriptors came where {expected} were expected"):
        receive_fds(theirs, expected)
    assert open_fds() == before


def rights(fds):
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]


CHUNK = struct.Struct("=II")  # descriptors here, and still to come


@pytest.mark.parametrize(
    ("data", "fds"),
    [
        (CHUNK.pack(3, 0), [0, 0]),
        (CHUNK.pack(1, 0), [0, 0]),
        (CHUNK.pack(2, 0), []),
        (CHUNK.pack(0, 2), []),
        (b"x", [0]),
        (CHUNK.pack(1, 0) + b"x", [0]),
        (b"garbage!" * 100, [0, 0]),
        (CHUNK.pack(2**32 - 1, 2**32 - 1), [0]),
    ],
    ids=[
        "fewer-than-announced",
        "more-than-announced",
        "none-of-those-announced",
        "only-promises",
        "short",
        "long",
        "garbage",
        "huge-numbers",
    ],
)
def test_a_message_that_is_none_of_ours_is_refused_and_its_descriptors_closed(pair, data, fds):
    ours, theirs = pair
    ours.sendmsg([data], rights(fds) if fds else [])
    before = open_fds()
    with pytest.raises(RendezvousError):
        receive_fds(theirs, 2)
    assert open_fds() == before


def test_a_driver_that_hangs_up_in_the_middle_is_noticed(pair):
    ours, theirs = pair
    ours.sendmsg([CHUNK.pack(1, 1)], rights([0]))
    ours.close()
    before = open_fds()
    with pytest.raises(HungUp):
        receive_fds(theirs, 2)
    assert open_fds() == before


def test_a_driver_that_sends_nothing_is_not_waited_for_for_ever(pair):
    theirs = pair[1]
    theirs.settimeout(0)
    with pytest.raises(HungUp, match="sent nothing"):
        receive_fds(theirs, 1)


def test_sending_to_nobody_is_an_os_error(pair):
    ours, theirs = pair
    theirs.close()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        send_fds(ours, [0])


# -- last words


@pytest.mark.parametrize("text", ["ready", "né漢🎉", "a" * 20_000])
def test_words_arrive(pair, text):
    ours, theirs = pair
    theirs.setblocking(False)
    assert receive_text(theirs) is None
    send_text(ours, text)
    assert receive_text(theirs) == text
    ours.close()
    assert receive_text(theirs) == ""


@pytest.mark.parametrize("first", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("character", ["é", "漢", "🎉"])
def test_a_long_text_is_cut_between_characters(pair, first, character):
    ours, theirs = pair
    send_text(ours, first + character * 40_000)
    arrived = receive_text(theirs)
    assert len(arrived) > 5000
    assert (first + character * 40_000).startswith(arrived.rstrip("…\ufffd"))


def test_text_that_utf8_cannot_hold_arrives_in_some_form(pair):
    ours, theirs = pair
    send_text(ours, "a file named \udcff in a traceback")
    assert receive_text(theirs).startswith("a file named ")


def test_bytes_that_are_no_text_are_no_fault_of_the_listener(pair):
    ours, theirs = pair
    ours.send(b"abc\xff\xfe")
    assert receive_text(theirs).startswith("abc")


def test_talking_to_nobody_is_harmless(pair):
    ours, theirs = pair
    theirs.close()
    send_text(ours, "is anybody there?")
    assert receive_text(ours) == ""
