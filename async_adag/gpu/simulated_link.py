"""A link between two simulated processes: what one sends begins when the other receives, and takes its time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from weakref import WeakValueDictionary

from async_adag.gpu.interface import DeviceError, Span, Stream
from async_adag.gpu.simulated_clocks import Misuse
from async_adag.gpu.simulated_schedule import Schedule
from async_adag.gpu.simulated_streams import stream_of
from async_adag.gpu.simulated_work import Done, Host, Work

ABORTED = 0xEE  # what is full of it was received by something that was aborted


class Pairing:
    """The two ends of a link, whichever processes have them.

    Attributes:
        number: by which a pickled link finds it.
        schedule: of the simulation.
        latency: of each transfer, in seconds.
        bandwidth: in bytes per second.
        hosts: the process of each rank, once that is known.
        initialized: whether each rank was.
        destroyed: whether each rank was.
        queued: for each rank, what was issued and is not done, in order.
        free_at: when the last transfer was done.
    """

    def __init__(
        self, schedule: Schedule, latency: float, bandwidth: float, sender: Host | None, receiver: Host | None
    ) -> None:
        self.number = next(_numbers)
        self.schedule = schedule
        self.latency = latency
        self.bandwidth = bandwidth
        self.hosts = [sender, receiver]
        self.initialized = [False, False]
        self.destroyed = [False, False]
        self.queued: tuple[deque[Transfer], deque[Transfer]] = (deque(), deque())
        self.free_at = 0.0
        _pairings[self.number] = self

    def __str__(self) -> str:
        return f"link #{self.number}"

    def broken(self, rank: int) -> str | None:
        """Why a rank gets no further; None while it does."""
        for which in (rank, 1 - rank):
            host = self.hosts[which]
            if host is not None and not host.works:
                return f"rank {which}, {host.name}, " + ("has a failed device" if host.alive else "was killed")
        if self.destroyed[1 - rank] and self.queued[rank]:
            return f"rank {1 - rank} has destroyed it"
        return None


class Begin(Work):
    """A transfer takes its share of the device, as soon as it is next, and keeps it until it is done."""

    kind = "begin"
    transfer: Transfer

    def ready_at(self) -> float | None:
        transfer = self.transfer
        if transfer.aborted:
            return 0.0
        schedule = transfer.pairing.schedule
        full = schedule.transfers[self.queue.host.device] == schedule.transfers_at_once
        return None if full or transfer.pairing.queued[transfer.rank][0] is not transfer else 0.0

    def waits_for(self) -> str:
        return "other transfers, which hold the device, to end"

    def effect(self) -> None:
        if not self.transfer.aborted:
            self.transfer.hold(1)


class Transfer(Work):
    """One rank's part of a transfer. Those of a link are done one after the other, in the order of issue."""

    pairing: Pairing
    rank: int
    aborted = False
    holds = 0

    def hold(self, holds: int) -> None:
        """It holds a share of the device from now on, or does not."""
        self.pairing.schedule.transfers[self.queue.host.device] += holds - self.holds
        self.holds = holds

    def drop(self) -> None:
        super().drop()
        self.hold(0)
        queued = self.pairing.queued[self.rank]
        if self in queued:
            queued.remove(self)

    def ready_at(self) -> float | None:
        if self.aborted:
            return 0.0
        return None if self._other() is None else self.pairing.free_at

    def _other(self) -> Transfer | None:
        """The other rank's part, if both parts are next, on the link and on their streams."""
        mine, others = self.pairing.queued[self.rank], self.pairing.queued[1 - self.rank]
        if mine[0] is self and others and others[0].queue.items[0] is others[0]:
            return others[0]
        return None

    def waits_for(self) -> str:
        first = self.pairing.queued[self.rank][0]
        if first is not self:
            return f"{first.what} ({first.queue}), which is before it on {self.pairing}"
        peer = self.pairing.hosts[1 - self.rank]
        doing = "send" if self.rank else "receive"
        return f"{peer.name if peer else f'rank {1 - self.rank}'} to {doing} on {self.pairing}"

    def together(self) -> list[Work]:
        other = None if self.aborted else self._other()
        return [self] if other is None else [self, other]

    def complete(self, history: list[Done], begin: float, end: float) -> None:
        if self.aborted:
            self.leave(history, begin, end)
            for part in self.writes:
                part.view[:] = bytes([ABORTED]) * (part.end - part.begin)
            return
        other = self._other()
        assert other is not None
        sender, receiver = (other, self) if self.rank else (self, other)
        (source,), (to,) = sender.reads, receiver.writes
        if source.end - source.begin != to.end - to.begin:
            raise Misuse(
                f"{receiver.what} ({receiver.queue}) takes {to.end - to.begin} bytes where {sender.what} "
                f"({sender.queue}) sends {source.end - source.begin}"
            )
        self.pairing.free_at = end
        sender.leave(history, begin, end)
        # What has been received has been sent. A sender learns nothing of what the receiver did before.
        receiver.queue.clock.join(sender.queue.clock)
        receiver.leave(history, begin, end)
        to.view[:] = source.view


