"""Streams and events of the simulated device."""

from __future__ import annotations

from async_adag.gpu.interface import DeviceError, Event
from async_adag.gpu.simulated_clocks import Deadlock, Misuse
from async_adag.gpu.simulated_schedule import Schedule
from async_adag.gpu.simulated_work import Capture, Host, Queue, Record, Ticket, Wait

HANDLE_BYTES = 64


class Recordings:
    """An event, whichever processes have it.

    Attributes:
        number: which of the simulation's.
        owner: the process that made it.
        shared: whether it may be exported.
        tickets: its recordings, in the order in which they were issued; without those that every process knows to
            be followed by another.
        waits: what was issued and waits for it, or will.
        closed: whether its owner has let go of it.
    """

    def __init__(self, number: int, owner: Host, shared: bool) -> None:
        self.number = number
        self.owner = owner
        self.shared = shared
        self.tickets: list[Ticket] = []
        self.waits: set[Wait] = set()
        self.closed = False

    def __str__(self) -> str:
        return f"event #{self.number} of {self.owner.name}"

    def capture(self, host: Host) -> Capture:
        """What that process waits for if it waits for this now."""
        if not self.tickets:
            return Capture(None, (None,))
        known = [at for at, ticket in enumerate(self.tickets) if host.clock.knows(ticket.step)]
        unknown = [ticket for ticket in self.tickets if not host.clock.knows(ticket.step)]
        return Capture(self.tickets[-1], (self.tickets[known[-1]] if known else None, *unknown))

    def add(self, ticket: Ticket, hosts: list[Host]) -> None:
        """It is recorded; ``hosts`` are all processes that may ever wait for it."""
        self.tickets.append(ticket)
        for at in range(len(self.tickets) - 1, 0, -1):
            if all(host.clock.knows(self.tickets[at].step) for host in hosts):
                del self.tickets[:at]
                break


class SimulatedEvent:
    """An event, in a process that made or opened it."""

    def __init__(self, schedule: Schedule, host: Host, recordings: Recordings) -> None:
        self._schedule = schedule
        self._host = host
        self._closed = False
        self.recordings = recordings

    def usable(self, host: Host, doing: str) -> Recordings:
        """What it refers to.

        Raises:
            Misuse: it is closed, here or where it was made, or of another process.
        """
        recordings = self.recordings
        if host is not self._host:
            raise self._schedule.fault(Misuse(f"{host.name} {doing} {recordings} as {self._host.name} has it"))
        if self._closed or recordings.closed:
            who = self._host.name if self._closed else recordings.owner.name
            raise self._schedule.fault(Misuse(f"{host.name} {doing} {recordings}, which {who} has closed"))
        return recordings

    def query(self) -> bool:
        self._host.check()
        capture = self.usable(self._host, "queries").capture(self._host)
        if capture.passed_at is None:
            return False
        self._host.clock.join(capture.proves())
        return True

    def synchronize(self) -> None:
        """Steps the simulation until the device has passed it.

        Raises:
            DeviceError: the device has failed.
            Deadlock: it will never be passed.
        """
        self._host.check()
        recordings = self.usable(self._host, "synchronizes with")
        capture = recordings.capture(self._host)
        while capture.passed_at is None:
            if not self._schedule.step():
                waiting = "; ".join(self._schedule.waiting())
                raise Deadlock(f"{self._host.name} waits for {recordings}, and nothing can go on: {waiting}")
            self._host.check()
        self._host.clock.join(capture.proves())

    def export(self) -> bytes:
        self._host.check()
        recordings = self.usable(self._host, "exports")
        if not recordings.shared or recordings.owner is not self._host:
            raise self._schedule.fault(
                Misuse(f"{self._host.name} exports {recordings}, which is not its to share")
            )
        return handle_of("event", recordings.number)

    def close(self) -> None:
        if self._closed or not self._host.alive:
            return
        self._closed = True
        recordings = self.recordings
        if recordings.owner is self._host:
            recordings.closed = True
            for wait in recordings.waits:
                host = wait.queue.host
                if host is not self._host and not wait.done:
                    raise self._schedule.fault(
                        Misuse(
                            f"{self._host.name} closes {recordings}, which {wait.what} ({wait.queue}) waits for"
                        )
                    )

    @property
    def closed(self) -> bool:
        """Whether this process has let go of it, or has ended."""
        return self._closed or not self._host.alive


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
        recordings = event_of(event).usable(queue.host, "records")
        work = Record(queue, self._schedule.now)
        work.ticket = Ticket(work.step)
        recordings.add(work.ticket, self._schedule.hosts if recordings.shared else [queue.host])

    def wait(self, event: Event) -> None:
        queue = self.queue()
        recordings = event_of(event).usable(queue.host, "waits for")
        capture = recordings.capture(queue.host)
        work = Wait(queue, self._schedule.now)
        work.capture = capture
        work.event = str(recordings)
        recordings.waits = {wait for wait in recordings.waits if not wait.done} | {work}

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
