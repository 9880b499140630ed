"""Lodging: how actors on another host than the driver's get what the processes of one host share.

The first of them is the host's steward: it makes the memory files and doorbells, and hands them to the others, as
the driver does on its own host. The driver tells the others when the steward is there.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass, field

from async_adag.actor.host_files import HostFiles
from async_adag.actor.wiring import Wiring
from async_adag.channels.reception import Reception
from async_adag.channels.rendezvous import Address, HungUp, meet, receive_text, send_fds, send_text
from async_adag.channels.ring import RingSpec
from async_adag.graph.plan import Channel

HOSTING = "hosting"
"""What a steward says when the others may knock."""
KNOCK = "knock"
"""What the driver tells these then."""


@dataclass(frozen=True, slots=True)
class Lodging:
    """What an actor on another host than the driver's is told of its own. Secret, as an `Address` is.

    Attributes:
        address: where the steward hands out descriptors.
        guests: of the steward, the wirings of the others; None for these.
        specs: of the steward, the rings of this host, by channel.
    """

    address: Address
    guests: tuple[Wiring, ...] | None = None
    specs: dict[int, RingSpec] = field(default_factory=dict)


def lodge(
    lodging: Lodging, wiring: Wiring, channels: tuple[Channel, ...], connection: socket.socket, deadline: float
) -> list[int]:
    """The descriptors of this process, in the order of its wiring.

    Args:
        lodging: what it was told.
        wiring: its own.
        channels: the plan's channels.
        connection: to the driver, which does not block.
        deadline: `time.monotonic`.

    Raises:
        NobodyThere: the steward is on this node, and cannot be reached from this process.
        HungUp: the driver has hung up, or somebody did not come before the deadline.
        OSError: a limit of this process is reached.
    """
    if lodging.guests is None:
        _await_text(connection, KNOCK, deadline)
        theirs, fds = meet(lodging.address, wiring.process, wiring.count(), max(0.0, deadline - time.monotonic()))
        theirs.close()
        return fds
    files = HostFiles()
    try:
        files.make((wiring.process, *(w.process for w in lodging.guests)), channels, lodging.specs)
        if lodging.guests:
            _hand_out(files, lodging, connection, deadline)
        return files.take(wiring)
    finally:
        files.close()


def _hand_out(files: HostFiles, lodging: Lodging, connection: socket.socket, deadline: float) -> None:
    assert lodging.guests is not None
    missing = {wiring.process: wiring for wiring in lodging.guests}
    with select.epoll() as epoll:
        reception = Reception(epoll, lodging.address)
        try:
            epoll.register(connection.fileno(), select.EPOLLIN)
            send_text(connection, HOSTING)
            while missing:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise HungUp(f"actors {sorted(missing)} of this host did not come in time")
                for fd, _ in epoll.poll(min(left, 1.0)):
                    if fd == connection.fileno():
                        _check_silent(connection)
                    elif reception.handles(fd):
                        arrived = reception.hear(fd)
                        if arrived is not None:
                            _serve(files, missing, *arrived, left)
        finally:
            reception.close()


def _serve(
    files: HostFiles, missing: dict[int, Wiring], number: int, guest: socket.socket, timeout: float
) -> None:
    with guest:
        wiring = missing.get(number)
        if wiring is None:
            return
        try:
            send_fds(guest, files.of(wiring), timeout)
        except ConnectionError:
            return  # it has died, or comes again
        del missing[number]


def _check_silent(connection: socket.socket) -> None:
    text = receive_text(connection)
    if text is not None:
        raise HungUp(text or "the graph's driver hung up")


def _await_text(connection: socket.socket, wanted: str, deadline: float) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise HungUp(f"the graph's driver did not say {wanted!r} in time")
        if poll.poll(min(left, 1.0) * 1000):
            text = receive_text(connection)
            if text == wanted:
                return
            if text is not None:
                raise HungUp(text or "the graph's driver hung up")
