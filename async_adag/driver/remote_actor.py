"""An actor on another host, as the driver has it: joined by a line, so that nothing else has to know of hosts."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Mapping

from async_adag.actor.control import Control
from async_adag.channels.attendant import Attendant
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.gauge import ToldGauge, hear_levels
from async_adag.channels.line import ASK, ASKED, CLOCK, LEVELS, PAGE, RECORDS, Line
from async_adag.channels.stream import Stream
from async_adag.driver.clock import Comparison, compare

COMPARISONS = 8  # answers of which the quickest counts
LOOK = 0.05  # seconds between looks at whether a line that one waits for is over


class RemoteActor:
    """One end of a socket pair for the driver, and what the attendant does with the other.

    Args:
        stream: to the actor; becomes this one's.
        attendant: looks after it.
        heartbeat: seconds of silence after which the actor is given up.
        page: its control page, as the driver sees it: takes over what the actor tells.
        bell: rung when the driver has written to the page; becomes this one's.
        gauges: of channels on its host, by number: take over what it tells.

    Attributes:
        connection: as to an actor on this host; whoever takes it closes it.
        records: what it has told of what it has recorded since `begin_trace`; None where it has not.

    Raises:
        OSError: no descriptor is left.
    """

    def __init__(
        self,
        stream: Stream,
        attendant: Attendant,
        heartbeat: float,
        page: Control,
        bell: Doorbell,
        gauges: Mapping[int, ToldGauge],
    ) -> None:
        self._attendant = attendant
        self._page = page
        self._bell = bell
        self._gauges = gauges
        self._asking = threading.Lock()
        self._asked = 0  # of the loop, as it was told
        self._heard = threading.Event()
        self._compared = threading.Event()
        self._recorded = threading.Event()
        self._comparisons: list[Comparison] = []  # of the present round
        self._begun: Comparison | None = None  # the best of those made as the present trace began
        self._pieces = bytearray()
        self.records: bytes | None = None
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
        elif kind == LEVELS:
            hear_levels(content, self._gauges)
        elif kind == CLOCK:
            asked, theirs = (int.from_bytes(content[at : at + 8], "little") for at in (0, 8))
            self._comparisons.append(compare(asked, theirs, time.monotonic_ns()))
            if len(self._comparisons) < COMPARISONS:
                self._ask_the_time()
            else:
                self._compared.set()
        elif kind == RECORDS:
            self._pieces += content[1:]
            if content[:1] == b"\1":
                self.records = bytes(self._pieces)
                self._pieces.clear()
                self._recorded.set()

    def ask(self) -> threading.Event:
        """Ask for the control page as it is now, and its channels; set when it is here, or will not come."""
        if not self._line.is_over:
            self._heard.clear()
            self._line.send(ASK)
        if self._line.is_over:
            self._heard.set()
        return self._heard

    # -- traces

    def begin_trace(self) -> None:
        """The page asks for records from now on: tell the actor, and compare clocks; see `await_clock`."""
        self.records, self._begun = None, None
        self._compare()

    def await_clock(self, deadline: float) -> None:
        """Wait until clocks are compared, and so the actor records; ``deadline`` is of `time.monotonic`."""
        self._wait(self._compared, deadline)
        self._begun = self._best()

    def ask_for_records(self) -> None:
        """Compare clocks again, and ask for the records; see `await_records`."""
        self._recorded.clear()
        self._compare()
        self._line.send(RECORDS)

    def await_records(self, deadline: float) -> tuple[Comparison | None, Comparison | None]:
        """Wait for the records; the best comparisons of clocks as the trace began, and as it ended."""
        self._wait(self._compared, deadline)
        self._wait(self._recorded, deadline)
        return self._begun, self._best()

    def _compare(self) -> None:
        self._compared.clear()
        self._comparisons = []
        self._tell_asked()
        self._ask_the_time()

    def _ask_the_time(self) -> None:
        self._line.send(CLOCK, time.monotonic_ns().to_bytes(8, "little"))

    def _best(self) -> Comparison | None:
        return min(self._comparisons, key=lambda one: one.error, default=None)

    def _wait(self, event: threading.Event, deadline: float) -> None:
        while not self._line.is_over and (left := deadline - time.monotonic()) > 0:
            if event.wait(min(left, LOOK)):
                return

    # -- the loop

    def _on_bell(self, _: int) -> None:
        try:
            self._bell.silence()
        except (OSError, ValueError):
            return  # closed just now
        self._tell_asked()

    def _tell_asked(self) -> None:
        with self._asking:
            asked = self._page.asked()
            if asked != self._asked:
                self._asked = asked
                self._line.send(ASKED, asked.to_bytes(8, "little"))

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
