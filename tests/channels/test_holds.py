"""Holds and leases of refs, between processes that are made up: each is a table of its references."""

from __future__ import annotations

from collections import Counter, deque
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.channels.holds import LOOK_AGAIN, LOOKS, Holds, RefLeases
from async_adag.protocol.ring import RingLayout

HOLDS = 3


class Ref:
    """A ref to an object, counted by its process."""

    def __init__(self, process, ref_id):
        self.process = process
        self.id = ref_id
        process.table[ref_id] += 1

    def __del__(self):
        self.process.table[self.id] -= 1


class Process:
    """A process: how many refs to each object it has, those that the test plays with, and those pinned."""

    def __init__(self):
        self.table = Counter()
        self.used = {}
        self.pinned = []

    def is_referenced(self, ref_id):
        return self.table[ref_id] > 0

    def pin(self, ref):
        self.pinned.append(Ref(self, ref.id))


class Link:
    """A channel: its frames, and both ends' ledgers."""

    def __init__(self, writer, readers, holds=HOLDS):
        layout = RingLayout(1, len(readers), 0, holds)
        words = [0] * layout.words
        self.writer = writer
        self.readers = readers
        self.holds = Holds(words, layout, writer.pin)
        self.now = 0.0
        self.leases = [
            RefLeases(words, first, reader.is_referenced, lambda: self.now)
            for first, reader in zip(layout.released, readers, strict=True)
        ]
        self.frames = [deque() for _ in readers]

    def send(self, *ids):
        held = self.holds.take([Ref(self.writer, ref_id) for ref_id in ids])
        for frames in self.frames:
            frames.append((*held, ids))

    def read(self, reader=0):
        """What a reader does with a frame: every ref in it is there once, for the test's use."""
        number, generation, ids = self.frames[reader].popleft()
        process, leases = self.readers[reader], self.leases[reader]
        leases.look()
        new = [ref_id for ref_id in ids if not process.is_referenced(ref_id)]
        process.used |= {ref_id: Ref(process, ref_id) for ref_id in ids if ref_id not in process.used}
        leases.keep(number, generation, new)

    def discard(self, reader=0):
        number, generation, _ = self.frames[reader].popleft()
        self.leases[reader].give_back(number, generation)

    def settle(self):
        """Both ends look at all they have."""
        for leases in self.leases:
            leases.look(len(leases))
        self.holds.sweep(len(self.holds.refs))


@pytest.fixture
def link():
    return Link(Process(), [Process()])


@pytest.fixture
def fan():
    return Link(Process(), [Process(), Process()])


def test_refs_are_held_until_the_reader_has_none_left(link):
    link.send("x", "y")
    assert link.writer.table == {"x": 1, "y": 1}
    link.read()
    del link.readers[0].used["x"]
    link.settle()
    assert link.writer.table == {"x": 1, "y": 1}
    link.readers[0].used.clear()
    link.settle()
    assert not +link.writer.table
    assert not link.holds.refs


def test_a_frame_in_flight_is_held_and_a_discarded_one_is_given_back(link):
    link.send("x")
    link.settle()
    assert link.writer.table["x"] == 1
    link.discard()
    link.settle()
    assert not +link.writer.table


def test_every_reader_has_to_give_a_hold_back(fan):
    fan.send("x")
    fan.read(0)
    fan.discard(1)
    fan.settle()
    assert fan.writer.table["x"] == 1
    fan.readers[0].used.clear()
    fan.settle()
    assert not +fan.writer.table


def test_a_ref_that_the_reader_had_before_is_given_back_at_once(link):
    own = Ref(link.readers[0], "x")
    link.send("x")
    link.read()
    link.settle()
    assert not link.holds.refs
    assert len(link.leases[0]) == 0
    assert link.readers[0].used["x"].id == own.id


def test_refs_that_were_here_and_new_ones_in_one_frame(link):
    here = Ref(link.readers[0], "x")
    link.send("x", "y")
    link.read()
    del link.readers[0].used["y"]
    link.settle()  # only "y" was leased
    assert not link.holds.refs
    assert here.id == "x"


