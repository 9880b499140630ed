"""A second process for a step, and what both say to each other."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

LIMIT = 30  # seconds to wait for the other process to say something


class PeerFailedError(Exception):
    """The other process has failed, has ended, or says nothing."""


class Line:
    """One end of what two processes say to each other."""

    def __init__(self, connection: Connection, process: BaseProcess | None = None) -> None:
        self._connection = connection
        self.process = process

    def put(self, value: Any) -> None:
        self._connection.send(("value", value))

    def fail(self, text: str) -> None:
        self._connection.send(("failed", text))

    def get(self, timeout: float = LIMIT) -> Any:
        """The next value that the other process has put.

        Raises:
            PeerFailedError: it will not come.
        """
        if not self._connection.poll(timeout):
            raise PeerFailedError(f"the other process has said nothing for {timeout:g} s")
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise PeerFailedError("the other process has ended") from error
        if kind == "failed":
            raise PeerFailedError(f"the other process has failed:\n{value}")
        return value


@contextmanager
def peer(work: Callable[..., None], *args: Any) -> Iterator[Line]:
    """Run ``work(line, *args)`` in a new process; both ends have a `Line`.

    On the way out the process has `LIMIT` seconds to end by itself; after a failure it is killed.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_work, args=(there, work, args), daemon=True)
    process.start()
    there.close()
    try:
        yield Line(here, process)
        process.join(LIMIT)
        if process.exitcode is None:
            raise PeerFailedError(f"the other process did not end within {LIMIT} s")
    finally:
        process.kill()
        process.join(LIMIT)
        here.close()


def _work(connection: Connection, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    line = Line(connection)
    try:
        work(line, *args)
    except BaseException:
        line.fail(traceback.format_exc())
        raise
