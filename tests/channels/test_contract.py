"""What every channel promises, whatever it moves its frames through: see `channels/interface.py`."""

from __future__ import annotations

import threading
from collections import deque
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.channels.failures import decode_failure, encode_failure
from async_adag.channels.interface import STOP, Failure
from async_adag.channels.parking import Parking

# -- order and capacity


def test_frames_arrive_in_order_at_every_reader(channel):
    for first in range(0, 40, channel.slots):
        for number in range(first, first + channel.slots):
            channel.send(number)
        for number in range(first, first + channel.slots):
            assert channel.read_all() == [number] * len(channel.readers)


def test_nothing_is_there_before_something_is_published(channel):
    assert not any(reader.may_read() for reader in channel.readers)
    channel.writer.stage(channel.writer.encode("staged"))
    assert not any(reader.may_read() for reader in channel.readers)
    channel.writer.publish()
    assert channel.read_all() == ["staged"] * len(channel.readers)
    assert not any(reader.may_read() for reader in channel.readers)


def test_it_holds_as_many_frames_as_it_has_slots(channel):
    for number in range(channel.slots):
        channel.send(number)
    assert not channel.writer.may_write()
    channel.read_all()
    assert channel.writer.may_write()
    channel.send("one more")
    assert not channel.writer.may_write()


def test_the_slowest_reader_frees_the_slot(channel):
    for number in range(channel.slots):
        channel.send(number)
    *others, slowest = channel.readers
    for reader in others:
        assert [reader.read() for _ in range(channel.slots)] == list(range(channel.slots))
        assert not channel.writer.may_write()
    assert slowest.read() == 0
    assert channel.writer.may_write()


def test_reading_gives_the_slot_back_before_it_returns(channel):
    for number in range(channel.slots):
        channel.send(number)
    values = channel.read_all()
    channel.send("next")
    assert values == [0] * len(channel.readers)


@pytest.mark.parametrize(
    "value",
    [None, 0, -1, 2**70, 0.0, False, "", "text", b"", b"bytes", (), [], [None], {}, {"k": (1, [2.5])}, STOP],
    ids=repr,
)
def test_values_arrive_equal_and_of_their_type(channel, value):
    channel.send(value)
    for arrived in channel.read_all():
        assert type(arrived) is type(value)
        assert arrived == value


# -- what is taken back, and what is not wanted


def test_what_was_taken_back_is_never_seen(channel):
    channel.writer.stage(channel.writer.encode("wrong"))
    channel.writer.unstage()
    channel.send("right")
    assert channel.read_all() == ["right"] * len(channel.readers)
    assert not any(reader.may_read() for reader in channel.readers)


def test_a_big_frame_that_was_taken_back_leaves_nothing_behind(channel):
    for _ in range(50):
        channel.writer.stage(channel.writer.encode(np.zeros(50_000)))
        channel.writer.unstage()
        channel.send("right")
        assert channel.read_all() == ["right"] * len(channel.readers)
    array = np.arange(50_000)
    channel.send(array)
    for arrived in channel.read_all():
        np.testing.assert_array_equal(arrived, array)


def test_taking_back_when_nothing_was_staged_is_harmless(channel):
    channel.writer.unstage()
    channel.send(1)
    channel.writer.unstage()
    assert channel.read_all() == [1] * len(channel.readers)
    channel.writer.unstage()
    channel.send(2)
    assert channel.read_all() == [2] * len(channel.readers)


def test_a_discarded_frame_is_consumed_unread(channel):
    for round_ in range(3):
        for number in range(channel.slots):
            channel.send([round_, number])
        for reader in channel.readers:
            reader.discard()
            assert reader.read() == [round_, 1]
            reader.discard()
            assert reader.read() == [round_, 3]
            assert not reader.may_read()


def test_one_reader_may_discard_what_another_reads(channel):
    for number in range(channel.slots):
        channel.send(np.full(20_000, number))
    first, *others = channel.readers
    for _ in range(channel.slots):
        first.discard()
    for reader in others:
        assert [reader.read()[0] for _ in range(channel.slots)] == list(range(channel.slots))
    assert channel.writer.may_write()


def test_many_big_frames_may_be_discarded(channel):
    for number in range(200):
        channel.send(np.zeros(20_000))
        for reader in channel.readers:
            reader.discard()
        channel.send(number)
        assert channel.read_all() == [number] * len(channel.readers)


# -- failures and the end


@pytest.mark.parametrize("text", ["short", "x" * 100_000], ids=["short", "long"])
def test_a_failure_arrives_in_place_of_a_value(channel, text):
    channel.send(Failure(encode_failure(ValueError(text), "a node")))
    channel.send("next")
    for arrived in channel.read_all():
        assert type(arrived) is Failure
        error = decode_failure(arrived.encoded)
        assert type(error) is ValueError
        assert str(error) == text
    assert channel.read_all() == ["next"] * len(channel.readers)


