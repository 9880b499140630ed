"""What the steps of two processes stand on: a peer that fails is noticed, and a mailbox loses nothing."""

from __future__ import annotations

import os

import pytest

from tests.gpu.mailbox import ENTRIES, Mailbox
from tests.gpu.peers import Line, PeerFailedError, peer


def answer(line: Line) -> None:
    line.put(line.get() + 1)


def fail(line: Line) -> None:
    raise ValueError("the second process broke")


def leave(line: Line) -> None:
    os._exit(0)


def pass_on(line: Line, there: Mailbox, back: Mailbox, count: int) -> None:
    for _ in range(count):
        back.put(there.get())


def test_two_processes_speak():
    with peer(answer) as line:
        line.put(1)
        assert line.get() == 2
    assert line.process is not None
    assert line.process.exitcode == 0


def test_a_peer_that_fails_is_heard():
    with peer(fail) as line, pytest.raises(PeerFailedError, match="the second process broke"):
        line.get()


def test_a_peer_that_ends_is_noticed():
    with peer(leave) as line, pytest.raises(PeerFailedError, match="has ended"):
        line.get()


def test_a_peer_that_says_nothing_is_noticed():
    with peer(answer) as line:
        with pytest.raises(PeerFailedError, match="has said nothing"):
            line.get(timeout=0.01)
        line.put(1)
        assert line.get() == 2


def test_a_mailbox_gives_everything_in_its_order():
    there, back = Mailbox(), Mailbox()
    count = 5 * ENTRIES
    with peer(pass_on, there, back, count):
        got = []
        for number in range(count):
            there.put((number, b"x" * (number * 7 % 3000)))
            while back.waiting > ENTRIES // 2:
                got.append(back.get())
        while len(got) < count:
            got.append(back.get())
        there.until_taken()
    assert got == [(number, b"x" * (number * 7 % 3000)) for number in range(count)]
