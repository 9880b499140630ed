"""Headers of tensors are sent once; after that a frame names them by a number."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from async_adag.actor.moved import MovedReader, MovedWriter
from async_adag.channels.interface import Failure
from async_adag.channels.layouts import KEPT, Known, Told
from async_adag.channels.tensor_headers import Header
from async_adag.channels.tensors import Parcel
from async_adag.protocol.frame import ChannelError


class Passing:
    """A mover that hands tensors over within the process."""

    on_gpu = False
    may_wait = False

    def __init__(self):
        self.moved = []

    def announce(self, tensors):
        return None

    def check(self):
        pass

    def withdraw(self):
        pass

    def send(self, tensors):
        self.moved += tensors

    def receive(self, headers, note):
        return [self.moved.pop(0) for _ in headers]

    def close(self):
        pass


@pytest.fixture
def ends(ring):
    mover = Passing()
    return MovedWriter(ring.writer, mover, nullcontext), MovedReader(ring.reader, mover, "the edge", nullcontext)


def parcel(*sizes):
    return Parcel(tuple(Header("numpy", "<f4", (size,)) for size in sizes), b"", [], (), [])


def around(writer, reader, value):
    """Send ``value``; how long its frame was."""
    before = writer.bytes
    writer.stage(writer.encode(value))
    writer.publish()
    arrived = reader.read()
    assert len(arrived) == len(value)
    for there, here in zip(arrived, value, strict=True):
        np.testing.assert_array_equal(there, here)
    return writer.bytes - before


def test_a_layout_that_came_before_is_named(ends):
    value = [np.arange(size) for size in range(1, 30)]
    first, *others = [around(*ends, value) for _ in range(4)]
    assert others == [others[0]] * 3
    assert first > others[0] + 500
    changed = [np.arange(size, dtype="f4") for size in range(1, 30)]
    assert around(*ends, changed) > others[0] + 500
    assert around(*ends, value) == others[0]


def test_what_was_not_published_is_told_again(ends):
    writer, reader = ends
    value = [np.arange(3)] * 1
    writer.stage(writer.encode(value))
    writer.unstage()
    writer.stage(writer.encode(Failure(b"no memory")))
    writer.publish()
    assert type(reader.read()) is Failure
    around(writer, reader, value)


def test_more_layouts_than_are_kept():
    told, known = Told(), Known()
    for number in [*range(3 * KEPT), *range(3 * KEPT), 5, 5, 5, *range(2 * KEPT, 3 * KEPT)]:
        sent = told.shorten(parcel(number, 1))
        told.published()
        assert known.complete(sent).headers == parcel(number, 1).headers
    assert not told.shorten(parcel(3 * KEPT - 1, 1)).headers
    assert told.shorten(parcel(0, 1)).headers


def test_a_layout_that_nobody_has_told():
    with pytest.raises(ChannelError, match="layout 3"):
        Known().complete(parcel()._replace(layout=3))
