"""The handshake over TCP: who gets through, and that nobody else does."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_adag.protocol.handshake import MAGIC, NONCE_BYTES, SECRET_BYTES, Callee, Caller, HandshakeError, Purpose

SECRET = bytes(range(SECRET_BYTES))
EDGE = Purpose("edge", 7)

purposes = st.builds(Purpose, st.sampled_from(["control", "edge"]), st.integers(0, 2**32 - 1))


def converse(caller, callee, tamper=lambda number, message: message):
    """The four messages, as they were sent, through a tamperer's hands."""
    messages = []

    def through(message):
        messages.append(message)
        return tamper(len(messages) - 1, message)

    challenge = callee.feed(through(caller.hello))
    proof = caller.feed(through(challenge))
    welcome = callee.feed(through(proof))
    assert caller.feed(through(welcome)) == b""
    return messages


@given(purposes, st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_who_knows_the_secret_gets_through(purpose, secret):
    caller, callee = Caller(secret, purpose), Callee(secret)
    converse(caller, callee)
    assert (caller.wanted, callee.wanted) == (0, 0)
    assert callee.purpose == purpose
    assert type(callee.purpose) is Purpose


@given(st.data())
def test_messages_may_come_in_any_pieces(data):
    caller, callee = Caller(SECRET, EDGE), Callee(SECRET)

    def feed(machine, message):
        answer = b""
        while message:
            assert not answer
            size = data.draw(st.integers(1, len(message)))
            answer = machine.feed(message[:size])
            message = message[size:]
        return answer

    feed(caller, feed(callee, feed(caller, feed(callee, caller.hello))))
    assert (caller.wanted, callee.wanted) == (0, 0)


def test_the_purpose_is_not_known_before_it_is_proved():
    caller, callee = Caller(SECRET, EDGE), Callee(SECRET)
    proof = caller.feed(callee.feed(caller.hello))
    assert callee.purpose is None
    callee.feed(proof[:-1])
    assert callee.purpose is None
    callee.feed(proof[-1:])
    assert callee.purpose == EDGE


@pytest.mark.parametrize("stranger", ["caller", "callee"])
def test_who_does_not_know_the_secret_does_not(stranger):
    other = secrets.token_bytes(SECRET_BYTES)
    caller = Caller(other if stranger == "caller" else SECRET, EDGE)
    callee = Callee(other if stranger == "callee" else SECRET)
    challenge = callee.feed(caller.hello)
    with pytest.raises(HandshakeError, match="does not know the graph's secret"):
        caller.feed(challenge)
    with pytest.raises(HandshakeError, match="does not know the graph's secret"):
        callee.feed(bytes(32))
    assert callee.purpose is None


SIZES = [len(message) for message in converse(Caller(SECRET, EDGE), Callee(SECRET))]


@pytest.mark.parametrize("number", range(4))
def test_any_byte_that_is_changed_is_refused(number):
    for at in range(SIZES[number]):
        for flip in (0x01, 0x80):

            def tamper(which, message, at=at, flip=flip):
                if which != number:
                    return message
                return message[:at] + bytes([message[at] ^ flip]) + message[at + 1 :]

            caller, callee = Caller(SECRET, EDGE), Callee(SECRET)
            with pytest.raises(HandshakeError):
                converse(caller, callee, tamper)
            assert number == 3 or callee.purpose is None
            assert caller.wanted


@pytest.mark.parametrize("number", range(4))
def test_what_is_cut_short_waits_for_the_rest(number):
    caller, callee = Caller(SECRET, EDGE), Callee(SECRET)
    message = caller.hello
    for which in range(number):
        message = (callee if which % 2 == 0 else caller).feed(message)
    machine = callee if number % 2 == 0 else caller
    assert machine.feed(message[:-1]) == b""
    assert machine.wanted == 1


def test_nothing_can_be_sent_back_to_who_sent_it():
    # A caller that is made to talk to itself, or to another caller; a callee that is shown its own MAC.
    caller, callee = Caller(SECRET, EDGE), Callee(SECRET)
    challenge = callee.feed(caller.hello)
    with pytest.raises(HandshakeError):
        callee.feed(challenge[-32:])
    callee = Callee(SECRET)
    proof = caller.feed(callee.feed(caller.hello))
    with pytest.raises(HandshakeError):
        caller.feed(proof)
    other = Caller(SECRET, EDGE)
    with pytest.raises(HandshakeError):
        other.feed((caller.hello + bytes(100))[: other.wanted])


def test_what_was_heard_once_opens_nothing_again():
    messages = converse(Caller(SECRET, EDGE), Callee(SECRET))
    callee = Callee(SECRET)
    callee.feed(messages[0])
    with pytest.raises(HandshakeError):
        callee.feed(messages[2])
    with pytest.raises(HandshakeError):
        Caller(SECRET, EDGE).feed(messages[1])


def test_a_proof_for_one_purpose_is_none_for_another():
    nonce = bytes(NONCE_BYTES)
    caller, callee = Caller(SECRET, EDGE, nonce), Callee(SECRET)
    with pytest.raises(HandshakeError):
        caller.feed(callee.feed(Caller(SECRET, Purpose("edge", 8), nonce).hello))


def test_nonces_are_never_the_same():
    assert len({Caller(SECRET, EDGE).hello for _ in range(100)}) == 100
    assert len({Callee(SECRET).feed(Caller(SECRET, EDGE, bytes(NONCE_BYTES)).hello) for _ in range(100)}) == 100


def test_bytes_that_are_too_many_are_refused():
    callee = Callee(SECRET)
    with pytest.raises(HandshakeError, match="none were expected"):
        callee.feed(Caller(SECRET, EDGE).hello + b"x")
    with pytest.raises(HandshakeError):
        callee.feed(b"x")


def test_who_has_failed_stays_failed():
    callee = Callee(SECRET)
    hello = Caller(SECRET, EDGE).hello
    with pytest.raises(HandshakeError):
        callee.feed(b"?" + hello[1:])
    with pytest.raises(HandshakeError):
        callee.feed(hello)


@pytest.mark.parametrize(
    ("magic", "words"),
    [
        (b"?" + MAGIC[1:], "does not speak this protocol"),
        (MAGIC[:-2] + bytes([9]) + MAGIC[-1:], "speaks version 9 of the protocol, this one 1"),
        (MAGIC[:-1] + bytes([1 - MAGIC[-1]]), "another order of bytes"),
    ],
)
def test_the_words_say_what_is_wrong(magic, words):
    with pytest.raises(HandshakeError, match=words):
        Callee(SECRET).feed(magic + Caller(SECRET, EDGE).hello[len(MAGIC) :])


def test_a_secret_has_its_size():
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        Callee(b"abc")


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_garbage_gets_through(pieces):
    for machine in (Callee(SECRET), Caller(SECRET, EDGE)):
        try:
            for piece in pieces:
                machine.feed(piece)
        except HandshakeError:
            pass
        assert machine.wanted or not isinstance(machine, Callee)
        assert isinstance(machine, Caller) or machine.purpose is None
        assert machine.wanted
