"""Installs an actor's share of a graph: runs in the actor, called by the driver through Ray."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from async_adag._version import __version__
from async_adag.actor.async_loop import AsyncLoop
from async_adag.actor.communicators import Communicators
from async_adag.actor.control import Control, control_size
from async_adag.actor.loop import ThreadLoop
from async_adag.actor.moved import ByCommunicator, Movers
from async_adag.actor.ray_runtime import actor_event_loop, end_actor
from async_adag.actor.turn import Turn
from async_adag.actor.wiring import Endpoints, Wiring, connect_ends
from async_adag.channels.limits import EXHAUSTED, explain
from async_adag.channels.memory import is_sealed
from async_adag.channels.pollers import Board, Poller, board_size, make_poller
from async_adag.channels.processes import peer_pidfd
from async_adag.channels.rendezvous import (
    Address,
    HungUp,
    RendezvousError,
    meet,
    send_text,
)
from async_adag.channels.ring import RingSpec
from async_adag.graph.plan import ActorPlan, Channel, Membership

READY = "ready"
GOODBYE = "goodbye"

# A process holds one actor, whose methods take turns, whatever graph calls them.
_turn = Turn()


@dataclass(frozen=True, slots=True)
class Share:
    """What an actor is told: its plan, and how its channel ends are made.

    Attributes:
        plan: what it does.
        wiring: which descriptors it is handed, after those of its control page and of the board.
        channels: all channels of the graph.
        specs: the rings, by channel.
        limit: executions that may be in flight, and that an async actor may interleave.
        processes: of the graph, the driver among them.
        poll_ns: how long a wait polls before it parks, in nanoseconds; None where that is to be learned.
        links: of channels between two GPUs, by channel, to each reader; of a reader, the one to it.
        overlap: whether tensors travel from GPU to GPU while methods compute.
    """

    plan: ActorPlan
    wiring: Wiring
    channels: tuple[Channel, ...]
    specs: dict[int, RingSpec]
    limit: int
    processes: int
    poll_ns: int | None
    links: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    overlap: bool = True


def install(
    instance: object, version: str, address: Address, number: int, share: bytes, timeout: float
) -> str | None:
    """Run in the actor: meet the driver, take the descriptors, start the loop.

    Args:
        instance: the actor.
        version: the driver's version of this package.
        address: where the driver listens.
        number: the actor's number in the graph.
        share: the pickled `Share`.
        timeout: seconds to wait for the driver.

    Returns:
        None; or why there is nobody to work for, such as a driver that has stopped waiting for this actor.

    Raises:
        RuntimeError: this process has another version of the package than the driver.
        AttributeError: the actor lacks a method of the graph.
        RendezvousError: the driver handed out something else than the plan says.
        OSError: this process has reached a limit; says which.
    """
    check_version(version)
    told: Share = pickle.loads(share)
    try:
        connection, fds = meet(address, number, 2 + told.wiring.count(), timeout)
        _join(instance, told, connection, fds)
    except HungUp as error:
        return str(error)  # no exception: nobody is there to take it, and Ray would log it
    except OSError as error:
        raise OSError(error.errno, explain(error)) from error
    send_text(connection, READY)
    return None


def _join(instance: object, told: Share, connection: socket.socket, fds: list[int]) -> None:
    pidfd = -1
    try:
        try:
            connection.setblocking(False)
            pidfd = _driver_pidfd(connection)
            control = _control(fds[0], told.plan)
            board = _board(fds[1], told)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        os.close(fds[0])
        os.close(fds[1])
        ends = connect_ends(told.wiring, fds[2:], told.channels, told.specs, {})
        goodbye = _Goodbye(connection, pidfd)
        poller = make_poller(told.poll_ns, board, control.is_alone, may_move=True)
        _start_loop(instance, told, ends, control, poller, [pidfd, connection.fileno()], goodbye)
    except BaseException:
        connection.close()
        if pidfd >= 0:
            os.close(pidfd)
        raise


def _driver_pidfd(connection: socket.socket) -> int:
    try:
        return peer_pidfd(connection)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise HungUp(f"the graph's driver is gone: {error}") from error


def _control(fd: int, plan: ActorPlan) -> Control:
    """The control page behind ``fd``."""
    if not is_sealed(fd) or os.fstat(fd).st_size < control_size(plan):
        raise RendezvousError("a descriptor that should be a control page is not")
    return Control(fd, plan)


def _board(fd: int, told: Share) -> Board:
    """The board behind ``fd``."""
    if not is_sealed(fd) or os.fstat(fd).st_size < board_size(told.processes):
        raise RendezvousError("a descriptor that should be a board is not")
    return Board(fd, told.processes, told.plan.actor + 1)


def check_version(version: str) -> None:
    """Refuse to run beside another version of this package.

    Raises:
        RuntimeError: says which is where, and what to do.
    """
    if version != __version__:
        raise RuntimeError(
            f"this actor's process has async_adag {__version__}, its driver has {version}: install the same "
            "version in both (runtime_env={'pip': ['async-adag==…']} does it for the workers)"
        )


def install_here(
    instance: object, share: Share, ends: Endpoints, control: Control, connection: socket.socket
) -> asyncio.AbstractEventLoop | None:
    """Start the loop of an actor that is its graph's driver too; no rendezvous is needed.

    Args:
        instance: the actor.
        share: its share.
        ends: its channel ends, which become the loop's.
        control: its control page.
        connection: where the loop says goodbye; becomes the loop's.

    Returns:
        The event loop on which the nodes run; None if they run in a thread.
    """
    try:
        # It would poll for what other threads of this very process do.
        return _start_loop(instance, share, ends, control, None, [connection.fileno()], _Goodbye(connection))
    except BaseException:
        connection.close()
        raise


def _start_loop(
    instance: object,
    share: Share,
    ends: Endpoints,
    control: Control,
    poller: Poller | None,
    sentinels: list[int],
    on_end: Callable[[str], None],
) -> asyncio.AbstractEventLoop | None:
    """Start the loop that fits the actor: a thread, or a task on the actor's event loop."""
    movers = Movers()
    hands_over = any(move.by == "ipc" for move in share.plan.gpu_moves)
    communicators = Communicators(
        share.plan.communicators + _memberships(share), movers.check_peers if hands_over else None
    )

    def end(broken: str) -> None:
        communicators.unwatch()
        if broken:
            on_end(broken)  # first: a communicator that is in trouble may take its time
            communicators.close()
        else:
            communicators.close()
            on_end(broken)

    try:
        loop = actor_event_loop(instance, share.plan.tasks[0].method)
        if loop is not None and share.plan.communicators:
            raise RuntimeError(
                f"{share.plan.name} is an async actor, whose executions interleave: a communicator of your own, "
                "which waits for the other actors, works with synchronous actors only"
            )
        if loop is not None and share.plan.gpu_moves:
            raise RuntimeError(
                f"{share.plan.name} is an async actor, whose executions interleave: tensors come from and "
                "to GPUs in synchronous actors only; make its methods synchronous, or compile with device='cpu'"
            )
        communicators.start(sentinels)
        _make_movers(movers, share, ends)
        running: ThreadLoop | AsyncLoop
        if loop is None:
            running = ThreadLoop(
                instance, share.plan, ends, movers, control, sentinels, poller, _turn, end_actor, end
            )
        else:
            running = AsyncLoop(instance, share.plan, ends, control, sentinels, share.limit, loop, end_actor, end)
        running.start()
    except BaseException:
        communicators.close()
        movers.close()
        ends.close()
        raise
    return loop


def _memberships(share: Share) -> tuple[Membership, ...]:
    """The links of this actor, as communicators that it is a rank of, in one order for all actors."""
    return tuple(
        Membership(link, 0 if move.reader is None else 1)
        for move in share.plan.gpu_moves
        for link in share.links.get(move.channel, ())
    )


def _make_movers(movers: Movers, share: Share, ends: Endpoints) -> None:
    for move in share.plan.moves:
        mover = ByCommunicator(move)
        if move.channel in ends.writers:
            movers.senders[move.channel] = mover
        else:
            movers.receivers[move.channel] = mover
    if share.plan.gpu_moves:
        from async_adag.actor.gpu_edges import make_gpu_movers  # whoever has no such edge need not have cupy

        slots = {number: spec.slots for number, spec in share.specs.items()}
        make_gpu_movers(movers, share.plan.gpu_moves, ends.pages, share.links, slots, share.overlap)


class _Goodbye:
    """What a loop does last: tell the driver, and let go of the connection and the driver's pidfd."""

    def __init__(self, connection: socket.socket, pidfd: int = -1) -> None:
        self._connection = connection
        self._pidfd = pidfd

    def __call__(self, broken: str) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
        send_text(self._connection, broken or GOODBYE)
        self._connection.close()
