"""A gate between a test and a method: the test learns that the method was entered, and lets it go on."""

from __future__ import annotations

import os
from pathlib import Path


class Gate:
    """A named pipe. The method, `wait_at`, reads it; the test writes it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._end = -1

    def entered(self) -> None:
        """Wait until a method stands at the gate."""
        if self._end < 0:
            self._end = os.open(self.path, os.O_WRONLY)

    def open(self, answer: str = "") -> None:
        """Let the method go on, with ``answer``; waits until it stands at the gate."""
        self.entered()
        os.write(self._end, answer.encode())
        os.close(self._end)
        self._end = -1

    def force(self) -> None:
        """Let go whoever stands at the gate, or ever will."""
        if self._end < 0:
            self._end = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        os.unlink(self.path)
        Path(self.path).touch()
        os.close(self._end)
        self._end = -1


def wait_at(path: str) -> str:
    """Stand at the gate until it opens; returns the answer."""
    with open(path) as gate:
        return gate.read()
