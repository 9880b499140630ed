"""Runs the steps: each in a process of its own, with a limit, believed only when it says clearly how it went.

A step is a module that is run by its name and calls `tests.gpu.step.run`. It ends with one line on its standard
output, a JSON object: ``{"checks": …, "figures": …}`` when it ran, ``{"skipped": reason}`` when it could not.
Whatever else it does is a failure: another exit status, no such line, several, or none in time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RAN, SKIPPED, FAILED = "ran", "skipped", "failed"
MARK = "step-result: "
TAIL = 3000  # characters of a failed step's output that are shown
GRACE = 10  # seconds for the output of processes that were killed


@dataclass
class Outcome:
    """How a step went.

    Attributes:
        step: its name.
        status: "ran", "skipped" or "failed"; a test that does not like what a step found says "failed" too.
        reason: why it was skipped or has failed.
        checks: what its test asserts on.
        figures: rows of the table (`tests.gpu.step.Figures`).
        seconds: how long it took.
    """

    step: str
    status: str
    reason: str = ""
    checks: dict[str, Any] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def run_step(name: str, timeout: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run ``tests.gpu.steps.<name>``, for at most ``timeout`` seconds."""
    return run_command(name, [sys.executable, "-m", f"tests.gpu.steps.{name}"], timeout, environment)


def run_command(
    name: str, command: Sequence[str], timeout: float, environment: Mapping[str, str] | None = None
) -> Outcome:
    """Run a command that behaves as steps do; it and all that it has started are gone when this returns."""
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        out, err = process.communicate(timeout=GRACE)
        outcome = Outcome(name, FAILED, f"did not end within {timeout:g} s{_tail(out, err)}")
    else:
        outcome = judge(name, process.returncode, out, err)
    finally:
        _kill_group(process.pid)
        process.wait()
    outcome.seconds = time.monotonic() - begin
    return outcome


def judge(name: str, status: int, out: str, err: str) -> Outcome:
    """What a step that has ended was: its exit status and its output say so together, or it has failed."""
    if status < 0:
        return Outcome(name, FAILED, f"was killed by {signal.Signals(-status).name}{_tail(out, err)}")
    if status:
        return Outcome(name, FAILED, f"exit status {status}{_tail(out, err)}")
    results = [line.removeprefix(MARK) for line in out.splitlines() if line.startswith(MARK)]
    if len(results) != 1:
        return Outcome(name, FAILED, f"printed {len(results)} results instead of one{_tail(out, err)}")
    try:
        result = json.loads(results[0])
    except ValueError as error:
        return Outcome(name, FAILED, f"printed a result that is not JSON: {error}{_tail(out, err)}")
    match result:
        case {"skipped": str(reason)} if reason and len(result) == 1:
            return Outcome(name, SKIPPED, reason)
        case {"checks": dict(checks), "figures": list(figures)} if len(result) == 2:
            return Outcome(name, RAN, checks=checks, figures=figures)
    return Outcome(name, FAILED, f"printed a result that says nothing{_tail(out, err)}")


def _kill_group(pid: int) -> None:
    """Kill what the step has left behind: its group is its own, as it began a session."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _tail(out: str, err: str) -> str:
    return "".join(f"\n--- {name}\n{text[-TAIL:]}" for name, text in (("stdout", out), ("stderr", err)) if text)
