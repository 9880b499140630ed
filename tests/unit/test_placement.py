"""Which CPU the thread of each loop is to stay on; and a thread that stays there."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_adag.channels import processor
from async_adag.channels.processor import core_of, kept_on
from async_adag.protocol.placement import APART, POLICIES, TOGETHER, Seats, cores_first, own_in_place_of

FOUR = [0, 2, 1, 3]  # CPUs, in the order of their welcome


def test_together_is_on_one_cpu():
    assert Seats().take(TOGETHER, 3, FOUR) == [0, 0, 0]


def test_apart_is_on_as_many_cpus_as_there_are():
    assert Seats().take(APART, 3, FOUR) == [0, 2, 1]
    assert Seats().take(APART, 6, FOUR) == [0, 2, 1, 3, 0, 2]


def test_graphs_of_a_driver_are_spread():
    seats = Seats()
    assert seats.take(TOGETHER, 3, FOUR) == [0, 0, 0]
    assert seats.take(TOGETHER, 1, FOUR) == [2]
    assert seats.take(APART, 3, FOUR) == [1, 3, 2]
    assert seats.take(TOGETHER, 2, FOUR) == [1, 1]


def test_what_was_given_back_is_free_again_and_only_once():
    seats = Seats()
    first, second = seats.take(TOGETHER, 2, [0, 1]), seats.take(TOGETHER, 2, [0, 1])
    assert (first, second) == ([0, 0], [1, 1])
    seats.give_back(first)
    seats.give_back(first)
    assert seats.take(TOGETHER, 1, [0, 1]) == [0]
    assert seats.take(APART, 2, [0, 1]) == [0, 0]


def test_where_there_is_one_cpu_all_are_there():
    for policy in POLICIES:
        assert Seats().take(policy, 3, [5]) == [5, 5, 5]


@given(
    st.lists(st.tuples(st.sampled_from(POLICIES), st.integers(1, 8)), max_size=8),
    st.sets(st.integers(0, 200), min_size=1, max_size=8),
)
def test_every_loop_has_one_of_the_cpus_and_all_are_free_in_the_end(graphs, cpus):
    seats, order = Seats(), sorted(cpus)
    taken = [seats.take(policy, loops, order) for policy, loops in graphs]
    for (policy, loops), given_ in zip(graphs, taken, strict=True):
        assert len(given_) == loops
        assert set(given_) <= cpus
        assert policy == APART or len(set(given_)) == 1
    if graphs and all(policy == APART for policy, _ in graphs):
        counts = [sum(given_.count(cpu) for given_ in taken) for cpu in order]
        assert max(counts) - min(counts) <= 1
    for given_ in taken:
        seats.give_back(given_)
    assert seats.take(TOGETHER, 1, order) == order[:1]


def test_cpus_of_different_cores_come_first():
    core = {0: "a", 1: "a", 2: "b", 3: "b", 7: "c"}.get
    assert cores_first({7, 3, 2, 1, 0}, core) == [0, 2, 7, 1, 3]
    assert cores_first({1, 3}, core) == [1, 3]


def test_who_may_not_use_a_cpu_takes_one_of_its_own():
    assert own_in_place_of(3, {1, 3}) == 3
    assert own_in_place_of(3, {4, 8}) == 8
    assert own_in_place_of(2, {4, 8}) == 4
    assert own_in_place_of(9, {4}) == 4


def test_cpus_of_this_machine_have_cores():
    cpus = os.sched_getaffinity(0)
    assert sorted(cores_first(cpus, core_of)) == sorted(cpus)
    assert core_of(10**6) == "1000000"


# -- a thread


def in_thread(work):
    """Runs ``work`` on a thread of its own; returns what it returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_a_thread_stays_on_its_cpu_and_others_are_left_alone():
    before = os.sched_getaffinity(0)
    cpu = max(before)

    def work():
        with kept_on(lambda cpus: max(cpus)):
            inside = os.sched_getaffinity(0), os.sched_getaffinity(threading.main_thread().native_id)
        return inside, os.sched_getaffinity(0)

    assert in_thread(work) == (({cpu}, before), before)
    assert os.sched_getaffinity(0) == before


def test_it_is_put_back_where_the_work_has_failed():
    before = os.sched_getaffinity(0)

    def work():
        with pytest.raises(KeyError), kept_on(min):
            raise KeyError
        return os.sched_getaffinity(0)

    assert in_thread(work) == before


def test_nobody_is_moved_unasked(monkeypatch):
    monkeypatch.setattr(processor.os, "sched_setaffinity", None)  # would fail
    with kept_on(None):
        pass


def test_a_system_that_refuses_is_no_failure(monkeypatch):
    def refuse(_, cpus):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(processor.os, "sched_setaffinity", refuse)
    with kept_on(min):
        pass
