"""Refs in frames that go to another host are held until its readers have given them back. No Ray here."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from async_adag.channels.codec import Referring
from async_adag.channels.landing import LOOKS
from async_adag.channels.ring import HOLDS
from async_adag.protocol.frame import Kind

pytestmark = pytest.mark.usefixtures("no_ray")


class Ref:
    """Stands for an ObjectRef."""


def write(channel, value):
    """Send a frame whose value, in a list, comes with a ref; what tells whether the ref is still held."""
    ref = Ref()
    _, body, buffers = channel.writer.encode([value])
    channel.writer.stage((int(Kind.REFS), Referring(body, [ref]), buffers))
    channel.writer.publish()
    channel.settle()
    return weakref.ref(ref)


def look(channel):
    """What a writer does with each frame: it looks for what was given back."""
    channel.settle()
    channel.writer.encode(None)


@pytest.mark.parametrize("value", ["small", "x" * 5000, np.arange(5000), np.arange(500_000)], ids=len)
def test_refs_are_held_until_their_frame_was_read(open_link, value):
    channel = open_link()
    held = write(channel, value)
    look(channel)
    assert held() is not None
    assert np.array_equal(channel.reader.read()[0], value)
    look(channel)
    assert held() is None


def test_refs_of_a_discarded_frame_are_given_back(open_link):
    channel = open_link()
    held = write(channel, "x")
    channel.reader.discard()
    look(channel)
    assert held() is None


def test_every_reader_gives_its_refs_back(open_link):
    channel = open_link(readers=3)
    held = write(channel, "x")
    for reader in channel.readers:
        look(channel)
        assert held() is not None
        reader.read()
    look(channel)
    assert held() is None


def test_refs_of_an_unstaged_frame_are_let_go(open_link):
    channel = open_link()
    ref = Ref()
    held = weakref.ref(ref)
    channel.writer.stage((int(Kind.REFS), Referring(b"x", [ref]), []))
    del ref
    assert held() is not None
    channel.writer.unstage()
    assert held() is None
    assert channel.pass_on("next") == "next"


@pytest.mark.interpreted(reason="it replaces a method")
def test_refs_of_a_frame_for_which_there_was_no_memory_are_given_back(open_link, monkeypatch):
    channel = open_link()

    def refuse(*_):
        raise OSError(28, "no memory")

    monkeypatch.setattr(channel.landing._ring._pool, "take", refuse)
    held = write(channel, "x" * 5000)
    look(channel)
    assert held() is None


def test_many_frames_use_the_same_holds(open_link):
    channel = open_link()
    for _ in range(3 * HOLDS):
        held = write(channel, "x")
        channel.reader.read()
    look(channel)
    assert held() is None
    assert not channel.writer._holds.refs
    assert not channel.landing._held


def test_all_that_was_given_back_is_told_at_once(open_link):
    """However many frames come between two looks: holds would run out, and the rest be pinned for good."""
    channel = open_link(slots=3 * LOOKS)
    for _ in range(3 * LOOKS):
        write(channel, "x")
    assert len(channel.landing._held) == 3 * LOOKS
    for _ in range(2 * LOOKS + 1):
        channel.reader.read()
    with channel.landing.lock:
        channel.landing._look_at_holds()
    assert len(channel.landing._held) == LOOKS - 1


@pytest.mark.interpreted(reason="it replaces a method")
def test_looking_ends_at_those_still_in_use(open_link, monkeypatch):
    channel = open_link(slots=3 * LOOKS)
    for _ in range(3 * LOOKS):
        write(channel, "x")
    looked = []
    monkeypatch.setattr(channel.landing._ring, "has_given_back", lambda hold, held: looked.append(hold))
    for _ in range(3):
        with channel.landing.lock:
            channel.landing._look_at_holds()
    assert len(looked) == len(set(looked)) == 3 * LOOKS, "each time at others"


@pytest.mark.parametrize("where", ["in the ring", "on the way"])
def test_what_nobody_will_read_is_given_back_when_both_sides_close(open_link, monkeypatch, where):
    channel = open_link()
    pinned = []
    monkeypatch.setattr(channel.writer._holds, "_pin", pinned.append)
    held = [write(channel, "x") for _ in range(3)]
    if where == "on the way":
        monkeypatch.setattr(channel, "settle", lambda: None)
        held.append(write(channel, "x"))
        assert channel.landing.landed == 3
    channel.reader.close()
    channel.landing.close()
    channel.writer.close()
    assert [each() for each in held] == [None] * len(held)
    assert pinned == []


def test_what_is_still_used_when_the_writer_closes_is_pinned(open_link, monkeypatch):
    channel = open_link()
    pinned = []
    monkeypatch.setattr(channel.writer._holds, "_pin", pinned.append)
    held = write(channel, "x")
    channel.writer.close()
    assert pinned == [held()]
