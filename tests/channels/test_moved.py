"""Edges whose tensors something else carries: what goes in the frame, what goes to the mover, and when."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from async_adag.actor.control import LoopState
from async_adag.actor.moved import ByCommunicator, MovedReader, MovedWriter
from async_adag.channels.interface import STOP, Failure
from async_adag.graph.plan import Move
from async_adag.protocol.frame import ChannelError


class Recording:
    """A mover that writes down what it is asked for."""

    def __init__(self, ring, error=None):
        self.ring = ring
        self.error = error
        self.moved = []
        self.asked = []
        self.notes = []
        self.announced = []
        self.closed = 0
        self.checked = 0
        self.apart = []

    on_gpu = False
    may_wait = True

    def announce(self, tensors):
        assert not self.announced
        self.announced.append(len(tensors))
        return f"{len(tensors)} tensors"

    def check(self):
        self.checked += 1
        if isinstance(self.error, ChannelError):
            raise self.error

    def withdraw(self):
        self.announced.clear()

    def close(self):
        self.closed += 1

    def send(self, tensors):
        assert self.announced.pop() == len(tensors)
        assert self.ring.reader.may_read(), "the frame comes first"
        assert self.apart == [LoopState.SENDING]
        self.moved += tensors
        if self.error is not None:
            raise self.error

    def receive(self, headers, note):
        self.notes.append(note)
        assert self.apart == [LoopState.RECEIVING]
        self.asked += headers
        return [self.moved.pop(0) for _ in headers]

    @contextmanager
    def around(self, state):
        self.apart.append(state)
        yield
        self.apart.pop()


@pytest.fixture
def mover(ring):
    return Recording(ring)


@pytest.fixture
def writer(ring, mover):
    return MovedWriter(ring.writer, mover, mover.around)


@pytest.fixture
def reader(ring, mover):
    return MovedReader(ring.reader, mover, "the edge", mover.around)


def send(writer, value):
    writer.stage(writer.encode(value))
    writer.publish()


def test_the_frame_stays_small(writer, reader, mover):
    array = np.arange(100_000)
    send(writer, {"deep": [array]})
    assert writer.bytes < 1000
    assert mover.moved[0] is array, "no copy was made"
    assert reader.read()["deep"][0] is array
    assert reader.bytes == writer.bytes


def test_a_failure_has_the_mover_see_whether_the_edge_goes_on(writer, reader, mover):
    send(writer, np.arange(3))
    assert not mover.checked
    send(writer, Failure(b"failed"))
    assert mover.checked == 1
    mover.error = ChannelError("the edge from here: the device has failed")
    with pytest.raises(ChannelError, match="the device has failed"):
        writer.encode(Failure(b"failed"))
    assert list(reader.read()) == [0, 1, 2]
    assert reader.read().encoded == b"failed"
    assert not reader.may_read()


def test_nothing_is_sent_before_it_is_published(writer, reader, mover):
    writer.stage(writer.encode(np.arange(3)))
    assert mover.moved == []
    writer.unstage()
    send(writer, np.arange(4))
    assert [len(tensor) for tensor in mover.moved] == [4]
    np.testing.assert_array_equal(reader.read(), np.arange(4))


@pytest.mark.parametrize(
    "value",
    [Failure(b"failed"), STOP, "text", [1, 2], np.empty((0, 3))],
    ids=["failure", "stop", "text", "list", "empty"],
)
def test_a_frame_without_elements_asks_the_mover_for_nothing(writer, reader, mover, value):
    mover.error = AssertionError("called")
    send(writer, value)
    arrived = reader.read()
    assert type(arrived) is type(value)
    assert mover.asked == []


def test_a_failure_in_place_of_what_was_staged_takes_its_tensors_back(writer, reader, mover):
    """As when there is no memory for the frame."""
    writer.stage(writer.encode(np.arange(3)))
    writer.unstage()
    send(writer, Failure(b"no memory"))
    assert mover.moved == []
    assert reader.read().encoded == b"no memory"


def test_discarding_receives_what_the_frame_announces(writer, reader, mover):
    send(writer, [np.arange(3), np.arange(4)])
    send(writer, np.arange(5))
    reader.discard()
    assert [header.shape for header in mover.asked] == [(3,), (4,)]
    np.testing.assert_array_equal(reader.read(), np.arange(5))


class Unreadable:
    def __reduce__(self):
        return int, ("no number",)


def test_what_cannot_be_unpickled_has_been_received(writer, reader, mover):
    send(writer, [np.arange(3), Unreadable()])
    send(writer, np.arange(4))
    with pytest.raises(ValueError, match="no number"):
        reader.read()
    np.testing.assert_array_equal(reader.read(), np.arange(4))


@pytest.mark.parametrize("method", ["read", "discard"])
def test_a_frame_that_cannot_be_read_ends_the_edge(ring, reader, method):
    """What its writer sends is not known, so nobody can go on."""
    ring.send(Unreadable())
    with pytest.raises(ChannelError, match=r"the edge: a frame cannot be read: ValueError: .*no number"):
        getattr(reader, method)()


# -- a communicator as a mover


class Communicator:
    """Writes down what it is asked for; gives what was sent."""

    def __init__(self):
        self.sent = []

    def send(self, value, peer_rank):
        self.sent.append((value.tolist(), peer_rank))

    def recv(self, shape, dtype, peer_rank, allocator):
        tensor = allocator(shape, dtype)
        tensor[...] = peer_rank
        return tensor


def test_each_reader_in_turn_is_sent_all_tensors(ring, mover):
    communicator = Communicator()
    by = ByCommunicator(Move(0, "the edge", communicator, (5, 2)))
    writer = MovedWriter(ring.writer, by, mover.around)
    send(writer, [np.array([1]), np.array([2])])
    assert communicator.sent == [([1], 5), ([2], 5), ([1], 2), ([2], 2)]
    reader = MovedReader(
        ring.reader, ByCommunicator(Move(0, "the edge", communicator, (7,))), "the edge", mover.around
    )
    assert [array.tolist() for array in reader.read()] == [[7], [7]]


def test_what_a_communicator_raises_names_the_edge_and_it(ring, mover):
    class Unplugged(Communicator):
        def send(self, value, peer_rank):
            raise OSError("no network")

    writer = MovedWriter(ring.writer, ByCommunicator(Move(0, "the edge", Unplugged(), (1,))), mover.around)
    with pytest.raises(ChannelError, match=r"the edge: Unplugged.send raised OSError: no network") as caught:
        send(writer, np.arange(3))
    assert isinstance(caught.value.__cause__, OSError)
