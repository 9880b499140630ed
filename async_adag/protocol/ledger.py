"""The ledger: which executions are in flight, and which of them each arriving frame belongs to.

A frame carries no name: every channel delivers exactly one frame per execution, in the order of admission.
So the ledger keeps one queue per output channel, and an execution is in flight from admission until each
of those queues has moved past it. Whether anybody still wants the result plays no part: a cancelled or
dropped execution is settled by its frames' arrival like any other.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Entry(Generic[T]):
    """One execution in flight: its number, what the driver keeps with it, and the frames still to come."""

    __slots__ = ("missing", "payload", "seq")

    def __init__(self, seq: int, payload: T, missing: int) -> None:
        self.seq = seq
        self.payload = payload
        self.missing = missing


class Ledger(Generic[T]):
    """Executions in flight over ``channels`` output channels, at most ``limit`` of them.

    Places are counted, not numbered: `reserve` takes one for a caller that has been told it may go on but has
    not sent yet, and `admit` turns a reservation into an execution.

    Attributes:
        admitted: executions so far.
        in_flight: executions whose frames have not all arrived.
        reserved: places kept.
        arrived: frames so far.
    """

    __slots__ = ("_limit", "_queues", "admitted", "arrived", "in_flight", "reserved")

    def __init__(self, channels: int, limit: int) -> None:
        self._queues: list[deque[Entry[T]]] = [deque() for _ in range(channels)]
        self._limit = limit
        self.admitted = 0
        self.in_flight = 0
        self.reserved = 0
        self.arrived = 0

    def has_place(self) -> bool:
        """Whether one more execution may be admitted, beside the reservations."""
        return self.in_flight + self.reserved < self._limit

    def reserve(self) -> None:
        """Keep a place for somebody who is about to send."""
        self.reserved += 1

    def release(self) -> None:
        """Give a reservation back unused."""
        self.reserved -= 1

    def admit(self, payload: T) -> Entry[T]:
        """Turn a reservation into the next execution."""
        self.reserved -= 1
        entry = Entry(self.admitted, payload, len(self._queues))
        self.admitted += 1
        if self._queues:  # else nothing of it will arrive
            self.in_flight += 1
        for queue in self._queues:
            queue.append(entry)
        return entry

    def taken(self, channel: int) -> int:
        """How many frames of ``channel`` have arrived, or will not arrive any more."""
        return self.admitted - len(self._queues[channel])

    def first(self, channel: int) -> Entry[T]:
        """The execution that the next frame of ``channel`` belongs to.

        Raises:
            IndexError: no execution waits for one.
        """
        return self._queues[channel][0]

    def arrive(self, channel: int) -> Entry[T]:
        """Note that the next frame of ``channel`` has arrived; the execution that it belongs to.

        Raises:
            IndexError: a frame arrived that no execution waits for.
        """
        queue = self._queues[channel]
        entry = queue[0]
        self.arrived += 1
        entry.missing -= 1
        if entry.missing == 0:
            self.in_flight -= 1
        queue.popleft()  # last: what is raised before leaves the frame to be noticed as missing
        return entry

    def incomplete(self) -> list[int]:
        """The channels of which some execution's frame has not arrived."""
        return [channel for channel, queue in enumerate(self._queues) if queue]

    def pending(self) -> list[tuple[Entry[T], list[int]]]:
        """Each execution in flight, oldest first, with the channels whose frames have not arrived."""
        waiting: dict[int, tuple[Entry[T], list[int]]] = {}
        for channel, queue in enumerate(self._queues):
            for entry in queue:
                waiting.setdefault(entry.seq, (entry, []))[1].append(channel)
        return [waiting[seq] for seq in sorted(waiting)]

    def abandon(self) -> list[tuple[Entry[T], list[int]]]:
        """Settle all that is in flight, as nothing will arrive any more; returns what `pending` would."""
        rest = self.pending()
        for queue in self._queues:
            queue.clear()
        self.in_flight = 0
        return rest
