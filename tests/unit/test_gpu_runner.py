"""The runner of the hardware suite: a step passes only if it says so, clearly, once, in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from textwrap import dedent

import pytest

from tests.gpu.runner import FAILED, RAN, SKIPPED, Outcome, run_command, run_step
from tests.gpu.step import Figures, percentile
from tests.gpu.table import table

LIMIT = 100  # seconds: far more than any of these needs


def outcome_of(source: str) -> Outcome:
    begin = "import os, signal, sys, time\nfrom tests.gpu.step import CannotRunError, run\n"
    return run_command("it", [sys.executable, "-c", begin + dedent(source)], LIMIT)


@pytest.fixture
def run_out(monkeypatch) -> Callable[[Callable[[int], object]], None]:
    """Has the limit run out once a function, called with the process id of the step, has returned."""
    communicate = subprocess.Popen.communicate

    def run_out_after(wait: Callable[[int], object]) -> None:
        def first(process: subprocess.Popen[str], timeout: float) -> tuple[str, str]:
            monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
            wait(process.pid)
            return process.communicate(timeout=0)

        monkeypatch.setattr(subprocess.Popen, "communicate", first)

    return run_out_after


def test_a_step_that_ran():
    outcome = outcome_of("""
        def step(figures):
            print("something on the way")
            figures.latencies("hop", [3e-6, 1e-6, 2e-6], "at most 40 us")
            return {"wrong": 0}
        run(step)
    """)
    assert (outcome.status, outcome.reason, outcome.checks) == (RAN, "", {"wrong": 0})
    assert outcome.figures == [
        {"name": "hop", "values": {"p50": 2.0, "p99": 3.0}, "unit": "µs", "target": "at most 40 us"}
    ]
    assert outcome.seconds > 0


def test_a_step_that_cannot_run_is_skipped_with_its_reason():
    outcome = outcome_of("""
        def step(figures):
            raise CannotRunError("there is only one GPU")
        run(step)
    """)
    assert (outcome.status, outcome.reason) == (SKIPPED, "there is only one GPU")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "printed 0 results"),
        ("print('all is well')", "printed 0 results"),
        ("run(lambda figures: {}); run(lambda figures: {})", "printed 2 results"),
        ("print('step-result: {\"checks\": ')", "not JSON"),
        ("print('step-result: 1')", "says nothing"),
        ("print('step-result: {}')", "says nothing"),
        ('print(\'step-result: {"skipped": ""}\')', "says nothing"),
        ('print(\'step-result: {"checks": 1, "figures": []}\')', "says nothing"),
        ("run(lambda figures: {}); sys.exit(3)", "exit status 3"),
        ("run(lambda figures: 1 / 0)", "ZeroDivisionError"),
        ("run(lambda figures: {'x': object()})", "TypeError"),
        ("run(lambda figures: {}); os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe\\x00 no text')", "printed 0 results"),
    ],
)
def test_a_step_that_does_anything_else_has_failed(source, reason):
    outcome = outcome_of(source)
    assert outcome.status == FAILED
    assert reason in outcome.reason
    assert not outcome.checks


def test_what_a_failed_step_has_printed_is_shown():
    outcome = outcome_of("print('on the way'); sys.exit('and then it broke')")
    assert "on the way" in outcome.reason
    assert "and then it broke" in outcome.reason


def test_a_step_that_hangs_has_failed_and_what_it_said_so_far_is_shown(run_out, gate):
    run_out(lambda _: gate.entered())
    outcome = outcome_of(f"print('before', flush=True); open({gate.path!r}); time.sleep(600)")
    assert outcome.status == FAILED
    assert outcome.reason.startswith(f"did not end within {LIMIT} s")
    assert "before" in outcome.reason


@pytest.mark.parametrize("end", ["time.sleep(600)", "os._exit(0)"])
def test_what_a_step_has_started_ends_with_it(run_out, gate, end):
    if "sleep" in end:
        run_out(lambda _: gate.entered())
        end = f"open({gate.path!r}); {end}"
    outcome = outcome_of(
        f"""
        child = os.fork()
        if not child:
            os.close(1), os.close(2)
            time.sleep(600)
        print("child", child, flush=True)
        {end}
        """
    )
    assert outcome.status == FAILED
    child = int(outcome.reason.split("child ")[1].split()[0])
    deadline = time.monotonic() + LIMIT
    while is_alive(child):
        assert time.monotonic() < deadline, "it was left running"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_step_that_holds_its_output_open_in_a_child_is_ended(run_out):
    run_out(lambda pid: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT))
    outcome = outcome_of(
        """
        if os.fork():
            run(lambda figures: {})
        else:
            time.sleep(600)
        """
    )
    assert outcome.status == FAILED
    assert outcome.reason.startswith(f"did not end within {LIMIT} s")


def test_a_step_that_is_not_there_has_failed():
    outcome = run_step("there_is_no_such_step", LIMIT)
    assert outcome.status == FAILED
    assert "there_is_no_such_step" in outcome.reason


def test_a_step_sees_the_environment_it_is_given():
    source = "import os; from tests.gpu.step import run; run(lambda figures: {'it': os.environ['OF_IT']})"
    outcome = run_command("it", [sys.executable, "-c", source], LIMIT, {"OF_IT": "here"})
    assert outcome.checks == {"it": "here"}


def test_percentiles():
    assert percentile([5.0], 99) == 5.0
    assert percentile(list(range(100)), 50) == 50
    assert percentile(list(range(100)), 99) == 99


def test_the_table_has_a_row_for_each_step_and_each_figure():
    figures = Figures()
    figures.add("4 B", "µs", "<= 40", p50=12.345, p99=1234.5)
    figures.add("said", value="a | b")
    lines = table(
        [
            Outcome("first", RAN, figures=figures.rows, seconds=1.5),
            Outcome("second", SKIPPED, "no GPU\nand more"),
            Outcome("third", FAILED, "wrong"),
        ]
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in lines}) == 1
    assert cells[2:] == [
        ["first", "ran", "1.5", "s", ""],
        ["", "4 B", "p50 12.3, p99 1234", "µs", "<= 40"],
        ["", "said", "a / b", "", ""],
        ["second", "SKIPPED: no GPU", "0", "s", ""],
        ["third", "FAILED: wrong", "0", "s", ""],
    ]


def test_a_probe_says_what_is_not_here():
    outcome = run_step("probe", LIMIT, {"CUDA_VISIBLE_DEVICES": ""})
    assert outcome.status == RAN
    assert outcome.checks["versions"]["python"]
    lacks = outcome.checks["lacks"]
    assert lacks["device"]
    assert lacks["nccl"] == lacks["torch"] == lacks["jax"] == lacks["device"]
    assert json.dumps(outcome.checks)
