"""System calls between two marks, by thread: what `strace` has written, counted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.costs.counted import MARK, ROOT

LINE = re.compile(r"^(\d+) +(\w+)\((.*)")
OF_THE_TEST = {
    "futex",  # the interpreter lock, which goes to and fro between the threads of the one process
    "clock_nanosleep",  # the test waits for others
    "sched_yield",
}


class NoTrace(Exception):
    """System calls cannot be traced here; the text says why."""


def trace(case: str, executions: int, folder: Path) -> tuple[Counter[str], Counter[str]]:
    """The system calls of so many executions: of the driver's thread, and of the actors' loops.

    Raises:
        NoTrace: there is no strace, or it may not trace.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise NoTrace("strace is not installed")
    log = folder / "strace.log"
    program = [sys.executable, "-m", "tests.costs.counted", case, str(executions)]
    command = [strace, "-f", "-qq", "-o", str(log), *program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    if "ptrace" in run.stderr:
        raise NoTrace(f"strace may not trace here: {run.stderr.strip()}")
    assert run.returncode == 0, run.stderr
    return count(log.read_text())


def count(log: str) -> tuple[Counter[str], Counter[str]]:
    """The system calls between the two marks, of the thread that made the marks, and of all others."""
    driver, actors = Counter[str](), Counter[str]()
    marked_by = ""
    for line in log.splitlines():
        found = LINE.match(line)
        if found is None:
            continue  # the second half of a call that others have interrupted, a signal, an exit
        thread, name, arguments = found.groups()
        if name == "close" and arguments.startswith(str(MARK)):
            if marked_by:
                return driver, actors
            marked_by = thread
        elif marked_by and name not in OF_THE_TEST:
            (driver if thread == marked_by else actors)[name] += 1
    raise AssertionError("there are no two marks in the trace")