def test_a_failure_is_handed_on_as_it_came(channel):
    encoded = encode_failure(ValueError("x"), "a node")
    channel.send(Failure(encoded))
    for arrived in channel.read_all():
        assert arrived.encoded == encoded
        channel.send(arrived)
    for arrived in channel.read_all():
        assert arrived.encoded == encoded


def test_stop_comes_in_its_turn(channel):
    channel.send("last")
    channel.send(STOP)
    assert channel.read_all() == ["last"] * len(channel.readers)
    assert all(arrived is STOP for arrived in channel.read_all())


# -- doorbells


def arm_all(channel):
    return [reader.arm() for reader in channel.readers]


def rings(rung, channel):
    return [rung(bell) for bell in channel.bells]


def test_nobody_is_rung_for_who_does_not_sleep(channel, rung):
    for number in range(channel.slots):
        channel.send(number)
    for _ in range(channel.slots):
        channel.read_all()
    assert rings(rung, channel) == [False] * len(channel.readers)
    assert not rung(channel.writer_bell)


def test_a_sleeping_reader_is_rung_once_for_a_burst(channel, rung):
    assert arm_all(channel) == [False] * len(channel.readers)
    channel.send(1)
    assert rings(rung, channel) == [True] * len(channel.readers)
    channel.send(2)
    assert rings(rung, channel) == [False] * len(channel.readers)


def test_only_who_sleeps_is_rung(channel, rung):
    last = channel.readers[-1]
    assert not last.arm()
    channel.send(1)
    assert [rung(bell) for bell in channel.bells] == [reader is last for reader in channel.readers]


def test_a_reader_for_whom_a_frame_is_there_does_not_sleep(channel, rung):
    channel.send(1)
    assert arm_all(channel) == [True] * len(channel.readers)
    channel.send(2)
    assert rings(rung, channel) == [False] * len(channel.readers)


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_error_rings_though_nobody_sleeps_by_this_channel(channel, rung, size):
    """Who waits for several results sleeps by one of the channels, and is to learn of an error at once."""
    channel.send(Failure(bytes(size)))
    assert rings(rung, channel) == [True] * len(channel.readers)
    channel.send(1)
    assert rings(rung, channel) == [False] * len(channel.readers)


def test_a_reader_may_sleep_again_after_each_ring(channel, rung):
    for number in range(20):
        assert arm_all(channel) == [False] * len(channel.readers)
        assert rings(rung, channel) == [False] * len(channel.readers)
        channel.send(number)
        assert rings(rung, channel) == [True] * len(channel.readers)
        channel.read_all()


def test_a_writer_with_a_free_slot_does_not_sleep(channel, rung):
    assert channel.writer.arm()
    channel.send(1)
    channel.read_all()
    assert not rung(channel.writer_bell)


def test_a_sleeping_writer_is_rung_when_a_slot_is_free(channel, rung):
    for round_ in range(20):
        while channel.writer.may_write():
            channel.send(round_)
        assert not channel.writer.arm()
        assert not rung(channel.writer_bell)
        # A ring may come before every reader has been there: then the writer looks, and arms again.
        for reader in channel.readers:
            reader.read()
            if not channel.writer.may_write() and rung(channel.writer_bell):
                assert not channel.writer.arm()
        assert channel.writer.may_write()
        assert rung(channel.writer_bell)


def test_a_discarded_frame_wakes_the_writer_too(channel, rung):
    while channel.writer.may_write():
        channel.send("x")
    *others, slowest = channel.readers
    for reader in others:
        reader.discard()
    assert not channel.writer.arm()
    slowest.discard()
    assert rung(channel.writer_bell)


def test_a_burst_of_reads_rings_a_sleeping_writer_once(channel, rung):
    while channel.writer.may_write():
        channel.send("x")
    assert not channel.writer.arm()
    channel.read_all()
    assert rung(channel.writer_bell)
    channel.read_all()
    assert not rung(channel.writer_bell)


# -- closing


def test_what_was_sent_can_be_read_when_the_writer_has_closed(channel):
    array = np.arange(30_000)
    channel.send("small")
    channel.send(array)
    channel.writer.close()
    assert channel.read_all() == ["small"] * len(channel.readers)
    for arrived in channel.read_all():
        np.testing.assert_array_equal(arrived, array)


def test_closing_twice_is_harmless(channel):
    channel.send(1)
    for end in (channel.writer, *channel.readers):
        end.close()
        end.close()


