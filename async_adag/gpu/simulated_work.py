"""What is issued to the simulated device: processes, their streams, and the pieces of work in these."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from async_adag.gpu.interface import DeviceError
from async_adag.gpu.simulated_clocks import Access, Clock, Epoch, Misuse
from async_adag.gpu.simulated_memory import Addresses, AddressSpace, Part

Transform = Callable[[list[memoryview], list[memoryview]], None]


class Host:
    """A process, as far as order and failures go.

    Attributes:
        number: of its steps, in clocks.
        name: what it is called.
        device: the number of its device.
        space: what it sees of the memory of that.
        clock: what its code knows to have happened.
        alive: whether it has not been killed.
        failure: the error of the device in this process, after which nothing is done there any more.
    """

    def __init__(self, number: int, name: str, device: int, addresses: Addresses) -> None:
        self.number = number
        self.name = name
        self.device = device
        self.space = AddressSpace(name, addresses)
        self.clock = Clock()
        self.alive = True
        self.failure: str | None = None

    @property
    def works(self) -> bool:
        """Whether its streams go on."""
        return self.alive and self.failure is None

    def check(self) -> None:
        """Raises DeviceError if the device has failed, RuntimeError if the process was killed."""
        if not self.alive:
            raise RuntimeError(f"{self.name} was killed: nothing can run in it")
        if self.failure is not None:
            raise DeviceError(f"{self.name}: {self.failure}")


class Queue:
    """A stream: what was issued to it and is not done yet.

    Attributes:
        number: of its steps, in clocks.
        handle: what libraries know it by.
        host: whose it is.
        name: which of that one's.
        items: what is to be done, the next first.
        clock: what has happened before whatever it does next.
        free_at: when it did the last thing.
        issued: how many pieces of work were issued to it.
        closed: whether its owner has let go of it.
        let_go: whether a host has let it go on without what it waited for: it may use what it likes.
    """

    def __init__(self, number: int, handle: int, host: Host, name: str) -> None:
        self.number = number
        self.handle = handle
        self.host = host
        self.name = name
        self.items: deque[Work] = deque()
        self.clock = Clock()
        self.free_at = 0.0
        self.issued = 0
        self.closed = False
        self.let_go = False

    def clear(self) -> None:
        """What is not done will never be."""
        for work in self.items:
            work.drop()
        self.items.clear()

    def __str__(self) -> str:
        return f"{self.name} of {self.host.name}"


class Work:
    """A piece of work of a stream.

    Attributes:
        kind: "copy", "kernel", "record", "wait", "store", "await", "notify", "send" or "receive".
        queue: its stream.
        number: which of the stream's it is, from 0.
        seconds: how long it takes.
        reads: what it reads.
        writes: what it writes.
        clock: what its issuer knew.
        step: the step of its issuer.
        issued_at: when it was issued.
        failure: what the device says when it gets to it.
        done: whether it is, or never will be.
    """

    kind: str = "work"

    def __init__(
        self,
        queue: Queue,
        now: float,
        *,
        what: str = "",
        seconds: float = 0.0,
        reads: Sequence[Part] = (),
        writes: Sequence[Part] = (),
    ) -> None:
        host = queue.host
        self.queue = queue
        self.number = queue.issued
        self.seconds = seconds
        self.reads = reads
        self.writes = writes
        self.step: Epoch = host.clock.tick(host.number)
        self.clock = host.clock.copy()
        self.issued_at = now
        self.failure: str | None = None
        self.done = False
        self.disturbed = False
        self._what = what
        queue.issued += 1
        queue.items.append(self)
        for part in (*reads, *writes):
            part.allocation.pending[self] = host.number

    @property
    def what(self) -> str:
        """What it is, for people."""
        return f"{self._what or self.kind} #{self.number}"

    @property
    def process(self) -> str:
        """The name of the process that issued it."""
        return self.queue.host.name

    def ready_at(self) -> float | None:
        """When it can begin, as far as others go; None while that is not known. It is the first of its stream."""
        return 0.0

    def waits_for(self) -> str:
        """What it waits for, for people."""
        return "nothing"

    def together(self) -> list[Work]:
        """It, and what begins and ends with it."""
        return [self]

    def complete(self, history: list[Done], begin: float, end: float) -> None:
        """Do it.

        Raises:
            Race: it uses memory that it must not.
        """
        self.leave(history, begin, end)
        self.effect()

    def leave(self, history: list[Done], begin: float, end: float) -> None:
        """Take it from its stream, as something that is done."""
        queue = self.queue
        queue.items.popleft()
        queue.free_at = end
        queue.clock.join(self.clock)
        epoch = queue.clock.tick(queue.number)
        self.drop()
        history.append(Done(self.kind, self.what, queue.name, self.process, begin, end))
        access = Access(self.what, str(queue), end, epoch)
        for part in self.reads:
            part.read(access, None if queue.let_go else queue.clock)
        for part in self.writes:
            part.write(access, None if queue.let_go else queue.clock)

    def effect(self) -> None:
        """What it does, but for its accesses of memory."""

    def drop(self) -> None:
        """It is done, or never will be, and uses no memory any more."""
        self.done = True
        for part in (*self.reads, *self.writes):
            part.allocation.pending.pop(self, None)


class Done(NamedTuple):
    """A piece of work that was done.

    Attributes:
        kind: see `Work`.
        what: which it was, for people.
        stream: the name of its stream, in its process.
        process: the name of that.
        begin: when it began, in seconds of virtual time.
        end: when it was done.
    """

    kind: str
    what: str
    stream: str
    process: str
    begin: float
    end: float


class Copy(Work):
    """Bytes from one place to another."""

    kind = "copy"

    def effect(self) -> None:
        (source,), (to,) = self.reads, self.writes
        to.view[:] = source.view


class Kernel(Work):
    """Whatever a test or a model of a library computes."""

    kind = "kernel"
    transform: Transform | None = None

    def effect(self) -> None:
        if self.transform is not None:
            self.transform([part.view for part in self.reads], [part.view for part in self.writes])


class Ticket:
    """One recording of an event.

    Attributes:
        done_at: when the device passed it; None before that.
        clock: what had happened before that.
    """

    def __init__(self) -> None:
        self.done_at: float | None = None
        self.clock = Clock()


class Record(Work):
    """Whoever waits for this may go on."""

    kind = "record"
    ticket: Ticket

    def effect(self) -> None:
        self.ticket.done_at = self.queue.free_at
        self.ticket.clock = self.queue.clock.copy()


class Wait(Work):
    """What comes behind it waits for an event."""

    kind = "wait"
    ticket: Ticket
    event: str

    def ready_at(self) -> float | None:
        return self.ticket.done_at

    def waits_for(self) -> str:
        return self.event

    def effect(self) -> None:
        self.queue.clock.join(self.ticket.clock)


class Notify(Work):
    """An eventfd is told."""

    kind = "notify"
    fd: int
    told: Callable[[Clock], None]

    def effect(self) -> None:
        try:
            os.eventfd_write(self.fd, 1)
        except OSError as error:
            raise Misuse(
                f"{self.what} ({self.queue}): the descriptor {self.fd} is no open eventfd: {error}"
            ) from None
        self.told(self.queue.clock.copy())
