"""When a wait polls: the policy over waits that the test makes up, in microseconds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_adag.protocol import polling
from async_adag.protocol.polling import EPOCH, LIMIT_NS, PATIENCE, WAKE_NS, PollPolicy, best_budget, may_poll

US = 1000
WAKE = 35  # what a wake-up costs the waits made up here


class Thread:
    """Waits as a thread does, for news that come after given times, and keeps the books."""

    def __init__(self, wake=WAKE):
        self.policy = PollPolicy()
        self.wake = wake * US
        self.polled = 0
        self.hits = 0

    def wait(self, news):
        """News come after so many microseconds, while it polls or not."""
        came, budget = int(news * US), self.policy.budget
        if came <= budget:
            self.polled += came
            self.hits += 1
            self.policy.waited(came, came, True)
        else:
            self.polled += budget
            self.policy.waited(came + self.wake, budget, False)

    def waits(self, news, epochs=1):
        for _ in range(epochs * EPOCH):
            self.wait(news)


def test_it_parks_until_it_has_seen_an_epoch_of_waits():
    thread = Thread()
    for _ in range(EPOCH):
        assert thread.policy.budget == 0
        thread.wait(5)
    assert thread.policy.budget == LIMIT_NS


def test_short_waits_are_polled_for_a_little_longer_than_they_take():
    thread = Thread()
    thread.waits(5, epochs=2)
    assert thread.policy.budget == 25 * US
    thread.waits(9)
    assert thread.policy.budget == 29 * US


@pytest.mark.parametrize("news", [10_000, 1_000, 500])
def test_long_waits_are_never_polled(news):
    thread = Thread()
    thread.waits(news, epochs=1000)
    assert thread.polled == 0


def test_waits_that_are_a_little_too_long_are_tried_less_and_less():
    thread = Thread()
    thread.waits(120, epochs=3 * PATIENCE)
    trials = thread.polled // (EPOCH * LIMIT_NS)
    assert thread.hits == 0
    assert trials == 9  # after 1 epoch, 2 more, 4 more, and so on to 256


def test_waits_that_decide_nothing_need_not_be_told():
    """Trials come after as many waits as they would if each were."""
    thread = Thread()
    epochs = []
    for _ in range(20):
        before = thread.polled
        thread.waits(120)
        if thread.polled > before:
            epochs.append(thread.policy.rest() // EPOCH)
        else:
            assert thread.policy.rest() == 0
    assert epochs[:6] == [1, 3, 7, 15, 31, 63]


def test_it_stops_when_news_come_too_late_and_begins_again_when_they_come_soon():
    thread = Thread()
    thread.waits(5, epochs=2)
    thread.waits(200)
    assert thread.policy.budget == 0
    thread.waits(5, epochs=3)
    assert thread.policy.budget == 25 * US


def test_polling_that_makes_waits_longer_stops():
    """As it does where the one that is waited for needs the core."""
    policy = PollPolicy()
    for _ in range(EPOCH):
        policy.waited(20 * US, 0, False)
    assert policy.budget
    for _ in range(EPOCH):
        policy.waited(21 * US, 21 * US, True)
    assert policy.budget == 0


def test_a_few_hits_do_not_pay_for_many_misses():
    thread = Thread()
    for number in range(2 * EPOCH):
        thread.wait(2 if number % 4 == 0 else 150)
    assert thread.policy.budget == 0


def test_where_some_news_come_soon_it_does_not_wait_for_the_others():
    thread = Thread()
    for number in range(2 * EPOCH):
        thread.wait(2 if number % 8 else 150)
    assert thread.policy.budget == 22 * US


@given(st.integers(0, 2**32), st.sampled_from([5, 20, 45, 60, 90, 150]), st.floats(0, 2))
def test_all_in_all_it_spends_what_it_saves_and_its_trials(seed, around, spread):
    chance = random.Random(seed)
    thread = Thread()
    epochs = 200
    for _ in range(epochs * EPOCH):
        thread.wait(around * chance.lognormvariate(0, spread))
    # Each stop is behind one epoch that did not pay, and stops get rarer for as long as trials fail.
    assert thread.polled <= WAKE_NS * thread.hits + epochs / 2 * EPOCH * LIMIT_NS


@given(st.lists(st.integers(1, LIMIT_NS), max_size=EPOCH))
def test_the_best_budget_is_the_best(hits):
    def saved(budget):
        return sum(WAKE_NS - hit if hit <= budget else -budget for hit in [*hits, *[10**9] * (EPOCH - len(hits))])

    best = best_budget(hits, EPOCH)
    if best == 0:
        assert all(saved(hit) <= 0 for hit in hits)
    else:
        chosen = max(hits, key=saved)
        assert best in {min(hit + 20 * US, LIMIT_NS) for hit in hits if saved(hit) == saved(chosen)}


@pytest.mark.parametrize(
    ("processes", "cores", "polling", "alone", "allowed"),
    [
        (2, 2, 1, False, True),  # a core each
        (2, 1, 0, True, False),
        (4, 2, 0, True, True),  # one polls, one works
        (4, 2, 0, False, False),
        (4, 2, 1, True, False),
        (4, 3, 1, True, True),
        (4, 3, 2, True, False),
        (4, 1, 0, True, False),
    ],
)
def test_a_process_polls_only_beside_a_core_for_those_that_work(processes, cores, polling, alone, allowed):
    assert may_poll(processes, cores, polling, alone) is allowed


def test_a_hit_is_worth_less_than_the_longest_poll():
    """So that a wait that is polled to the end is a loss, whatever it brings."""
    assert polling.WAKE_NS < polling.LIMIT_NS
