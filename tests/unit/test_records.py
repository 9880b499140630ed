"""The ring of records: what is read of it while it is written, and once it is full."""

from __future__ import annotations

import pytest

from async_adag.actor.records import (
    CAPACITY,
    RECORDS_SIZE,
    Activity,
    Record,
    Recorder,
    copy_records,
    count_of,
    give_back,
    hear_records,
    make_room,
    read_records,
    records_here,
    records_in,
    tell_records,
)
from async_adag.channels.memory import Mapping, create_file

U64 = 2**64 - 1


def record(number):
    return Record(Activity.READ, 3, number, 10 * number + 1, 10 * number + 5, failed=number % 2 == 1)


def write(recorder, numbers):
    for n in numbers:
        one = record(n)
        recorder.add(one.activity, one.number, one.execution, one.began, one.ended, one.failed)


def test_what_was_written_is_read():
    words = records_here()
    recorder = Recorder(words)
    write(recorder, range(5))
    assert read_records(words, 0) == ([record(n) for n in range(5)], 0)
    assert read_records(words, 3) == ([record(3), record(4)], 0)
    assert read_records(words, 5) == ([], 0)


def test_another_recorder_goes_on():
    words = records_here()
    write(Recorder(words), range(2))
    write(Recorder(words), range(2, 4))
    assert read_records(words, 0)[0] == [record(n) for n in range(4)]


def test_a_record_is_extended():
    words = records_here()
    recorder = Recorder(words)
    write(recorder, range(2))
    recorder.extend(99)
    assert [one.ended for one in read_records(words, 0)[0]] == [5, 99]


def test_of_a_full_ring_the_oldest_are_lost_and_one_more_that_may_be_half_written():
    words = records_here()
    write(Recorder(words), range(CAPACITY + 10))
    records, lost = read_records(words, 4)
    assert records[0] == record(11)
    assert records[-1] == record(CAPACITY + 9)
    assert lost == 11 - 4
    assert len(records) == CAPACITY - 1


class Writing:
    """Words of which some are overwritten right after they were read."""

    def __init__(self, words, recorder, at):
        self._words = words
        self._recorder = recorder
        self._at = at

    def __getitem__(self, key):
        found = self._words[key]
        if isinstance(key, slice) and key.start == self._at:
            write(self._recorder, range(CAPACITY, CAPACITY + 20))
        return found


def test_what_is_overwritten_while_it_is_read_is_lost():
    words = records_here()
    recorder = Recorder(words)
    write(recorder, range(CAPACITY))
    records, lost = read_records(Writing(words, recorder, 4 + 4 * 100), 0)
    assert records[0] == record(21)
    assert records[-1] == record(CAPACITY - 1)
    assert lost == 21


@pytest.mark.parametrize(("word", "value"), [(0, U64), (4, U64), (4, 0), (4, 99 << 32), (6, U64), (7, 0)], ids=str)
def test_memory_that_was_overwritten_is_no_record(word, value):
    words = records_here()
    write(Recorder(words), range(2))
    words[word] = value
    assert read_records(words, 0) == ([] if word == 0 else [record(1)], 0)


def test_a_count_that_was_overwritten_does_not_stop_a_recorder():
    words = records_here()
    words[0] = U64
    write(Recorder(words), range(2))


def test_memory_that_was_given_back_can_be_used_again():
    mapping = Mapping(create_file("records", RECORDS_SIZE), 0, RECORDS_SIZE)
    words = records_in(mapping)
    recorder = Recorder(words)
    for begin in (0, 300):
        make_room(mapping)
        first = count_of(words)
        assert first == begin
        write(recorder, range(begin, begin + 300))
        assert read_records(words, first) == ([record(n) for n in range(begin, begin + 300)], 0)
        give_back(mapping)
        assert words[4 + 4 * (begin + 299)] == 0, "its page is gone"


def test_a_copy_is_read_as_the_memory_was():
    words = records_here()
    recorder = Recorder(words)
    write(recorder, range(CAPACITY))
    copy, written = copy_records(words)
    write(recorder, range(5))
    assert read_records(copy, 0, written) == ([record(n) for n in range(1, CAPACITY)], 1)
    assert read_records(copy, 0, written + 5)[1] == 6, "so many were overwritten while it was copied"


@pytest.mark.parametrize("count", [0, 1, 5, CAPACITY - 1, CAPACITY, CAPACITY + 10, 2 * CAPACITY])
@pytest.mark.parametrize("first", [0, 3, CAPACITY - 2])
def test_what_is_told_to_another_host_is_what_is_read_on_this_one(count, first):
    words = records_here()
    write(Recorder(words), range(count))
    assert hear_records(tell_records(words, first), lambda theirs: theirs) == read_records(words, first)


def test_what_is_overwritten_while_it_is_told_is_lost():
    words = records_here()
    recorder = Recorder(words)
    write(recorder, range(CAPACITY))
    records, lost = hear_records(tell_records(Writing(words, recorder, 4 + 4 * 5), 5), lambda theirs: theirs)
    assert records[0] == record(21)
    assert records[-1] == record(CAPACITY - 1)
    assert lost == 21 - 5


def test_times_of_another_host_are_put_on_this_ones_clock():
    words = records_here()
    write(Recorder(words), range(2))
    records, _ = hear_records(tell_records(words, 0), lambda theirs: theirs + 1000)
    assert [one.began for one in records] == [1001, 1011]
    assert [one.ended for one in records] == [1005, 1015]


@pytest.mark.parametrize("told", [b"", bytes(5), bytes(8), bytes(11), bytes(8) + b"\xff" * 40])
def test_what_is_told_may_be_anything(told):
    assert hear_records(told, lambda theirs: theirs) == ([], 0)
