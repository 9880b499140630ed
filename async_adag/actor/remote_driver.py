"""The driver, as an actor on another host has it: joined by a line, which the loop takes for any connection."""

from __future__ import annotations

import socket
import time

from async_adag.actor.control import Control
from async_adag.channels.attendant import Attendant
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.line import ASK, END, PAGE, Line
from async_adag.channels.stream import Stream

TELL = 0.25  # seconds between looks at whether the control page has something new to tell


class RemoteDriver:
    """One end of a socket pair for the loop, and what the attendant does with the other.

    Attributes:
        connection: as to a driver on this host; whoever takes it closes it.

    Raises:
        OSError: no descriptor is left.
    """

    def __init__(self, stream: Stream, attendant: Attendant, heartbeat: float) -> None:
        self._page: Control | None = None
        self._bell: Doorbell | None = None
        self._told = b""
        self._end = False
        try:
            self.connection, local = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except BaseException:
            stream.close()
            raise
        self.connection.setblocking(False)
        self._line = Line(stream, local, attendant, heartbeat, self._hear, self._tell)
        self._line.start()
        attendant.every(TELL, self._tell)

    def serve(self, page: Control, bell: Doorbell) -> None:
        """From now on tell the driver of the page, and end the loop that it is of when the driver says so."""
        self._page, self._bell = page, bell
        if self._end:
            page.end()

    def _hear(self, kind: int, content: bytes) -> None:  # noqa: ARG002 - of other kinds
        if kind == END:
            self._end = True
            if self._page is not None and self._bell is not None:
                self._page.end()
                self._bell.ring()
        elif kind == ASK and self._page is not None:
            self._send(self._page.told())

    def _tell(self) -> None:
        if self._page is None:
            return
        told = self._page.told()
        if told != self._told:
            self._send(told)

    def _send(self, told: bytes) -> None:
        """The page, behind what this host's clock says, which is not that of others."""
        self._told = told
        self._line.send(PAGE, time.monotonic_ns().to_bytes(8, "little") + told)
