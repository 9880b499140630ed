"""What else carries an object to a process and back: `multiprocessing.Pipe`, and ZeroMQ by pyzmq.

Neither is a graph, and neither has a failure, a limit or a second caller to care for: they are the plain tools
that somebody would reach for instead. Each is used as its own documentation shows.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.arrays import size_in_words
from benchmarks.backends import AdagBackend, Backend
from benchmarks.graphs import ONE
from benchmarks.measure import async_times, blocking_times
from benchmarks.rows import Figures, Row, of_times
from benchmarks.site import Site

PIPE, ZMQ = "multiprocessing.Pipe", "pyzmq"
PART = 0.4  # of the time
ECHO = Path(__file__).with_name("echo.py")


@dataclass(frozen=True)
class Peer:
    """A round trip by `rival`, and by async_adag through one actor."""

    rival: str
    awaited: bool
    kilobytes: int = 0
    """Of an array; 0 for an integer."""

    @property
    def name(self) -> str:
        return f"peers, {self.rival}, {self._side}, {self._payload}"

    @property
    def _side(self) -> str:
        return "awaited" if self.awaited else "blocking"

    @property
    def _payload(self) -> str:
        return f"array of {size_in_words(self.kilobytes)}" if self.kilobytes else "integer"

    @property
    def rows(self) -> list[Row]:
        section = f"Round trip, {self._side}, against {self.rival}, p50"
        return [Row(section, self._payload, "s", rival=self.rival)]

    def measure(self, backend: Backend, site: Site) -> Figures:
        if not isinstance(backend, AdagBackend):
            return Figures()
        with site.graph(backend, ONE, asynchronous=self.awaited) as graph:
            return self._times(site, graph.call, graph.call_blocking)

    def measure_rival(self, site: Site) -> Figures:
        if self.rival == PIPE:
            with _pipe() as call_blocking:
                return self._times(site, None, call_blocking)
        with _zmq_server() as address:
            return self._times_of_zmq(site, address)

    def _times_of_zmq(self, site: Site, address: str) -> Figures:
        import zmq
        import zmq.asyncio

        if not self.awaited:
            with zmq.Context() as context, context.socket(zmq.REQ) as socket:
                socket.connect(address)

                def call_blocking(value: Any) -> Any:
                    socket.send_pyobj(value)
                    return socket.recv_pyobj()

                return self._times(site, None, call_blocking)
        with zmq.asyncio.Context() as context, context.socket(zmq.REQ) as socket:
            socket.connect(address)

            async def call(value: Any) -> Any:
                await socket.send_pyobj(value)
                return await socket.recv_pyobj()

            return self._times(site, call, None)

    def _times(
        self,
        site: Site,
        call: Callable[[Any], Awaitable[Any]] | None,
        call_blocking: Callable[[Any], Any] | None,
    ) -> Figures:
        value = np.arange(125 * self.kilobytes) if self.kilobytes else 1
        seconds = site.briefly(PART).seconds
        if not self.awaited:
            assert call_blocking is not None
            assert np.array_equal(call_blocking(value), value)
            return of_times(self.rows, blocking_times(call_blocking, value, seconds))

        async def measure() -> Figures:
            assert call is not None
            assert np.array_equal(await call(value), value)
            return of_times(self.rows, await async_times(call, value, seconds))

        return site.run(measure())


def peers() -> list[Peer]:
    """All that are installed."""
    found = [Peer(PIPE, awaited=False), Peer(PIPE, awaited=False, kilobytes=1000)]
    if find_spec("zmq") is not None:
        found += [Peer(ZMQ, awaited, kilobytes) for awaited in (False, True) for kilobytes in (0, 1000)]
    return found


@contextmanager
def _pipe() -> Iterator[Callable[[Any], Any]]:
    ours, its = Pipe()
    with ours, _echoing("pipe", str(its.fileno()), pass_fds=(its.fileno(),)):
        its.close()

        def call(value: Any) -> Any:
            ours.send(value)
            return ours.recv()

        yield call


@contextmanager
def _zmq_server() -> Iterator[str]:
    with TemporaryDirectory(prefix="zmq-") as folder:
        address = f"ipc://{folder}/echo"
        with _echoing("zmq", address):
            yield address


@contextmanager
def _echoing(*arguments: str, pass_fds: tuple[int, ...] = ()) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, str(ECHO), *arguments], pass_fds=pass_fds)
    try:
        yield
    finally:
        process.kill()
        process.wait()
