"""Who knocks at a graph's socket without being of it, and who listens where an actor expects its driver."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from async_adag.channels.rendezvous import Address, Listener

PATIENCE = 100.0  # seconds; only a failing test waits
NOBODY = 65534

# A process of another user: modules are imported before it gives root up, as it may not read them afterwards.
_OTHER_USER = """
import os, socket, sys
os.setgid({user}), os.setuid({user})
one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
{act}
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[Address]:
    """The addresses at which graphs that are being compiled here listen, each as soon as it does."""
    made: queue.Queue[Address] = queue.Queue()

    class Told(Listener):
        def __init__(self) -> None:
            super().__init__()
            made.put(self.address)

    monkeypatch.setattr("async_adag.channels.reception.Listener", Told)
    return made


def knock(address: Address) -> socket.socket:
    """Connect, and say nothing."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.connect(address.name)  # waits where the backlog is full, as it would not with a timeout
    one.settimeout(PATIENCE)
    return one


def is_refused(stranger: socket.socket) -> bool:
    """Whether the other side hangs up; waits until it does something."""
    try:
        return stranger.recv(1) == b""
    except ConnectionError:
        return True


@contextmanager
def of_another_user(act: str) -> Iterator[tuple[int, Any]]:
    """A process of another user that does ``act`` with ``one``, a socket; its pid and the process."""
    source = _OTHER_USER.format(user=NOBODY, act=act)
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process
    finally:
        process.communicate()
