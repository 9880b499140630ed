"""Who is not of a graph and meddles with it: strangers at its socket, and one that spoils its memory."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from async_adag.channels.ring import SLOT
from async_adag.protocol.frame import HEADER_SIZE
from tests.soak.outcomes import Subject, Tally

LISTENS = 0x10000  # the flag of a socket that listens, in /proc/net/unix
TOKEN_AND_NUMBER = 36  # bytes of a hello

# One byte of a header, at this place, is overwritten with this: a single store, which leaves no header that is in
# part another's. In the order of the header: version, magic, kind, place, sequence, length.
BYTES = ((0, 0x7F), (3, 0), (4, 77), (5, 9), (15, 0x7F), (23, 0x7F))


class Strangers:
    """Processes may knock at any abstract socket: this one does, at those of the graphs that it compiles itself.

    Args:
        rng: decides what they do.
        tally: where they are counted.
    """

    def __init__(self, rng: Random, tally: Tally) -> None:
        self._rng = rng
        self._tally = tally
        self._there: set[asyncio.Task[None]] = set()

    def knock(self) -> None:
        """A stranger for each graph that is being compiled now."""
        for name in listening():
            stranger = asyncio.ensure_future(self._stranger(name))
            self._there.add(stranger)
            stranger.add_done_callback(self._there.discard)

    async def gone(self) -> None:
        """Wait until the last one was hung up on."""
        for stranger in list(self._there):
            await stranger

    async def _stranger(self, name: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
            one.setblocking(False)
            try:
                one.connect(name)
                self._rng.choice(MANNERS)(one, self._rng)
            except OSError:
                return  # the graph is there by now
            self._tally.note("strangers at a graph's socket")
            got = await self._tally.result_of(asyncio.get_running_loop().sock_recv(one, 1), "a stranger")
            if got != b"" and not isinstance(got, ConnectionError):
                self._tally.complain(f"a stranger at a graph's socket was given {got!r}")

    @contextmanager
    def log(self) -> Iterator[None]:
        """Counts the lines about them, which are kept from the terminal."""
        logger, handler = logging.getLogger("async_adag"), _Lines(self._tally)
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate


class _Lines(logging.Handler):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("refused a connection"):
            self._tally.note("strangers that were refused, with a line in the log")
        else:
            self._tally.complain(f"logged: {record.getMessage():.2000}")


def listening() -> list[str]:
    """The sockets at which graphs of this process listen."""
    own = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # closed meanwhile
    found = []
    with open("/proc/net/unix") as sockets:
        for line in sockets:
            match = re.search(r": \w+ \w+ (\w+) \w+ \w+ +(\d+) @(async-adag-\w+)$", line)
            if match and int(match[1], 16) & LISTENS and f"socket:[{match[2]}]" in own:
                found.append("\0" + match[3])
    return found


def _says_garbage(one: socket.socket, rng: Random) -> None:
    one.send(rng.randbytes(rng.choice((1, 35, 37, 1000, 60_000))))


def _guesses_the_token(one: socket.socket, rng: Random) -> None:
    one.send(rng.randbytes(TOKEN_AND_NUMBER))


def _says_nothing(one: socket.socket, rng: Random) -> None:
    pass


def _hangs_up(one: socket.socket, rng: Random) -> None:
    one.shutdown(socket.SHUT_RDWR)


def _brings_descriptors(one: socket.socket, rng: Random) -> None:
    fds = struct.pack("253i", *[0] * 253)
    one.sendmsg([rng.randbytes(TOKEN_AND_NUMBER)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


MANNERS: tuple[Callable[[socket.socket, Random], None], ...] = (
    _says_garbage,
    _guesses_the_token,
    _says_nothing,
    _hangs_up,
    _brings_descriptors,
)


def spoil_a_frame(subject: Subject, rng: Random, tally: Tally) -> bool:
    """Spoil the header of a frame that its reader has not taken yet; False if there is none now."""
    ends = subject.compiled._engine.deployment.ends
    found = [(end, seq) for end in (*ends.writers.values(), *ends.readers.values()) for seq in _unread(end)]
    if not found:
        return False
    end, seq = rng.choice(found)
    at, byte = rng.choice(BYTES)
    assert at < HEADER_SIZE
    subject.spoiled = True
    end._memory[end._slots_begin + seq % _layout(end).slots * SLOT + at] = byte
    tally.note("frames spoiled")
    return True


def _layout(end: Any) -> Any:
    return end._pool._layout if hasattr(end, "_pool") else end._layout


def _unread(end: Any) -> range:
    layout = _layout(end)
    words = end._memory[: layout.words * 8].cast("Q")
    return range(min(words[tail] for tail in layout.tails), words[layout.head])
