"""Refs in a ring's frames are held for as long as a frame needs them. No Ray: what is held is anything."""

from __future__ import annotations

import pickle
import weakref

import numpy as np
import pytest

from async_adag.channels.codec import Referring
from async_adag.channels.ring import HOLDS
from async_adag.protocol.frame import Kind

pytestmark = pytest.mark.usefixtures("no_ray")


class Ref:
    """Stands for an ObjectRef."""


def encoded(ring, value):
    """A frame whose value, in a list, comes with a ref, and what tells whether the ref is still held."""
    ref = Ref()
    _, body, buffers = ring.writer.encode([value])
    return (int(Kind.REFS), Referring(body, [ref]), buffers), weakref.ref(ref)


def write(ring, value):
    frame, held = encoded(ring, value)
    ring.writer.stage(frame)
    del frame
    ring.writer.publish()
    return held


def look(ring):
    """What a writer does with each frame: it looks for what was given back."""
    ring.pass_on(None)


VALUES = ["small", "x" * 5000, np.arange(10), np.arange(5000), np.arange(50_000)]
each_value = pytest.mark.parametrize("value", VALUES, ids=["small", "block", "inline", "copied", "leased"])


@each_value
def test_refs_are_held_until_their_frame_was_read(ring, value):
    held = write(ring, value)
    assert held() is not None
    assert np.array_equal(ring.reader.read()[0], value)
    look(ring)
    assert held() is None


@each_value
def test_refs_of_a_discarded_frame_are_given_back(ring, value):
    held = write(ring, value)
    ring.reader.discard()
    look(ring)
    assert held() is None


def test_every_reader_gives_its_refs_back(make_ring):
    ring = make_ring(3)
    held = write(ring, "x")
    for reader in ring.readers:
        assert held() is not None
        reader.read()
    look(ring)
    assert held() is None


@each_value
def test_refs_of_an_unstaged_frame_are_let_go(ring, value):
    frame, held = encoded(ring, value)
    ring.writer.stage(frame)
    del frame
    assert held() is not None
    ring.writer.unstage()
    assert held() is None
    ring.writer.unstage()
    assert ring.pass_on("next") == "next"


def test_a_published_frame_is_not_unstaged(ring):
    held = write(ring, "x")
    ring.writer.unstage()
    assert held() is not None


@pytest.mark.interpreted(reason="it replaces a method")
def test_a_frame_for_which_there_is_no_memory_holds_nothing(ring, monkeypatch):
    frame, held = encoded(ring, "x" * 5000)

    def refuse(*_):
        raise OSError("no memory")

    monkeypatch.setattr(ring.writer._pool, "take", refuse)
    with pytest.raises(OSError, match="no memory"):
        ring.writer.stage(frame)
    del frame
    assert held() is None


@pytest.mark.interpreted(reason="it replaces a method")
def test_a_frame_that_cannot_be_mapped_is_given_back(ring, monkeypatch):
    held = write(ring, "x" * 5000)

    def refuse(*_):
        raise OSError("no memory")

    monkeypatch.setattr(ring.reader, "_map", refuse)
    with pytest.raises(OSError, match="no memory"):
        ring.reader.read()
    look(ring)
    assert held() is None


def test_a_value_that_cannot_be_unpickled_gives_its_refs_back(ring):
    frame, held = encoded(ring, "x")
    ring.writer.stage((frame[0], frame[1]._replace(body=b"no pickle"), []))
    del frame
    ring.writer.publish()
    with pytest.raises(pickle.UnpicklingError):
        ring.reader.read()
    look(ring)
    assert held() is None


def test_a_reader_that_closes_gives_back_what_it_did_not_read(ring):
    held = [write(ring, "x" * size) for size in (1, 5000)]
    ring.send("between")
    ring.reader.close()
    ring.writer._holds.sweep()
    assert [ref() for ref in held] == [None, None]


def test_many_frames_use_the_same_holds(ring):
    for _ in range(3 * HOLDS):
        held = write(ring, "x")
        ring.reader.read()
    look(ring)
    assert held() is None
    assert not ring.writer._holds.refs


def test_refs_that_nobody_gives_back_stop_nothing(make_ring):
    ring = make_ring(slots=HOLDS + 10)
    held = [write(ring, "x") for _ in range(HOLDS + 10)]  # pinned, were they refs of Ray's
    assert sum(ref() is not None for ref in held) == HOLDS
    assert [ring.reader.read() for _ in held] == [["x"]] * len(held)
    ring.writer._holds.sweep(HOLDS)
    assert not any(ref() for ref in held)
