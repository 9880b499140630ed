"""Programs of their own, on the Ray of the tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from textwrap import dedent

import pytest

BEGIN = """
import asyncio, os, signal, sys, threading
import ray, async_adag
from ray.dag import InputNode

# Whoever started the tests may have had Ctrl-C ignored, as shells do for what they run in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

ray.init(address=sys.argv[1], namespace="tests", log_to_driver=False, logging_level="error")
"""


def start(
    cluster: str, *parts: str, args: Sequence[str] = (), options: Sequence[str] = ("-W", "default")
) -> subprocess.Popen[str]:
    """Start a program that is connected to ``cluster``; ``options`` are the interpreter's."""
    source = "\n".join(dedent(part) for part in (BEGIN, *parts))
    return subprocess.Popen(
        [sys.executable, *options, "-X", "faulthandler", "-c", source, cluster, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_ready(program: subprocess.Popen[str]) -> None:
    """Wait until it prints "ready"."""
    assert program.stdout is not None
    for line in iter(program.stdout.readline, ""):
        if line == "ready\n":
            return  # others are Ray's, of nodes that have died in other tests
    raise AssertionError(f"it has ended before it was ready: {program.communicate()}")


def wait_until_over(program: subprocess.Popen[str], patience: float = 150) -> tuple[str, str]:
    """Wait until it has ended: what it wrote, and its errors.

    Where it takes longer than ``patience``, in seconds, the test fails with both, and with where each of its
    threads was; the program is ended, so that no other test finds it.
    """
    try:
        return program.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        program.send_signal(signal.SIGABRT)
    with program:
        try:
            output, errors = program.communicate(timeout=20)
        except subprocess.TimeoutExpired as silent:  # a child of it has the same pipes
            output, errors = (str(part or b"", "utf-8", "replace") for part in (silent.output, silent.stderr))
    pytest.fail(f"it has not ended within {patience} s\n{output}\n{errors}")
