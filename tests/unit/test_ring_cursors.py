"""The ring's rules against a model: method by method, with any number of readers."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from async_adag.protocol.frame import FrameError
from async_adag.protocol.ring import LINE, ReaderCursor, RingLayout, WriterCursor

no_fence = nullcontext()  # one thread needs none


def cursors(layout, readers=1, *, writer_fence=no_fence, reader_fence=no_fence, writer_cpu=int, reader_cpu=int):
    """The two sides over the same words; ``int()`` is CPU 0."""
    words = [0] * layout.words
    writer = WriterCursor(words, layout, writer_fence, writer_cpu)
    return writer, *(ReaderCursor(words, layout, reader, reader_fence, reader_cpu) for reader in range(readers))


class RingAgainstModel(RuleBasedStateMachine):
    """Frames are numbers; a reader's model is a queue of those it has not taken."""

    @initialize(slots=st.integers(1, 5), readers=st.integers(1, 4))
    def make(self, slots, readers):
        layout = RingLayout(slots, readers, blocks=3)
        self.slots = slots
        self.memory = [None] * slots
        self.cpus = [0] * (readers + 1)  # where each reader sleeps or last slept, and where the writer runs
        self.cpu = 0
        self.writer, *self.readers = cursors(
            layout, readers, writer_cpu=lambda: self.cpus[-1], reader_cpu=lambda: self.cpu
        )
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

    @rule(cpu=st.integers(0, 2))
    def move_writer(self, cpu):
        self.cpus[-1] = cpu

    @rule()
    def call_up(self):
        *elsewhere, here = self.cpus
        called = [reader for reader, cpu in enumerate(elsewhere) if self.asleep[reader] and cpu != here]
        assert sorted(self.writer.call_up()) == called
        for reader in called:
            self.asleep[reader] = False

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
        self.cpu = data.draw(st.integers(0, 2))
        there = self.readers[reader].arm()
        assert there == bool(self.queues[reader])
        if not there:
            self.cpus[reader] = self.cpu
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


class Interruptible(nullcontext):
    """A fence at which somebody else may have a turn."""

    turn = None

    def __enter__(self):
        turn, self.turn = self.turn, None
        if turn is not None:
            turn()


def test_a_reader_that_finds_news_while_it_arms_leaves_its_neighbour_armed():
    """An event loop sleeps; a thread of the same process arms between a frame and the look at who sleeps."""
    fence = Interruptible()
    writer, reader = cursors(RingLayout(2, 1, blocks=0), writer_fence=fence)
    assert not reader.arm()
    found = []
    fence.turn = lambda: found.append(reader.arm())
    assert (writer.publish(), found) == ([0], [True]), "the loop was not to be rung any more"


def test_a_writer_that_finds_room_while_it_arms_leaves_its_neighbour_armed():
    fence = Interruptible()
    writer, reader = cursors(RingLayout(1, 1, blocks=0), reader_fence=fence)
    writer.publish()
    assert not writer.arm()
    found = []
    fence.turn = lambda: found.append(writer.arm())
    assert (reader.take(), found) == (True, [True])


@pytest.mark.parametrize("readers", [1, 2, 7])
@pytest.mark.parametrize("blocks", [0, 1, 8, 9])
@pytest.mark.parametrize("holds", [0, 3, 8])
def test_no_two_words_lie_in_the_same_place(readers, blocks, holds):
    layout = RingLayout(4, readers, blocks, holds)
    single = [layout.head, layout.writer_parked, *layout.tails, *layout.parked]
    returned = [first + block for first in layout.returned for block in range(blocks)]
    returned += [first + hold for first in layout.released for hold in range(holds)]
    assert len({*single, *returned}) == len(single) + len(returned)
    assert max([*single, *returned]) < layout.words


@pytest.mark.parametrize("readers", [1, 2, 7])
def test_words_of_different_writers_share_no_cache_line(readers):
    layout = RingLayout(4, readers, 9, 9)
    lines = [layout.head // LINE, layout.writer_parked // LINE]
    lines += [tail // LINE for tail in layout.tails] + [parked // LINE for parked in layout.parked]
    assert len(set(lines)) == len(lines)
    firsts = [*layout.returned, *layout.released]
    ranges = [{word // LINE for word in range(first, first + 9)} for first in firsts]
    assert sum(map(len, ranges)) == len(set().union(*ranges))
    assert not set().union(*ranges) & set(lines)


def test_cursors_go_on_where_the_words_stand():
    layout = RingLayout(2, 1, 0)
    words = [0] * layout.words
    words[layout.head] = 7
    words[layout.tails[0]] = 6
    writer = WriterCursor(words, layout, no_fence, int)
    reader = ReaderCursor(words, layout, 0, no_fence, int)
    assert writer.may_write()
    writer.publish()
    assert not writer.may_write()
    assert reader.may_read()
    reader.take()
    assert writer.may_write()
    assert (writer.head, reader.tail) == (8, 7)


@given(
    slots=st.integers(1, 8),
    head=st.integers(0, 2**62),
    tails=st.lists(st.one_of(st.integers(-10, 10), st.integers(0, 2**64 - 1)), min_size=1, max_size=4),
)
def test_a_tail_that_cannot_be_is_no_place_to_write(slots, head, tails):
    """Neither are frames overwritten that were not read, nor is a place waited for that will never come."""
    layout = RingLayout(slots, len(tails), 0)
    words = [0] * layout.words
    words[layout.head] = head
    tails = [max(0, head + tail) if -10 <= tail <= 10 else tail for tail in tails]
    for at, tail in zip(layout.tails, tails, strict=True):
        words[at] = tail
    writer = WriterCursor(words, layout, no_fence, int)
    if all(head - slots <= tail <= head for tail in tails):
        assert writer.may_write() == (head - min(tails) < slots)
        assert writer.arm() == writer.may_write()
        return
    for ask in (writer.may_write, writer.arm):
        with pytest.raises(FrameError, match="were written"):
            ask()


@given(st.integers(0, 2**62), st.integers(0, 2**64 - 1))
def test_a_head_that_cannot_be_is_a_frame_to_be_refused(tail, head):
    """A reader that took it for nothing to read would wait for ever; the header there says that it is no frame."""
    layout = RingLayout(4, 1, 0)
    words = [0] * layout.words
    words[layout.head], words[layout.tails[0]] = head, tail
    reader = ReaderCursor(words, layout, 0, no_fence, int)
    assert reader.may_read() == reader.arm() == (head != tail)
