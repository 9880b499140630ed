"""Installs an actor's share of a graph: runs in the actor, called by the driver through Ray."""

from __future__ import annotations

import asyncio
import pickle
import time

from async_adag._version import __version__
from async_adag.actor.async_loop import AsyncLoop
from async_adag.actor.communicators import Communicators
from async_adag.actor.joining import Joined, join
from async_adag.actor.loop import ThreadLoop
from async_adag.actor.moved import ByCommunicator, Movers
from async_adag.actor.ray_runtime import actor_event_loop, end_actor
from async_adag.actor.share import Share
from async_adag.actor.turn import Turn
from async_adag.actor.wiring import Endpoints
from async_adag.channels.limits import explain
from async_adag.channels.pollers import make_poller
from async_adag.channels.rendezvous import Address, HungUp, NobodyThere, send_text
from async_adag.graph.plan import ActorPlan, Membership

READY = "ready"
APART = "apart: "
"""How the answer of an actor begins that cannot see whom it should meet on its own node, as containers cannot."""

# A process holds one actor, whose methods take turns, whatever graph calls them.
_turn = Turn()


def install(instance: object, version: str, address: Address, share: bytes, timeout: float) -> str | None:
    """Run in the actor: meet the driver, take the descriptors, start the loop.

    Args:
        instance: the actor.
        version: the driver's version of this package.
        address: where the driver listens.
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
        joined = join(told, address, time.monotonic() + timeout)
        _start(instance, told, joined)
    except NobodyThere as error:
        return f"{APART}{error}"
    except HungUp as error:
        return str(error)  # no exception: nobody is there to take it, and Ray would log it
    except OSError as error:
        raise OSError(error.errno, explain(error)) from error
    send_text(joined.connection, READY)
    return None


def _start(instance: object, told: Share, joined: Joined) -> None:
    try:
        _start_loop(instance, told, joined)
    except BaseException:
        joined.close()
        raise


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


def install_here(instance: object, share: Share, joined: Joined) -> asyncio.AbstractEventLoop | None:
    """Start the loop of an actor that is its graph's driver too; no rendezvous is needed.

    Returns:
        The event loop on which the nodes run; None if they run in a thread.
    """
    try:
        return _start_loop(instance, share, joined)
    except BaseException:
        joined.close()
        raise


def _start_loop(instance: object, share: Share, joined: Joined) -> asyncio.AbstractEventLoop | None:
    """Start the loop that fits the actor: a thread, or a task on the actor's event loop."""
    ends, control, sentinels, on_end = joined.ends, joined.control, joined.sentinels(), joined.leave
    poller = make_poller(share.poll_ns, joined.board, control.is_alone, may_move=True)
    movers = Movers()
    hands_over = any(move.by == "ipc" for move in share.plan.gpu_moves)
    communicators = Communicators(
        share.plan.communicators + _memberships(share),
        movers.check_peers if hands_over else None,
        control.should_end,
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
        if loop is not None:
            check_interleaving(share.plan)
        communicators.start(sentinels)
        _make_movers(movers, share, ends)
        running: ThreadLoop | AsyncLoop
        if loop is None:
            running = ThreadLoop(
                instance, share.plan, ends, movers, control, sentinels, poller, _turn, end_actor, end, share.cpu
            )
        else:
            running = AsyncLoop(
                instance, share.plan, ends, movers, control, sentinels, share.limit, loop, end_actor, end
            )
        running.start()
    except BaseException:
        communicators.close()
        movers.close()
        ends.close()
        raise
    return loop


def check_interleaving(plan: ActorPlan) -> None:
    """Check that an async actor can run its share.

    Raises:
        RuntimeError: it cannot; says why, and what to do.
    """
    if plan.communicators:
        raise RuntimeError(
            f"{plan.name} is an async actor, whose executions interleave: a communicator of your own, "
            "which waits for the other actors, works with synchronous actors only"
        )
    if any(move.reader is None or move.by == "nccl" for move in plan.gpu_moves):
        raise RuntimeError(
            f"{plan.name} is an async actor, whose executions interleave: it may read tensors of the GPU that it "
            "shares with their writer, but it writes none, and does neither over NCCL; make its methods "
            "synchronous, or hint 'auto', or compile with device='cpu'"
        )


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
