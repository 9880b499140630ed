"""Wiring: which descriptors each process of a graph is handed, and the channel ends it makes of them.

Both sides of the rendezvous derive the same list from the plan, so that only descriptors travel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from async_adag.channels.direct import Direct, DirectReader, DirectWriter
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.gauge import Gauge, RingGauge
from async_adag.channels.interface import Reader, Writer
from async_adag.channels.landed import LandedReader
from async_adag.channels.memory import Mapping, is_sealed
from async_adag.channels.network import Network
from async_adag.channels.rendezvous import RendezvousError
from async_adag.channels.ring import RingReader, RingSpec, RingWriter
from async_adag.channels.stream import Stream
from async_adag.graph.plan import Channel


def ring_spec(channel: Channel, slots: int, keep: int) -> RingSpec:
    """The ring of a channel."""
    return RingSpec(slots, len(channel.readers), keep)


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one process holds.

    Attributes:
        process: its number.
        doorbells: of these processes, its own first.
        channels: an end of the ring of each of these.
        pages: the pages of these channels, by which both ends of a hand-over within a GPU keep its books.
        outgoing: it writes these to another host; no descriptor is handed out for it.
        incoming: of ``channels``, those whose frames it receives from another host, for all readers.
    """

    process: int
    doorbells: tuple[int, ...]
    channels: tuple[int, ...]
    pages: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()
    incoming: tuple[int, ...] = ()

    def count(self) -> int:
        """How many descriptors that is."""
        return len(self.doorbells) + len(self.channels) + len(self.pages)


def wire(channels: tuple[Channel, ...], process: int) -> Wiring:
    """The wiring of ``process``."""
    mine = [c for c in channels if process == c.filler or process in c.readers]
    peers = {peer for c in mine for peer in ((*c.readers,) if c.filler == process else (c.filler,))}
    return Wiring(
        process,
        (process, *sorted(peers - {process})),
        tuple(c.number for c in mine),
        tuple(c.number for c in mine if c.gpu == "ipc"),
        tuple(c.number for c in channels if c.remote and c.writer == process),
        tuple(c.number for c in mine if c.remote and c.filler == process),
    )


@dataclass(slots=True)
class Endpoints:
    """The channel ends of one process. Owns them, the doorbells and the network.

    ``edges`` are the channels in words; ``pages`` those of hand-overs within a GPU, by channel; ``gauges`` are of
    the rings that this process fills, where somebody asked for them; ``network`` has the connections with other
    hosts, where there are any.
    """

    doorbell: Doorbell
    readers: dict[int, Reader] = field(default_factory=dict)
    writers: dict[int, Writer] = field(default_factory=dict)
    bells: list[Doorbell] = field(default_factory=list)
    edges: dict[int, str] = field(default_factory=dict)
    pages: dict[int, Mapping] = field(default_factory=dict)
    gauges: dict[int, Gauge] = field(default_factory=dict)
    network: Network | None = None

    def close(self) -> None:
        """Let go of everything but what values still lease."""
        for reader in self.readers.values():
            reader.close()
        for writer in self.writers.values():
            writer.close()
        if self.network is not None:
            self.network.close(wait=False)
        self._let_go()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        for reader in self.readers.values():
            reader.leave_to_parent()
        for writer in self.writers.values():
            writer.leave_to_parent()
        if self.network is not None:
            self.network.leave_to_parent()
        self._let_go()

    def _let_go(self) -> None:
        self.readers.clear()
        self.writers.clear()
        self.pages.clear()
        self.gauges.clear()
        for bell in self.bells:
            bell.close()


def connect_ends(
    wiring: Wiring,
    fds: list[int],
    channels: tuple[Channel, ...],
    specs: dict[int, RingSpec],
    directs: dict[int, Direct],
    network: Network | None = None,
    streams: dict[int, Stream] | None = None,
    *,
    gauged: bool = False,
) -> Endpoints:
    """Make the channel ends of a process from its descriptors, which become theirs.

    Args:
        wiring: what the process holds.
        fds: its descriptors, in the order of `wire`: doorbells, the rings' memory files, the pages.
        channels: the plan's channels.
        specs: the rings, by channel.
        directs: the hand-overs, by channel; such a channel has no descriptor (-1 in ``fds``).
        network: of this process; becomes the ends' own. Needed where it has edges with other hosts.
        streams: the connections of those edges, by channel; become the network's.
        gauged: whether to make `Endpoints.gauges`.

    Raises:
        RendezvousError: a descriptor is not what it should be.
        OSError: memory cannot be mapped.
    """
    bells = dict(zip(wiring.doorbells, map(Doorbell, fds), strict=False))
    ends = Endpoints(bells[wiring.process], bells=list(bells.values()), network=network)
    streams = {} if streams is None else streams
    files = fds[len(bells) : len(bells) + len(wiring.channels)]
    pages = fds[len(bells) + len(files) :]
    made = 0
    try:
        if not all(bell.is_one() for bell in bells.values()):
            raise RendezvousError("a descriptor that should be a doorbell is not")
        for number, fd in zip(wiring.pages, pages, strict=True):
            if not is_sealed(fd):
                raise RendezvousError("a descriptor that should be a page is not")
            ends.pages[number] = Mapping(fd, 0, os.fstat(fd).st_size)
        for made, (number, fd) in enumerate(zip(wiring.channels, files, strict=True)):  # noqa: B007
            channel = channels[number]
            ends.edges[number] = channel.edge
            if number in directs:
                direct = directs[number]
                if channel.writer == wiring.process:
                    ends.writers[number] = DirectWriter(direct)
                else:
                    ends.readers[number] = DirectReader(direct, channel.readers.index(wiring.process))
                continue
            spec = specs[number]
            if not is_sealed(fd) or os.fstat(fd).st_size < spec.size():
                raise RendezvousError("a descriptor that should be a sealed memory file is not")
            if gauged and channel.filler == wiring.process:
                ends.gauges[number] = RingGauge(spec, fd)
            if number in wiring.incoming:
                ends.readers[number] = _land(channel, spec, fd, bells, ends, streams.pop(number))
            elif channel.writer == wiring.process:
                ends.writers[number] = RingWriter(spec, fd, [bells[reader] for reader in channel.readers])
            else:
                ends.readers[number] = RingReader(
                    spec, fd, channel.readers.index(wiring.process), bells[channel.filler]
                )
        made = len(files)
        for number in wiring.outgoing:
            assert network is not None
            ends.edges[number] = channels[number].edge
            ends.writers[number] = network.add_writer(number, streams.pop(number), specs[number].slots)
    except BaseException:
        ends.close()
        _close_all(files[made:])
        for stream in streams.values():
            stream.close()
        raise
    finally:
        _close_all(pages)
    return ends


def _land(
    channel: Channel, spec: RingSpec, fd: int, bells: dict[int, Doorbell], ends: Endpoints, stream: Stream
) -> LandedReader:
    """The reading end of a process that receives a channel's frames for all readers on its host."""
    assert ends.network is not None
    own = channel.readers.index(channel.filler)
    duplicate = os.dup(fd)
    try:
        ring = RingWriter(spec, duplicate, [bells[reader] for reader in channel.readers])
    except BaseException:
        os.close(duplicate)
        raise
    shared = len(channel.readers) > 1
    landing = ends.network.add_landing(
        channel.number, stream, ring, own=own, shared=shared, doorbell=ends.doorbell
    )
    return LandedReader(spec, fd, own, ends.doorbell, landing)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
