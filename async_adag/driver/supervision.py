"""Supervision: learns when an actor leaves the graph, whichever way it goes.

Each actor is watched twice: by a pidfd, which becomes readable when its process ends, and by the connection of
the rendezvous, on which a loop says goodbye. Both of all actors sit in one epoll, so that an event loop or a
waiting thread watches one descriptor. Of an actor on another host there is the connection only, whose end without
a word is its death.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from async_adag.actor.joining import GOODBYE, LOST
from async_adag.channels.rendezvous import receive_text


class Departure(Enum):
    """How an actor left."""

    GOODBYE = "said goodbye"
    BROKE = "broke"
    DIED = "died"
    LOST = "lost an edge"  # and is still there


_ORDER = [Departure.DIED, Departure.BROKE, Departure.GOODBYE, Departure.LOST]


@dataclass(frozen=True, slots=True)
class Left:
    """An actor has left the graph, or lost an edge of it: which, how, and what it said."""

    actor: int
    how: Departure
    text: str = ""


class Supervision:
    """Watches the actors of one graph. Owns their pidfds and connections."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._pidfds: dict[int, int] = {}  # pidfd: actor
        self._connections: dict[int, tuple[int, socket.socket]] = {}  # fd: (actor, connection)
        self._away: set[int] = set()
        self.present: set[int] = set()

    @property
    def fd(self) -> int:
        """Readable when `departures` has something to tell."""
        return self._epoll.fileno()

    def watch(self, actor: int, pidfd: int | None, connection: socket.socket, away: bool = False) -> None:
        """Watch an actor; owns both descriptors from now on, whatever it raises.

        Args:
            actor: its number.
            pidfd: None for an actor that is this very process, or on another host.
            connection: of the actor's loop.
            away: whether it is on another host.

        Raises:
            OSError: the system lets nobody watch any more.
        """
        self.present.add(actor)
        if away:
            self._away.add(actor)
        connection.setblocking(False)
        self._connections[connection.fileno()] = actor, connection
        if pidfd is not None:
            self._pidfds[pidfd] = actor
            self._epoll.register(pidfd, select.EPOLLIN)
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def listen(self, process: int, connection: socket.socket) -> None:
        """Hear of edges that this process has lost; ``process`` is its number in the graph."""
        connection.setblocking(False)
        self._connections[connection.fileno()] = process, connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def departures(self, timeout: float = 0) -> Iterator[Left]:
        """The actors that have left since the last call; waits for ``timeout`` seconds at most.

        A death comes before a goodbye of the same moment: it is the reason.
        """
        if self._epoll.closed:
            return
        fds = [fd for fd, _ in self._epoll.poll(timeout)]
        found = [self._death(fd) if fd in self._pidfds else self._word(fd) for fd in fds]
        for left in sorted((left for left in found if left is not None), key=lambda left: _ORDER.index(left.how)):
            if left.how is Departure.LOST:
                yield left
            elif left.actor in self.present:
                self.present.discard(left.actor)
                yield left

    def _death(self, pidfd: int) -> Left:
        actor = self._pidfds.pop(pidfd)
        self._epoll.unregister(pidfd)
        os.close(pidfd)
        return Left(actor, Departure.DIED)

    def _word(self, fd: int) -> Left | None:
        actor, connection = self._connections[fd]
        text = receive_text(connection)
        if text is None:
            return None
        if text.startswith(LOST):
            return Left(actor, Departure.LOST, text[len(LOST) :])
        self._epoll.unregister(fd)
        connection.close()
        del self._connections[fd]
        if text == "":
            # Hung up without a word: its process is ending, and the pidfd will say so; where there is none or
            # the process lives on, nobody else would.
            if actor in self._away:
                return Left(actor, Departure.DIED)
            return None if actor in self._pidfds.values() else Left(actor, Departure.BROKE, "hung up")
        return Left(actor, Departure.GOODBYE if text == GOODBYE else Departure.BROKE, text)

    def close(self) -> None:
        """Watch nobody any more; again is harmless. In a forked child it takes nothing from the parent."""
        for pidfd in self._pidfds:
            os.close(pidfd)
        for _, connection in self._connections.values():
            connection.close()
        self._pidfds.clear()
        self._connections.clear()
        self._epoll.close()
