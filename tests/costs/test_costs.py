"""What an execution costs, in what can be counted: no more than its budget.

Time is measured by `nox -s bench`, on a quiet machine; these figures are the same on any, and each time.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.costs.budgets import BLOCKS_LEFT, BUDGETS, CALLS_TO_SPARE, CYCLES_LEFT
from tests.costs.counted import CASES, COUNTED, MARK, ROOT
from tests.costs.traced import NoTrace, count, trace

EXACT = ("frames", "rings", "silences", "driver_parks", "actor_parks")
CALLS = ("driver_calls", "actor_calls")
STRAY = 4  # system calls in a hundred executions that are no execution's: memory, io_uring


@pytest.fixture(scope="module")
def costs():
    """What was counted, in a process of its own: by case, by name."""
    command = [sys.executable, "-m", "tests.costs.counted"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return json.loads(run.stdout)


def test_every_case_has_a_budget():
    assert BUDGETS.keys() == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_frames_wake_ups_and_parks(costs, case):
    budget = dataclasses.asdict(BUDGETS[case])
    over = {name: (costs[case][name], budget[name]) for name in EXACT if costs[case][name] > budget[name]}
    assert not over, "per execution: (counted, budget)"
    assert costs[case]["frames"] == budget["frames"]
    assert costs[case]["rings"] > 0, "everybody slept: nothing was counted"


@pytest.mark.parametrize("case", CASES)
def test_calls_of_functions(costs, case):
    budget = dataclasses.asdict(BUDGETS[case])
    limits = {name: CALLS_TO_SPARE * budget[name] for name in CALLS}
    over = {name: (costs[case][name], limits[name]) for name in CALLS if costs[case][name] > limits[name]}
    assert not over, "per execution: (counted, at most)"
    assert all(costs[case][name] > 0 for name in CALLS)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_behind(costs, case):
    assert costs[case]["blocks_left"] <= BLOCKS_LEFT
    assert costs[case]["cycles_left"] <= CYCLES_LEFT


@pytest.mark.parametrize("case", CASES)
def test_system_calls(case, tmp_path):
    try:
        driver, actors = trace(case, COUNTED, tmp_path)
    except NoTrace as reason:
        pytest.skip(str(reason))
    budget = BUDGETS[case]
    assert actors["write"] > 0, "nothing was traced"
    assert driver.total() <= budget.driver_system_calls * COUNTED + STRAY, f"in {COUNTED} executions: {driver}"
    assert actors.total() <= budget.actor_system_calls * COUNTED + STRAY, f"in {COUNTED} executions: {actors}"


def test_a_trace_is_counted_between_its_marks_by_thread():
    log = f"""\
10 write(3, "x", 1) = 1
10 close({MARK}) = -1 EBADF (Bad file descriptor)
10 write(3, "x", 1) = 1
11 epoll_wait(4, <unfinished ...>
11 <... epoll_wait resumed>[], 1, -1) = 1
11 futex(0x1, FUTEX_WAKE, 1) = 0
10 close(5) = 0
11 --- SIGCHLD ---
10 close({MARK}) = -1 EBADF (Bad file descriptor)
10 write(3, "x", 1) = 1
"""
    assert count(log) == (Counter(write=1, close=1), Counter(epoll_wait=1))
