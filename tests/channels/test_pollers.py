"""Who polls: boards over real memory, and pollers that learn from waits the test makes up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from async_adag.channels import pollers
from async_adag.channels.pollers import (
    AdaptivePoller,
    Board,
    FixedPoller,
    board_size,
    create_board,
    make_poller,
)
from async_adag.protocol.polling import EPOCH

FAR = 2**62  # nanoseconds
NOW = 10**12
MS = 1_000_000
LINUX_CPUS = 64


@pytest.fixture
def memory():
    made = []

    def make(processes):
        made.append(create_board(processes))
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


@pytest.fixture
def boards(memory, monkeypatch):
    """The boards of some processes, each of which may use the CPUs that are given."""

    def make(*cpus):
        fd = memory(len(cpus))
        made = []
        for place, mine in enumerate(cpus):
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, mine=mine: mine)
            made.append(Board(fd, len(cpus), place))
        return made

    return make


def alone():
    return True


def taught(board, is_alone=alone, may_move=False):
    """A poller that has learned to poll."""
    poller = AdaptivePoller(board, is_alone, may_move)
    for _ in range(EPOCH):
        assert poller.budget(NOW) == 0
        poller.waited(40_000, 0, False)
    return poller


def polled(poller):
    """An epoch of waits, each of which polled and had its news soon."""
    for _ in range(EPOCH):
        assert poller.budget(NOW) > 0
        poller.waited(5_000, 5_000, True)


def ask(poller):
    """What it says when it next decides."""
    for _ in range(EPOCH):
        poller.budget(NOW)
    poller.rest = 0
    return poller.budget(NOW)


def test_a_board_tells_how_many_of_the_others_poll_now(boards):
    first, second, third = boards({0}, {0}, {0})
    second.poll_until(100)
    third.poll_until(200)
    assert [first.polling(now) for now in (99, 100, 199, 200)] == [2, 1, 1, 0]
    assert [second.polling(now) for now in (99, 199, 200)] == [1, 1, 0]
    third.poll_until(0)
    assert first.polling(99) == 1


@pytest.mark.parametrize(
    ("cpus", "cores"),
    [(({0}, {0}), 1), (({0}, {1}), 2), (({0, 1}, {1, 2}), 3), (({5}, {5 + LINUX_CPUS}), 1)],
)
def test_cores_are_those_that_any_of_the_processes_may_use(boards, cpus, cores):
    """Of CPUs 64 apart only one is counted: that errs to the side of sleeping."""
    assert [board.cores() for board in boards(*cpus)] == [cores, cores]


def test_what_a_killed_process_said_runs_out(boards, memory):
    fd = memory(2)
    code = (
        "import sys, signal; from async_adag.channels.pollers import Board\n"
        "board = Board(int(sys.argv[1]), 2, 1); board.poll_until(int(sys.argv[2])); signal.raise_signal(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(fd), "1000"], pass_fds=[fd], check=False)
    assert done.returncode == -signal.SIGKILL
    board = Board(fd, 2, 0)
    assert (board.polling(999), board.polling(1000)) == (1, 0)


def test_a_board_is_whole_pages():
    assert board_size(1) == board_size(64) == 4096
    assert board_size(65) == 8192


def test_a_poller_that_has_learned_polls_where_each_process_has_a_core(boards):
    first, second = boards({0, 1}, {0, 1})
    second.poll_until(FAR)
    assert taught(first, lambda: False).budget(NOW) > 0


def test_none_polls_where_all_share_a_core(boards):
    first, _ = boards({0}, {0})
    assert taught(first).budget(NOW) == 0


def test_of_four_processes_on_two_cores_one_polls_and_it_keeps_its_core(boards):
    first, second, *_ = boards(*[{0, 1}] * 4)
    one, other = taught(first), taught(second)
    assert one.budget(NOW) > 0
    assert other.budget(NOW) == 0
    polled(one)
    assert other.budget(NOW) == 0
    first.poll_until(0)  # as if it had waited no more for a while
    assert ask(other) > 0
    assert ask(one) == 0


def test_a_poller_keeps_its_core_however_long_its_epoch_takes(boards):
    """A wait each millisecond: an epoch takes 32 times as long as the core is held at a time."""
    first, second, *_ = boards(*[{0, 1}] * 4)
    one, other = taught(first), taught(second)
    assert one.budget(NOW) > 0
    for millisecond in range(1, EPOCH - 1):
        now = NOW + millisecond * MS
        assert other.budget(now) == 0  # it comes first each time
        other.rest = 0
        assert one.budget(now) > 0
        one.waited(5_000, 5_000, True)


def test_a_poller_whose_hold_has_run_out_asks_again(boards):
    first, second, *_ = boards(*[{0, 1}] * 4)
    one, other = taught(first), taught(second)
    assert one.budget(NOW) > 0
    later = NOW + pollers._HOLD_NS
    assert other.budget(later) > 0  # the first has not waited for long
    assert (one.budget(later + MS), one.rest) == (0, EPOCH)  # in the midst of its epoch
    assert second.polling(later + MS) == 0


@pytest.mark.interpreted(reason="it replaces a method")
def test_what_is_held_is_not_written_down_for_each_wait(boards, monkeypatch):
    first, _ = boards({0, 1}, {0, 1})
    poller, said = taught(first), []
    monkeypatch.setattr(first, "poll_until", said.append)
    for microsecond in range(EPOCH - 1):
        poller.budget(NOW + 1000 * microsecond)
    assert said == [NOW + pollers._HOLD_NS]


def test_nobody_polls_while_many_executions_keep_more_processes_than_cores_at_work(boards):
    first, *_ = boards(*[{0, 1}] * 3)
    assert taught(first, lambda: False).budget(NOW) == 0


def test_a_poller_that_is_refused_rests(boards):
    first, second, *_ = boards(*[{0, 1}] * 4)
    second.poll_until(FAR)
    poller = taught(first)
    assert (poller.budget(NOW), poller.rest) == (0, EPOCH)
    second.poll_until(0)
    assert poller.budget(NOW) > 0


def test_a_poller_rests_as_soon_as_executions_overlap(boards):
    first, *_ = boards(*[{0, 1}] * 4)
    overlapping = False
    poller = taught(first, lambda: not overlapping)
    assert poller.budget(NOW) > 0
    overlapping = True
    assert (poller.budget(NOW), poller.rest) == (0, EPOCH)


def test_a_wait_that_was_not_allowed_to_poll_teaches_nothing(boards):
    first, second, *_ = boards(*[{0, 1}] * 4)
    poller = taught(first)
    second.poll_until(FAR)
    ask(poller)
    for _ in range(10 * EPOCH):
        assert poller.budget(NOW) == 0
        poller.waited(10**9, 0, False)
    second.poll_until(0)
    assert ask(poller) > 0


def test_where_a_trial_has_failed_waits_are_left_alone_for_a_while(boards):
    first, _ = boards({0, 1}, {0, 1})
    poller = taught(first)
    assert poller.rest == 0
    for _ in range(EPOCH):
        assert poller.budget(NOW) > 0
        poller.waited(150_000, 100_000, False)
    assert poller.rest == EPOCH
    assert poller.budget(NOW) == 0


def test_cpus_that_are_taken_away_are_missed(boards, monkeypatch):
    first, second = boards({0, 1}, {0})
    monkeypatch.setattr(pollers, "_LOOK_NS", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    poller = taught(first)
    assert poller.budget(NOW) > 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert ask(poller) == 0
    assert second.cores() == 1


def test_the_options_choose_the_poller(boards):
    board, _ = boards({0}, {0})
    fixed = make_poller(7, board, alone)
    assert isinstance(fixed, FixedPoller)
    assert fixed.budget(NOW) == 7
    assert make_poller(0, board, alone) is None
    assert isinstance(make_poller(None, board, alone), AdaptivePoller)
    assert make_poller(None, None, alone) is None


def test_a_thread_of_ours_that_polls_goes_where_no_other_is(boards, monkeypatch):
    first, second = boards({0, 1}, {0, 1})
    where, asked = [0], []

    def set_affinity(_, cpus):
        asked.append(cpus)
        if where[0] not in cpus:
            where[0] = min(cpus)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", set_affinity)
    monkeypatch.setattr(pollers, "current_cpu", lambda: where[0])
    second.settle(may_move=False)
    assert taught(first).budget(NOW) > 0  # a thread of the user's stays
    assert asked == []
    assert taught(first, may_move=True).budget(NOW) > 0
    assert (asked, where) == ([{1}, {0, 1}], [1])
    assert taught(first, may_move=True).budget(NOW) > 0  # there is none here
    assert len(asked) == 2
