"""The reception: where the processes of one host come in, one by one, while a graph is compiled.

Strangers may knock too (`channels/rendezvous.py`): they are kept waiting for their hello, so many of them at most,
and hold up nobody.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from typing import TypeVar

from async_adag.channels.limits import EXHAUSTED
from async_adag.channels.rendezvous import Address, Listener

T = TypeVar("T")

SILENT = 128  # connections that may wait for their hello; an actor's takes microseconds


class Reception:
    """Lets in whoever shows the graph's token. Owns the listener, and connections that have said nothing yet.

    Args:
        epoll: told of every descriptor that is waited for; stays the caller's.
        address: where it is to be; a new one by default.
    """

    def __init__(self, epoll: select.epoll, address: Address | None = None) -> None:
        self._epoll = epoll
        self._listener = Listener() if address is None else Listener(address)
        self._unknown: dict[int, socket.socket] = {}
        try:
            epoll.register(self._listener.socket.fileno(), select.EPOLLIN)
        except BaseException:
            self._listener.close()
            raise

    @property
    def address(self) -> Address:
        """Where actors knock."""
        return self._listener.address

    def handles(self, fd: int) -> bool:
        """Whether `hear` is to be called for this descriptor."""
        return fd in self._unknown or fd == self._listener.socket.fileno()

    def hear(self, fd: int) -> tuple[int, socket.socket] | None:
        """Take in what is there: an actor's number and its connection, which is the caller's; None for nobody."""
        if fd not in self._unknown:
            self._greet()
            return None
        connection = self._unknown.pop(fd)
        self._epoll.unregister(fd)
        number = self._listener.identify(connection)
        return None if number is None else (number, connection)

    def _greet(self) -> None:
        connection = self.with_room(self._listener.accept)
        if connection is not None:
            self._unknown[connection.fileno()] = connection
            self._epoll.register(connection.fileno(), select.EPOLLIN)
            if len(self._unknown) > SILENT:
                self.refuse_silent(1)

    def with_room(self, make: Callable[[], T]) -> T:
        """Make something that takes a descriptor, for which those who say nothing are turned away."""
        try:
            return make()
        except OSError as error:
            if error.errno not in EXHAUSTED or not self._unknown:
                raise
        self.refuse_silent()
        return make()

    def refuse(self, connection: socket.socket, why: str) -> None:
        """Turn somebody away, and log who it was."""
        self._listener.refuse(connection, why)

    def refuse_silent(self, count: int = sys.maxsize) -> None:
        """Turn away ``count`` of those who have said nothing yet, who came first."""
        for fd in list(self._unknown)[:count]:
            self._epoll.unregister(fd)
            self._listener.refuse(self._unknown.pop(fd), "it said nothing")

    def close(self) -> None:
        """Take no more connections. Who has said nothing is not refused: it may be one of ours."""
        self._listener.close()
        for connection in self._unknown.values():
            connection.close()
        self._unknown.clear()
