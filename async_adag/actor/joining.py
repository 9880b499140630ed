"""Joining: how an actor comes into a graph: its connection to the driver, its control page, its channel ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from async_adag.actor.control import Control, control_size
from async_adag.actor.host_files import close_all
from async_adag.actor.lodging import lodge
from async_adag.actor.reach import meet_edges, reach_driver
from async_adag.actor.remote_driver import RemoteDriver
from async_adag.actor.share import Share
from async_adag.actor.wiring import Endpoints, connect_ends
from async_adag.channels.attendant import Attendant
from async_adag.channels.gate import Gate
from async_adag.channels.limits import EXHAUSTED
from async_adag.channels.memory import create_file, is_sealed
from async_adag.channels.network import Network
from async_adag.channels.pollers import Board, board_size
from async_adag.channels.processes import peer_pidfd
from async_adag.channels.rendezvous import Address, HungUp, RendezvousError, meet, send_text

GOODBYE = "goodbye"
LOST = "lost "
"""How the text begins that tells of an edge which is of no use any more: its channel, and why, in words."""
GRACE = 1.0  # seconds until it is told


@dataclass(slots=True)
class Joined:
    """What an actor has that has joined a graph. Owns all of it.

    Attributes:
        connection: to the driver; a socket of this host, also where the driver is on another.
        pidfd: the driver's; -1 where that is on another host.
        control: the control page.
        ends: the channel ends.
        attendant: looks after what goes to other hosts; None where nothing does.
        board: who of the graph's processes polls; None where this one is not to learn when.
    """

    connection: socket.socket
    pidfd: int
    control: Control
    ends: Endpoints
    attendant: Attendant | None
    board: Board | None = None

    def sentinels(self) -> list[int]:
        """Descriptors that become readable when the driver is gone."""
        return [fd for fd in (self.pidfd, self.connection.fileno()) if fd >= 0]

    def leave(self, broken: str) -> None:
        """The last thing a loop does, which has closed the ends: tell the driver, and let go of the rest.

        Args:
            broken: what broke the loop, or "".
        """
        if self.pidfd >= 0:
            os.close(self.pidfd)
        send_text(self.connection, broken or GOODBYE)
        self.connection.close()
        if self.attendant is not None:
            self.attendant.finish()

    def close(self) -> None:
        """Let go of all but the ends, without a word."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.connection.close()
        if self.attendant is not None:
            self.attendant.finish()


def join(told: Share, address: Address, deadline: float) -> Joined:
    """Meet the driver, and whoever else there is to be met.

    Args:
        told: what the driver has told this actor.
        address: where the driver listens on its own host.
        deadline: `time.monotonic`.

    Raises:
        HungUp: there is nobody to work for any more. `NobodyThere`: not to be seen from this process.
        RendezvousError: the driver handed out something else than the plan says.
        OSError: this process has reached a limit.
    """
    with ExitStack() as undo:
        attendant: Attendant | None = None
        gate: Gate | None = None
        if told.reach is not None:
            attendant = Attendant(f"async_adag {told.plan.name}, network")
            attendant.start()
            undo.callback(attendant.finish)
            gate = told.reach.open_gate()
            undo.callback(gate.close)
        remote: RemoteDriver | None = None
        pidfd = -1
        board: Board | None = None
        if told.lodging is None:
            connection, fds = meet(address, told.plan.actor, 2 + told.wiring.count(), _left(deadline))
            undo.callback(connection.close)
            undo.callback(close_all, fds)
            connection.setblocking(False)
            pidfd = _driver_pidfd(connection)
            undo.callback(os.close, pidfd)
            control = _control(fds[0], told)
            os.close(fds.pop(0))
            board = _board(fds[0], told)
            os.close(fds.pop(0))
        else:
            assert told.reach is not None
            assert attendant is not None
            assert gate is not None
            stream = reach_driver(gate, told.reach, told.plan.actor, deadline)
            remote = RemoteDriver(stream, attendant, told.reach.heartbeat)
            connection = remote.connection
            undo.callback(connection.close)
            fds = lodge(told.lodging, told.wiring, told.channels, connection, deadline)
            undo.callback(close_all, fds)
            control = _own_page(told)
        network, streams = None, {}
        if gate is not None:
            if told.wiring.outgoing or told.wiring.incoming:
                assert told.reach is not None
                assert attendant is not None
                streams = meet_edges(gate, told.wiring, connection, deadline)
                network = Network(attendant, told.reach.heartbeat)
                report_losses(network, partial(send_text, connection))
            gate.close()
        handed, fds[:] = fds.copy(), []  # the ends' from here on
        away = remote is not None
        ends = connect_ends(told.wiring, handed, told.channels, told.specs, {}, network, streams, gauged=away)
        if remote is not None:
            remote.serve(control, ends.doorbell, ends.gauges)
        undo.pop_all()
    return Joined(connection, pidfd, control, ends, attendant, board if told.reach is None else None)


def report_losses(network: Network, tell: Callable[[str], None]) -> None:
    """Have the driver told of edges that are lost, after `GRACE`: of deaths it learns by itself, and more."""

    def on_lost(channel: int, words: str) -> None:
        network.attendant.after(GRACE, lambda: tell(f"{LOST}{channel} {words}"))

    network.on_lost = on_lost


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _driver_pidfd(connection: socket.socket) -> int:
    try:
        return peer_pidfd(connection)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise HungUp(f"the graph's driver is gone: {error}") from error


def _control(fd: int, told: Share) -> Control:
    """The control page behind ``fd``."""
    if not is_sealed(fd) or os.fstat(fd).st_size < control_size(told.plan):
        raise RendezvousError("a descriptor that should be a control page is not")
    return Control(fd, told.plan)


def _board(fd: int, told: Share) -> Board:
    """The board behind ``fd``."""
    if not is_sealed(fd) or os.fstat(fd).st_size < board_size(told.processes):
        raise RendezvousError("a descriptor that should be a board is not")
    return Board(fd, told.processes, told.plan.actor + 1)


def _own_page(told: Share) -> Control:
    """A control page that no other process sees; the driver is told of it."""
    fd = create_file("async-adag-control", control_size(told.plan))
    try:
        return Control(fd, told.plan)
    finally:
        os.close(fd)
