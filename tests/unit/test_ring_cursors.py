"""The ring's rules against a model: method by method, with any number of readers."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from async_adag.protocol.ring import LINE, ReaderCursor, RingLayout, WriterCursor


def no_fence():
    """One thread needs none."""


class RingAgainstModel(RuleBasedStateMachine):
    """Frames are numbers; a reader's model is a queue of those it has not taken."""

    @initialize(slots=st.integers(1, 5), readers=st.integers(1, 4))
    def make(self, slots, readers):
        layout = RingLayout(slots, readers, blocks=3)
        words = [0] * layout.words
        self.slots = slots
        self.memory = [None] * slots
        self.writer = WriterCursor(words, layout, no_fence)
        self.readers = [ReaderCursor(words, layout, reader, no_fence) for reader in range(readers)]
        self.queues = [deque() for _ in range(readers)]
        self.asleep = [False] * readers
        self.writer_asleep = False
        self.sent = 0

    def is_full(self):
        return max(map(len, self.queues)) == self.slots

    @precondition(lambda self: not self.is_full())
    @rule()
    def write(self):
        assert self.writer.may_write()
        self.memory[self.writer.head % self.slots] = self.sent
        woken = self.writer.publish()
        assert sorted(woken) == [reader for reader, asleep in enumerate(self.asleep) if asleep]
        self.asleep = [False] * len(self.asleep)
        for queue in self.queues:
            queue.append(self.sent)
        self.sent += 1

    @rule(data=st.data())
    def read(self, data):
        reader = data.draw(st.integers(0, len(self.readers) - 1))
        cursor, queue = self.readers[reader], self.queues[reader]
        assert cursor.may_read() == bool(queue)
        if queue:
            assert self.memory[cursor.tail % self.slots] == queue.popleft()
            assert cursor.take() == self.writer_asleep
            self.writer_asleep = False

    @rule(data=st.data())
    def arm_reader(self, data):
        reader = data.draw(st.integers(0, len(self.readers) - 1))
        there = self.readers[reader].arm()
        assert there == bool(self.queues[reader])
        self.asleep[reader] = not there

    @rule()
    def arm_writer(self):
        there = self.writer.arm()
        assert there == (not self.is_full())
        self.writer_asleep = not there

    @invariant()
    def may_write_exactly_when_a_slot_is_free(self):
        if hasattr(self, "writer"):
            assert self.writer.may_write() == (not self.is_full())
            assert self.writer.head == self.sent


RingAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestRingAgainstModel = RingAgainstModel.TestCase


class Interruptible:
    """A fence at which somebody else may have a turn."""

    def __init__(self):
        self.turn = None

    def __call__(self):
        turn, self.turn = self.turn, None
        if turn is not None:
            turn()


def test_a_reader_that_finds_news_while_it_arms_leaves_its_neighbour_armed():
    """An event loop sleeps; a thread of the same process arms between a frame and the look at who sleeps."""
    layout = RingLayout(2, 1, blocks=0)
    words, fence = [0] * layout.words, Interruptible()
    writer, reader = WriterCursor(words, layout, fence), ReaderCursor(words, layout, 0, no_fence)
    assert not reader.arm()
    found = []
    fence.turn = lambda: found.append(reader.arm())
    assert (writer.publish(), found) == ([0], [True]), "the loop was not to be rung any more"


def test_a_writer_that_finds_room_while_it_arms_leaves_its_neighbour_armed():
    layout = RingLayout(1, 1, blocks=0)
    words, fence = [0] * layout.words, Interruptible()
    writer, reader = WriterCursor(words, layout, no_fence), ReaderCursor(words, layout, 0, fence)
    writer.publish()
    assert not writer.arm()
    found = []
    fence.turn = lambda: found.append(writer.arm())
    assert (reader.take(), found) == (True, [True])


@pytest.mark.parametrize("readers", [1, 2, 7])
@pytest.mark.parametrize("blocks", [0, 1, 8, 9])
def test_no_two_words_lie_in_the_same_place(readers, blocks):
    layout = RingLayout(4, readers, blocks)
    single = [layout.head, layout.writer_parked, *layout.tails, *layout.parked]
    returned = [first + block for first in layout.returned for block in range(blocks)]
    assert len({*single, *returned}) == len(single) + len(returned)
    assert max([*single, *returned]) < layout.words


@pytest.mark.parametrize("readers", [1, 2, 7])
def test_words_of_different_writers_share_no_cache_line(readers):
    layout = RingLayout(4, readers, 9)
    lines = [layout.head // LINE, layout.writer_parked // LINE]
    lines += [tail // LINE for tail in layout.tails] + [parked // LINE for parked in layout.parked]
    assert len(set(lines)) == len(lines)
    ranges = [{word // LINE for word in range(first, first + 9)} for first in layout.returned]
    assert sum(map(len, ranges)) == len(set().union(*ranges))
    assert not set().union(*ranges) & set(lines)


def test_cursors_go_on_where_the_words_stand():
    layout = RingLayout(2, 1, 0)
    words = [0] * layout.words
    words[layout.head] = 7
    words[layout.tails[0]] = 6
    writer, reader = WriterCursor(words, layout, no_fence), ReaderCursor(words, layout, 0, no_fence)
    assert writer.may_write()
    writer.publish()
    assert not writer.may_write()
    assert reader.may_read()
    reader.take()
    assert writer.may_write()
    assert (writer.head, reader.tail) == (8, 7)