def test_a_hold_is_used_again_in_its_next_generation(link):
    for _ in range(5 * HOLDS):
        link.send("x")
        link.read()
        link.readers[0].used.clear()
        link.settle()
        assert not +link.writer.table
    assert not link.writer.pinned


def test_when_no_hold_is_free_the_objects_are_pinned(link):
    for number in range(HOLDS + 2):
        link.send(number)
        link.read()
    assert [ref.id for ref in link.writer.pinned] == [HOLDS, HOLDS + 1]
    link.readers[0].used.clear()
    link.settle()
    assert +link.writer.table == {HOLDS: 1, HOLDS + 1: 1}
    link.send("x")
    assert link.writer.table["x"] == 1
    assert len(link.writer.pinned) == 2


def test_a_hold_that_could_be_freed_is_found_before_anything_is_pinned(link):
    for number in range(HOLDS):
        link.send(number)
        link.discard()
    link.send("x")
    assert not link.writer.pinned


def test_a_hold_of_which_no_reader_was_told_is_given_up(link):
    number, generation = link.holds.take([Ref(link.writer, "x")])
    link.holds.untake(number)
    assert not +link.writer.table
    assert link.holds.take([]) == (number, generation)


def test_a_writer_that_closes_pins_what_is_still_used(link):
    link.send("x")
    link.send("y")
    link.read()
    link.discard()
    link.holds.close()
    assert +link.writer.table == {"x": 1}
    assert [ref.id for ref in link.writer.pinned] == ["x"]


def test_many_leases_and_holds_are_looked_at_in_turn():
    link = Link(Process(), [Process()], 5 * LOOKS)
    for number in range(3 * LOOKS):
        link.send(number)
        link.read()
    link.readers[0].used = {number: ref for number, ref in link.readers[0].used.items() if number < 2 * LOOKS}
    for _ in range(3):
        link.leases[0].look()
        link.holds.sweep()
    assert len(link.leases[0]) == len(link.holds.refs) == 2 * LOOKS


def test_before_sleep_a_reader_looks_when_there_is_something_new_or_after_a_while(link):
    (leases,) = link.leases
    link.send("x")
    link.read()
    leases.look_before_sleep()
    link.readers[0].used.clear()
    leases.look_before_sleep()
    assert len(leases) == 1
    link.now += LOOK_AGAIN
    leases.look_before_sleep()
    assert len(leases) == 0
    link.send("y")
    link.read()
    link.readers[0].used.clear()
    leases.look_before_sleep()  # new since the last time
    assert len(leases) == 0


@pytest.mark.parametrize("holds", [2, 100])
@settings(max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_an_object_lives_while_anybody_refers_to_it_and_no_longer(holds, seed):
    """Three processes, all joined with all; each owns one object. Refs wander, come back, and are dropped."""
    turn = Random(seed)
    processes = [Process() for _ in range(3)]
    for number, process in enumerate(processes):
        process.used[number] = Ref(process, number)
    links = [Link(writer, [reader], holds) for writer, reader in permutations(processes, 2)]

    def check():
        wanted = {ref_id for process in processes for ref_id in process.used}
        wanted |= {ref_id for link in links for _, _, ids in link.frames[0] for ref_id in ids}
        for number, owner in enumerate(processes):
            assert owner.table[number] > 0 or number not in wanted, "freed too early"

    for _ in range(100):
        link = turn.choice(links)
        there = list(link.writer.used)
        match turn.choice(["send", "send", "read", "read", "discard", "drop", "drop", "settle", "settle"]):
            case "send" if there:
                link.send(*turn.sample(there, turn.randint(1, len(there))))
            case "read" if link.frames[0]:
                link.read()
            case "discard" if link.frames[0]:
                link.discard()
            case "drop" if there:
                del link.writer.used[turn.choice(there)]
            case "settle":
                link.settle()
        check()

    for link in links:
        while link.frames[0]:
            link.read()
        check()
    for process in processes:
        process.used.clear()
    left = None
    while left != (left := sum(len(link.holds.refs) for link in links)):  # from the leaves to the roots
        for link in links:
            link.settle()
    if not any(process.pinned for process in processes):
        assert not any(+process.table for process in processes), "kept for ever"