def test_what_was_read_outlives_the_channel(channel):
    array = np.arange(30_000)
    channel.send(array)
    arrived = channel.read_all()
    channel.close()
    for copy in arrived:
        np.testing.assert_array_equal(copy, array)


def test_an_open_end_goes_on_when_another_reader_has_closed(channel):
    first, *others = channel.readers
    for number in range(channel.slots):
        channel.send(number)
    first.close()
    for reader in others:
        assert [reader.read() for _ in range(channel.slots)] == list(range(channel.slots))


# -- against a model, and with everybody at once


class Model:
    """What a channel should do: a queue for each reader, and who sleeps."""

    def __init__(self, channel, rung):
        self.channel = channel
        self.rung = rung
        self.queues = [deque() for _ in channel.readers]
        self.asleep = [False] * len(channel.readers)
        self.writer_asleep = False

    def is_full(self):
        return max(map(len, self.queues)) == self.channel.slots

    def write(self, value, *, send):
        writer = self.channel.writer
        assert writer.may_write() == (not self.is_full())
        if self.is_full():
            return
        writer.stage(writer.encode(value))
        if not send:
            writer.unstage()
            return
        writer.publish()
        for queue in self.queues:
            queue.append(value)
        expected = [True] * len(self.asleep) if type(value) is Failure else self.asleep
        assert [self.rung(bell) for bell in self.channel.bells] == expected
        self.asleep = [False] * len(self.asleep)

    def read(self, number, *, discard):
        reader, queue = self.channel.readers[number], self.queues[number]
        assert reader.may_read() == bool(queue)
        if not queue:
            return
        expected = queue.popleft()
        if discard:
            reader.discard()
        else:
            arrived = reader.read()
            if type(expected) is Failure:
                assert (type(arrived), arrived.encoded) == (Failure, expected.encoded)
            else:
                assert arrived == expected
        # It has to be rung when there is room; a channel may ring for every frame that a reader takes.
        rung = self.rung(self.channel.writer_bell)
        assert self.writer_asleep or not rung
        assert rung or not self.writer_asleep or self.is_full()
        self.writer_asleep = self.writer_asleep and not rung

    def arm_reader(self, number):
        there = self.channel.readers[number].arm()
        assert there == bool(self.queues[number])
        self.asleep[number] = not there

    def arm_writer(self):
        there = self.channel.writer.arm()
        assert there == (not self.is_full())
        self.writer_asleep = not there


values = st.one_of(st.integers(0, 9), st.just("x" * 3000), st.binary(max_size=5), st.just(Failure(b"failed")))
readers = st.integers(0, 2)
actions = st.one_of(
    st.tuples(st.just("send"), values),
    st.tuples(st.just("unstage"), values),
    st.tuples(st.sampled_from(["read", "discard", "arm-reader"]), readers),
    st.tuples(st.just("arm-writer"), st.none()),
)


@settings(max_examples=60)
@given(st.lists(actions, max_size=60))
def test_any_order_of_actions_gives_what_the_model_says(open_channel, rung, sequence):
    channel = open_channel()
    try:
        model = Model(channel, rung)
        for action, operand in sequence:
            if action in ("send", "unstage"):
                model.write(operand, send=action == "send")
            elif action == "arm-writer":
                model.arm_writer()
            else:
                number = operand % len(channel.readers)
                if action == "arm-reader":
                    model.arm_reader(number)
                else:
                    model.read(number, discard=action == "discard")
    finally:
        channel.close()


FRAMES = 3000


@pytest.mark.parametrize("call_up", [False, True])
def test_threads_that_park_lose_no_frame_and_no_wake_up(open_channel, call_up, monkeypatch):
    monkeypatch.setattr(
        "async_adag.channels.ring.current_cpu", count().__next__
    )  # all are elsewhere, to be called up
    channel = open_channel()
    got = [[] for _ in channel.readers]

    def write():
        parking = Parking(channel.writer_bell, [])
        for number in range(FRAMES):
            while not channel.writer.may_write():
                parking.wait(channel.writer.may_write, channel.writer.arm)
            if call_up:  # ahead of the frame: readers may look before it is there, and have to sleep again
                channel.writer.call_up()
            channel.send(number)
        parking.close()

    def read(reader, bell, into):
        parking = Parking(bell, [])
        for _ in range(FRAMES):
            while not reader.may_read():
                parking.wait(reader.may_read, reader.arm)
            into.append(reader.read())
        parking.close()

    ends = zip(channel.readers, channel.bells, got, strict=True)
    threads = [threading.Thread(target=read, args=end, daemon=True) for end in ends]
    threads.append(threading.Thread(target=write, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    channel.close()
    assert got == [list(range(FRAMES))] * len(channel.readers)
