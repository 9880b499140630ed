"""What the processes of one host share: memory files and doorbells, made by one of them and handed to the others.

That one is the host's *steward*: the driver on its own host, the first actor of the graph on any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from async_adag.actor.wiring import Wiring
from async_adag.channels.memory import create_file
from async_adag.channels.ring import RingSpec, create_ring
from async_adag.gpu.acks import acks_size
from async_adag.gpu.ipc import slots_for
from async_adag.graph.plan import Channel


@dataclass(slots=True)
class HostFiles:
    """The descriptors of one host, until they are handed out. Owns them.

    Attributes:
        bells: the doorbells, by process.
        rings: the rings' memory files, by channel.
        pages: those by which both ends of a hand-over within a GPU keep its books, by channel.
    """

    bells: dict[int, int] = field(default_factory=dict)
    rings: dict[int, int] = field(default_factory=dict)
    pages: dict[int, int] = field(default_factory=dict)

    def make(self, processes: Iterable[int], channels: tuple[Channel, ...], specs: dict[int, RingSpec]) -> None:
        """Make what these processes need for the rings of ``specs``; what was made is there where this raises.

        Raises:
            OSError: a limit of this process is reached.
        """
        for process in processes:
            self.bells[process] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for number, spec in specs.items():
            self.rings[number] = create_ring(spec)
            if channels[number].gpu == "ipc":
                readers = len(channels[number].readers)
                size = acks_size(slots_for(spec.slots, readers), readers)
                self.pages[number] = create_file("async-adag-page", size)

    def of(self, wiring: Wiring) -> list[int]:
        """The descriptors of a process, in the order of its wiring; -1 for a channel that has no ring."""
        return [
            *(self.bells[process] for process in wiring.doorbells),
            *(self.rings.get(channel, -1) for channel in wiring.channels),
            *(self.pages[channel] for channel in wiring.pages),
        ]

    def duplicates_of(self, wiring: Wiring) -> list[int]:
        """As `of`, each the caller's own.

        Raises:
            OSError: no descriptor is left.
        """
        fds: list[int] = []
        try:
            fds.extend(os.dup(fd) if fd >= 0 else -1 for fd in self.of(wiring))  # as far as it gets
        except BaseException:
            close_all(fds)
            raise
        return fds

    def take(self, wiring: Wiring) -> list[int]:
        """As `of`; they are the caller's from here on, and no longer to be handed out."""
        fds = self.of(wiring)
        for process in wiring.doorbells:
            del self.bells[process]
        for channel in wiring.channels:
            self.rings.pop(channel, None)
        for channel in wiring.pages:
            del self.pages[channel]
        return fds

    def ring_all(self) -> None:
        """Ring every doorbell."""
        for fd in self.bells.values():
            try:
                os.eventfd_write(fd, 1)
            except OSError:
                pass

    def close(self) -> None:
        """Close what is left; again is harmless."""
        for some in (self.bells, self.rings, self.pages):
            close_all(some.values())
            some.clear()


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors, leaving out -1."""
    for fd in fds:
        if fd >= 0:
            os.close(fd)
