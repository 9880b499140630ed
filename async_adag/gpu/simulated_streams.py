"""Streams and events of the simulated device."""

from __future__ import annotations

from async_adag.gpu.interface import DeviceError, Event, TimedEvent
from async_adag.gpu.simulated_clocks import Deadlock, Misuse
from async_adag.gpu.simulated_schedule import Schedule
from async_adag.gpu.simulated_work import Host, Queue, Record, Ticket, Wait

HANDLE_BYTES = 64


class SimulatedEvent:
    """An event. Never recorded, it counts as passed.

    Args:
        schedule: of all streams.
        host: the process that made it.
        number: which of the simulation's.
    """

    def __init__(self, schedule: Schedule, host: Host, number: int) -> None:
        self._schedule = schedule
        self._host = host
        self._number = number
        self._closed = False
        self._ticket = Ticket()
        self._ticket.done_at = 0.0

    def __str__(self) -> str:
        return f"event #{self._number} of {self._host.name}"

    def record(self, host: Host) -> Ticket:
        """Begin another recording."""
        self._check(host, "records")
        self._ticket = Ticket()
        return self._ticket

    def capture(self, host: Host) -> Ticket:
        """What is waited for by who waits for it now."""
        self._check(host, "waits for")
        return self._ticket

    def query(self) -> bool:
        self._host.check()
        self._check(self._host, "queries")
        if self._ticket.done_at is None:
            return False
        self._host.clock.join(self._ticket.clock)
        return True

    def synchronize(self) -> None:
        """Steps the simulation until the device has passed it.

        Raises:
            DeviceError: the device has failed.
            Deadlock: it will never be passed.
        """
        self._host.check()
        self._check(self._host, "synchronizes with")
        ticket = self._ticket
        while ticket.done_at is None:
            if not self._schedule.step():
                waiting = "; ".join(self._schedule.waiting())
                raise Deadlock(f"{self._host.name} waits for {self}, and nothing can go on: {waiting}")
            self._host.check()
        self._host.clock.join(ticket.clock)

    def since(self, earlier: TimedEvent) -> int:
        """See `interface.TimedEvent`: virtual time. Any event of the simulation's tells it."""
        ends = [event_of(event).passed_at() for event in (earlier, self)]
        return round((ends[1] - ends[0]) * 1e9)

    def passed_at(self) -> float:
        """When the device passed it, in seconds of virtual time.

        Raises:
            Misuse: it has not.
        """
        self._check(self._host, "times")
        at = self._ticket.done_at
        if at is None:
            raise self._schedule.fault(Misuse(f"{self._host.name} times {self}, which has not been passed"))
        return at

    def close(self) -> None:
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether its process has let go of it, or has ended."""
        return self._closed or not self._host.alive

    def _check(self, host: Host, doing: str) -> None:
        """Raises Misuse if it is closed, or of another process."""
        if host is not self._host:
            raise self._schedule.fault(Misuse(f"{host.name} {doing} {self}"))
        if self._closed:
            raise self._schedule.fault(Misuse(f"{host.name} {doing} {self}, which it has closed"))


class SimulatedStream:
    """A stream, in its process."""

    def __init__(self, schedule: Schedule, queue: Queue, own: bool) -> None:
        self._schedule = schedule
        self._own = own
        self._queue = queue

    @property
    def handle(self) -> int:
        return self._queue.handle

    @property
    def name(self) -> str:
        """What it is called in errors and in the history."""
        return self._queue.name

    def record(self, event: Event) -> None:
        queue = self.queue()
        ticket = event_of(event).record(queue.host)
        work = Record(queue, self._schedule.now)
        work.ticket = ticket

    def wait(self, event: Event) -> None:
        queue = self.queue()
        ticket = event_of(event).capture(queue.host)
        work = Wait(queue, self._schedule.now)
        work.ticket = ticket
        work.event = str(event)

    def close(self) -> None:
        if self._own:
            self._queue.closed = True

    def queue(self) -> Queue:
        """Where to issue work.

        Raises:
            DeviceError: the device has failed.
            Misuse: the stream is closed.
        """
        self._queue.host.check()
        if self._queue.closed:
            raise self._schedule.fault(Misuse(f"work is issued to {self._queue}, which is closed"))
        return self._queue


def event_of(event: Event) -> SimulatedEvent:
    """The event, which has to be a simulated one."""
    if not isinstance(event, SimulatedEvent):
        raise TypeError(f"a simulated stream takes simulated events, not {event!r}")
    return event


def stream_of(stream: object) -> SimulatedStream:
    """The stream, which has to be a simulated one."""
    if not isinstance(stream, SimulatedStream):
        raise TypeError(f"a simulated device takes simulated streams, not {stream!r}")
    return stream


def handle_of(kind: str, number: int) -> bytes:
    """What a thing of the simulation is exported as."""
    return f"simulated {kind} {number}".encode().ljust(HANDLE_BYTES, b"\0")


def number_of(kind: str, handle: bytes) -> int:
    """Which thing was exported as that.

    Raises:
        DeviceError: none was.
    """
    head, _, number = handle.rstrip(b"\0").rpartition(b" ")
    if head != f"simulated {kind}".encode() or not number.isdigit() or len(handle) != HANDLE_BYTES:
        raise DeviceError(f"invalid argument: {handle[:32]!r} is no handle of simulated {kind}")
    return int(number)