class SimulatedLink:
    """One end of a link, or none before it is initialized; pickled, another one, to be initialized by itself."""

    def __init__(self, pairing: Pairing) -> None:
        self._pairing = pairing
        self._rank: int | None = None

    def __reduce__(self) -> tuple[Callable[[int], SimulatedLink], tuple[int]]:
        return _link, (self._pairing.number,)

    def initialize(self, rank: int) -> None:
        """Take part as that rank. Does not wait for the other, as there is but one thread.

        Raises:
            DeviceError: there is such a rank already, or the other one cannot come.
        """
        pairing = self._pairing
        if rank not in (0, 1) or self._rank is not None or pairing.initialized[rank]:
            raise DeviceError(f"{pairing} has two ranks, 0 and 1, once each: not {rank} here and now")
        reason = pairing.broken(rank)
        if reason is not None or pairing.destroyed[1 - rank]:
            raise DeviceError(f"{pairing}: {reason or f'rank {1 - rank} has destroyed it'}")
        pairing.initialized[rank] = True
        self._rank = rank

    def group(self) -> AbstractContextManager[None]:
        """Nothing here: what is issued within is done one by one."""
        return nullcontext()

    def send(self, span: Span, stream: Stream) -> None:
        self._issue(0, span, stream)

    def receive(self, span: Span, stream: Stream) -> None:
        self._issue(1, span, stream)

    def _issue(self, rank: int, span: Span, stream: Stream) -> None:
        pairing = self._pairing
        schedule = pairing.schedule
        queue = stream_of(stream).queue()
        if self._rank is None or pairing.destroyed[self._rank]:
            raise DeviceError(f"{pairing} is not initialized, or was destroyed, at {queue.host.name}")
        if rank != self._rank:
            raise schedule.fault(Misuse(f"{pairing} goes from rank 0 to rank 1: rank {self._rank} cannot do that"))
        if pairing.hosts[rank] is None:
            pairing.hosts[rank] = queue.host
        if pairing.hosts[rank] is not queue.host:
            raise schedule.fault(
                Misuse(f"{pairing} is used by {queue.host.name} as rank {rank}, which is another's")
            )
        part = schedule.find(queue.host, span)
        seconds = pairing.latency + span.nbytes / pairing.bandwidth
        begin = None if schedule.transfers_at_once is None else Begin(queue, schedule.now)
        work = Transfer(
            queue, schedule.now, seconds=seconds, reads=[] if rank else [part], writes=[part] if rank else []
        )
        work.kind = "receive" if rank else "send"
        work.pairing = pairing
        work.rank = rank
        pairing.queued[rank].append(work)
        if begin is not None:
            begin.transfer = work

    def check(self) -> None:
        pairing = self._pairing
        if self._rank is None or pairing.destroyed[self._rank]:
            raise DeviceError(f"{pairing} is not initialized, or was destroyed")
        reason = pairing.broken(self._rank)
        if reason is not None:
            raise DeviceError(f"{pairing}: {reason}")

    def destroy(self) -> None:
        if self._rank is None or self._pairing.destroyed[self._rank]:
            return
        self._pairing.destroyed[self._rank] = True
        queued = self._pairing.queued[self._rank]
        for work in queued:
            work.aborted = True
            work.seconds = 0.0
        queued.clear()


_numbers = count()
_pairings: WeakValueDictionary[int, Pairing] = WeakValueDictionary()


def _link(number: int) -> SimulatedLink:
    pairing = _pairings.get(number)
    if pairing is None:
        raise DeviceError(f"the simulation of link #{number} is not in this Python process")
    return SimulatedLink(pairing)
