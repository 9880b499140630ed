"""The driver, as an actor on another host has it: joined by a line, which the loop takes for any connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

from async_adag.actor.control import TRACE, Control
from async_adag.actor.records import count_of, give_back, make_room, records_in, tell_records
from async_adag.channels.attendant import Attendant
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.gauge import Gauge, tell_levels
from async_adag.channels.line import ASK, ASKED, CLOCK, LEVELS, PAGE, RECORDS, Line
from async_adag.channels.stream import Stream

TELL = 0.05  # seconds between looks at whether the control page has something new to tell
PIECE = 1 << 18  # bytes of records in one message


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
        self._gauges: Mapping[int, Gauge] = {}
        self._told = b""
        self._asked = 0
        self._traces = False  # since it was asked to record; also when it was asked to end meanwhile
        self._first = 0  # the number of the first record of the present trace, or the last
        try:
            self.connection, local = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except BaseException:
            stream.close()
            raise
        self.connection.setblocking(False)
        self._line = Line(stream, local, attendant, heartbeat, self._hear, self._before_text)
        self._line.start()
        attendant.every(TELL, self._tell)

    def serve(self, page: Control, bell: Doorbell, gauges: Mapping[int, Gauge]) -> None:
        """From now on tell the driver of page and channels, and have the loop do what the driver asks for."""
        self._page, self._bell, self._gauges = page, bell, gauges
        if self._asked:
            page.ask(self._asked)

    def _hear(self, kind: int, content: bytes) -> None:
        page = self._page
        if kind == CLOCK:
            self._line.send(CLOCK, content + _now())
        elif kind == ASKED:
            self._heed(int.from_bytes(content, "little"))
        elif page is None:
            return
        elif kind == ASK:
            self._line.send(LEVELS, tell_levels(self._gauges))
            self._send(page.told())
        elif kind == RECORDS:
            self._tell_records(page)
            give_back(page.records)

    def _heed(self, asked: int) -> None:
        self._asked = asked
        page, bell = self._page, self._bell
        if page is None or bell is None:
            return
        if not asked:
            self._traces = False
        elif asked & TRACE and not self._traces:
            self._traces = True
            self._first = count_of(records_in(page.records))
            try:
                make_room(page.records)
            except OSError:
                pass  # pages come when they are touched
        page.ask(asked)
        bell.ring()

    def _tell(self) -> None:
        if self._page is None:
            return
        told = self._page.told()
        if told != self._told:
            self._send(told)

    def _before_text(self) -> None:
        """What the loop did comes ahead of its goodbye: nobody can be asked behind that."""
        self._tell()
        if self._page is not None and self._traces:
            self._tell_records(self._page)

    def _send(self, told: bytes) -> None:
        """The page, behind what this host's clock says, which is not that of others."""
        self._told = told
        self._line.send(PAGE, _now() + told)

    def _tell_records(self, page: Control) -> None:
        told = tell_records(records_in(page.records), self._first)
        for at in range(0, len(told), PIECE):
            is_last = at + PIECE >= len(told)
            self._line.send(RECORDS, bytes([is_last]) + told[at : at + PIECE])


def _now() -> bytes:
    return time.monotonic_ns().to_bytes(8, "little")
