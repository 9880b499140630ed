"""The network: the TCP connections of one process in one graph, and who looks after them.

A loop that waits watches one descriptor beside its doorbell, and has the network take a `turn` before it looks at
its channels. What cannot wait for the loop, since that computes, is the attendant's: connections that other
processes read from too, large frames that are half there, what the kernel did not take, and signs of life.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from functools import partial

from async_adag.channels.attendant import Attendant
from async_adag.channels.backlog import IDLE, Chunks
from async_adag.channels.connection import LINGER, Connection
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.landing import Landing
from async_adag.channels.ring import RingWriter
from async_adag.channels.stream import Stream
from async_adag.channels.tcp_writer import TcpWriter

FEW = 4  # connections up to which trying them all is cheaper than asking which have news
_LOOK = 0.05  # seconds between looks at connections that linger


class Network:
    """The connections. Owns them.

    Attributes:
        lost: by channel, why its connection is of no use any more; empty while all is well.
        on_lost: called once for each of these, by whichever thread has noticed.
    """

    def __init__(
        self, attendant: Attendant, heartbeat: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A network without connections.

        Args:
            attendant: looks after what cannot wait; closed by its owner, after this.
            heartbeat: seconds of silence after which the other side of a connection is given up.
            clock: tells the time, in seconds.

        Raises:
            OSError: no descriptor is left.
        """
        self.attendant = attendant
        self.heartbeat = heartbeat
        self.clock = clock
        self.chunks = Chunks()
        self.lost: dict[int, str] = {}
        self.on_lost: Callable[[int, str], None] | None = None
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._of_loop: tuple[Connection, ...] = ()
        self._by_fd: dict[int, Connection] = {}
        self._heeding: dict[int, list[Connection]] = {}  # by doorbell
        self._shared: tuple[Landing, ...] = ()
        self._epoll = select.epoll()
        self._closed = False
        attendant.every(heartbeat / 4, self.tick)
        attendant.every(IDLE, self.chunks.trim)

    def add_writer(self, channel: int, stream: Stream, slots: int) -> TcpWriter:
        """The writing end of a channel; owns ``stream``, as the network does.

        Args:
            channel: its number.
            stream: the connection to where its readers are.
            slots: frames that may be under way at once.
        """
        writer = TcpWriter(self, channel, stream, slots)
        self._connections.append(writer)
        return writer

    def add_landing(
        self,
        channel: int,
        stream: Stream,
        ring: RingWriter,
        *,
        own: int | None,
        shared: bool,
        doorbell: Doorbell | None = None,
    ) -> Landing:
        """Where a channel's frames come in; owns ``stream`` and ``ring``.

        Args:
            channel: its number.
            stream: the connection to its writer.
            ring: the writing end of the ring that the frames go into.
            own: this process's number among the ring's readers; None if it is none of them.
            shared: whether other processes read there too.
            doorbell: of this process, which those ring when they have taken a frame that the writer waits for.
        """
        landing = Landing(self, channel, stream, ring, own, shared, doorbell)
        self._connections.append(landing)
        if shared:
            self._shared += (landing,)
        return landing

    def fileno(self) -> int:
        """An epoll, readable when `turn` has something to do; level-triggered."""
        return self._epoll.fileno()

    def turn(self, ring_own: bool = False) -> None:
        """Take in what has come and send what is due. Never blocks.

        Args:
            ring_own: whether to ring this process's own doorbell for frames that have landed, as for those of
                others: when it is not the one who calls this that waits for them.
        """
        connections = self._of_loop
        if len(connections) > FEW:
            try:
                ready = self._epoll.poll(0, len(connections))
            except ValueError:
                return  # closed
            found = [self._by_fd.get(fd) for fd, _ in ready]
            connections = tuple(connection for connection in found if connection is not None)
        came = False
        for connection in connections:
            if not (came and connection.can_wait()):
                came |= connection.turn(ring_own)
        for landing in self._shared:
            landing.look()

    def tick(self) -> None:
        """Hear and give signs of life. What the attendant does every quarter of a heartbeat."""
        for connection in list(self._connections):
            connection.tick()

    # -- see connection.Hub

    def look_after(self, connection: Connection) -> None:
        """Have the loop look after it."""
        with self._lock:
            if self._closed or connection in self._of_loop:
                return
            fd = connection.stream.fileno()
            self._by_fd[fd] = connection
            self._epoll.register(fd, select.EPOLLIN)
            first = isinstance(connection, Landing)  # what executions wait for; credits can wait for it
            self._of_loop = (connection, *self._of_loop) if first else (*self._of_loop, connection)
            connection.of_loop = True

    def look_away(self, connection: Connection) -> None:
        """Have the loop leave it alone."""
        with self._lock:
            if connection not in self._of_loop:
                return
            self._of_loop = tuple(each for each in self._of_loop if each is not connection)
            connection.of_loop = False
            fd = connection.stream.fileno()
            self._by_fd.pop(fd, None)
            if not self._closed:
                self._epoll.unregister(fd)

    def heed_bell(self, connection: Connection, doorbell: Doorbell) -> None:
        """Call its `on_bell` when this doorbell rings. Several of this process's may wait for one."""
        with self._lock:
            heeding = self._heeding.setdefault(doorbell.fd, [])
            heeding.append(connection)
            if len(heeding) == 1:
                on_bell = partial(self._on_bell, doorbell.fd)
                self.attendant.watch(doorbell.fd, select.EPOLLIN | select.EPOLLET, on_bell)

    def ignore_bell(self, connection: Connection, doorbell: Doorbell) -> None:
        """Do so no longer."""
        with self._lock:
            heeding = self._heeding[doorbell.fd]
            heeding.remove(connection)
            if not heeding:
                del self._heeding[doorbell.fd]
                self.attendant.unwatch(doorbell.fd)

    def _on_bell(self, fd: int, _: int) -> None:
        with self._lock:
            heeding = list(self._heeding.get(fd, ()))
        for connection in heeding:
            connection.on_bell()

    def on_loss(self, connection: Connection) -> None:
        """It is of no use any more."""
        self.lost[connection.channel] = connection.lost
        if self.on_lost is not None and not self._closed:
            self.on_lost(connection.channel, connection.lost)

    # -- the end

    def close(self, wait: bool = True) -> None:
        """Close all connections, when what was written has arrived or `LINGER` seconds have passed; again is
        harmless.

        Args:
            wait: whether to wait for that here; else the attendant does it.
        """
        self._shared = ()
        for connection in self._connections:
            connection.close()
        if not wait:
            with self._lock:
                if not self._closed:
                    self._closed = True
                    self._epoll.close()
            return
        deadline = time.monotonic() + LINGER
        while time.monotonic() < deadline:
            waiting = [each for each in self._connections if not each.is_closed()]
            if not waiting:
                break
            poll = select.poll()
            for connection in waiting:
                fd = connection.stream.fileno()
                if fd >= 0:
                    poll.register(fd, connection.events())
            poll.poll(_LOOK * 1000)
            for connection in waiting:
                connection.attend(select.EPOLLIN | select.EPOLLOUT)
        for connection in self._connections:
            connection.shut()
        self._connections.clear()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._epoll.close()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self._lock = threading.Lock()
        self._closed = True
        for connection in self._connections:
            connection.leave_to_parent()
        self._connections.clear()
        self._of_loop = ()
        self._shared = ()
        self._epoll.close()
