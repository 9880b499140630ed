"""Tests whose driver is in a network of its own: see tests/networks.py and tests/driver_inside.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LOOPS
from tests.driver_inside import FAILED, SKIPPED, Hosts
from tests.networks import CannotBeMade, two_networks

ROOT = Path(__file__).parents[1]


Body = Callable[[Hosts], Awaitable[None]]


def driven(body: Body) -> Any:
    """Makes a test of what the driver in the first network is to do, on each event loop."""
    return driven_on(*LOOPS)(body)


def driven_on(*loops: str) -> Callable[[Body], Any]:
    """`driven`, on these event loops: for what takes seconds, and is not about them."""

    def make(body: Body) -> Any:
        @pytest.mark.parametrize("loop", loops)
        def test(driver: Driver, loop: str) -> None:
            driver.run(body, loop)

        test.__doc__ = body.__doc__
        test.body = body  # type: ignore[attr-defined]
        return test

    return make


class Driver:
    """Both networks, and the program that drives from within the first.

    They are made when first asked for, and anew after a failure.
    """

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._channel: Connection | None = None

    def _start(self) -> Connection:
        # Ray's files have a place of their own, also the one that says which Ray was started last.
        files = tempfile.mkdtemp(prefix="adag")
        self._undo.callback(shutil.rmtree, files, ignore_errors=True)
        ours, theirs = Pipe()
        self._undo.enter_context(ours)
        programs: list[subprocess.Popen[bytes]] = []
        self._undo.callback(lambda: [program.wait() for program in programs])
        networks = self._undo.enter_context(two_networks())  # left first: kills all that runs there
        with theirs:
            command = [sys.executable, "-m", "tests.driver_inside", str(theirs.fileno())]
            programs.append(
                subprocess.Popen(
                    networks.sides[0].inside(*command),
                    cwd=ROOT,
                    env={**os.environ, "RAY_TMPDIR": files},
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            )
        ours.send(networks)
        return ours

    def run(self, body: Body, loop: str) -> None:
        """Run the body of a test over there."""
        try:
            if self._channel is None:
                self._channel = self._start()
            self._channel.send((body.__module__, body.__name__, loop))
            outcome, words = self._channel.recv()
        except CannotBeMade as reason:
            self.close()
            pytest.skip(f"no network namespaces: {reason}")
        except BaseException:
            self.close()
            raise
        if outcome == SKIPPED:
            pytest.skip(words)
        if outcome == FAILED:
            self.close()
            pytest.fail(words, pytrace=False)

    def close(self) -> None:
        """Kill whoever runs there, and let go of the networks; again is harmless."""
        self._channel = None
        self._undo.close()
