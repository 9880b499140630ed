"""An actor on another host, as the driver has it: joined by a line, so that nothing else has to know of hosts."""

from __future__ import annotations

import select
import socket
import threading
import time

from async_adag.actor.control import Control
from async_adag.channels.attendant import Attendant
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.line import ASK, END, PAGE, Line
from async_adag.channels.stream import Stream


class RemoteActor:
    """One end of a socket pair for the driver, and what the attendant does with the other.

    Args:
        stream: to the actor; becomes this one's.
        attendant: looks after it.
        heartbeat: seconds of silence after which the actor is given up.
        page: its control page, as the driver sees it: takes over what the actor tells.
        bell: rung when the driver has written to the page; becomes this one's.

    Attributes:
        connection: as to an actor on this host; whoever takes it closes it.

    Raises:
        OSError: no descriptor is left.
    """

    def __init__(
        self, stream: Stream, attendant: Attendant, heartbeat: float, page: Control, bell: Doorbell
    ) -> None:
        self._attendant = attendant
        self._page = page
        self._bell = bell
        self._heard = threading.Event()
        try:
            self.connection, local = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except BaseException:
            stream.close()
            bell.close()
            raise
        self.connection.setblocking(False)
        self._line = Line(stream, local, attendant, heartbeat, self._hear)
        self._line.start()
        attendant.watch(bell.fd, select.EPOLLIN, self._on_bell)

    def _hear(self, kind: int, content: bytes) -> None:
        if kind == PAGE:
            self._page.hear(content[8:], time.monotonic_ns() - int.from_bytes(content[:8], "little"))
            self._heard.set()

    def ask(self) -> threading.Event:
        """Ask for the control page as it is now; set when it is here, or will not come."""
        if not self._line.is_over:
            self._heard.clear()
            self._line.send(ASK)
        if self._line.is_over:
            self._heard.set()
        return self._heard

    def _on_bell(self, _: int) -> None:
        try:
            self._bell.silence()
        except (OSError, ValueError):
            return  # closed just now
        if self._page.should_end():
            self._line.send(END)

    def close(self) -> None:
        """Hang up at once; again is harmless."""
        if self._bell.fd >= 0:
            self._attendant.unwatch(self._bell.fd)
        self._line.close()
        self._bell.close()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self._line.leave_to_parent()
        self._bell.close()
