"""Deploys a plan: makes the channels, meets every actor, hands out the descriptors, waits until all are ready.

Everything is made by the driver: memory files, doorbells, control pages. Each actor is handed what it needs at
the rendezvous, and the driver then closes what is not its own, so that actors need not find one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from async_adag.actor.control import Control, control_size
from async_adag.actor.host_files import HostFiles, close_all
from async_adag.actor.install import install_here
from async_adag.actor.joining import Joined
from async_adag.actor.ray_runtime import own_actor
from async_adag.actor.share import Share
from async_adag.actor.wiring import Endpoints, connect_ends, ring_spec, wire
from async_adag.channels.codec import dumps
from async_adag.channels.direct import Direct
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.gauge import DirectGauge, Gauge, RingGauge
from async_adag.channels.limits import explain
from async_adag.channels.memory import create_file
from async_adag.channels.network import Network
from async_adag.channels.pollers import Board, create_board
from async_adag.channels.processor import core_of
from async_adag.channels.ring import RingSpec
from async_adag.channels.stream import Stream
from async_adag.driver.abroad import Abroad
from async_adag.driver.deployment import Deployment, seats
from async_adag.driver.meeting import Meeting
from async_adag.driver.supervision import Supervision
from async_adag.errors import GraphError
from async_adag.gpu.interface import DeviceError
from async_adag.graph.plan import DRIVER, ActorPlan, Plan, gpu_moves
from async_adag.observe.picture import GPU_EDGES
from async_adag.options import Options
from async_adag.protocol.placement import cores_first


def deploy(
    plan: Plan,
    handles: tuple[Any, ...],
    options: Options,
    cancelled: Callable[[], bool] = lambda: False,
    links: dict[int, tuple[Any, ...]] | None = None,
    deadline: float | None = None,
) -> Deployment:
    """Deploy ``plan`` on the actors behind ``handles``.

    Args:
        plan: the plan.
        handles: by actor.
        options: the options.
        cancelled: whether whoever compiles has given up.
        links: of channels between two GPUs, by channel, one to each reader.
        deadline: when it has to be done, on `time.monotonic` (None: ``compile_timeout`` from now).

    Raises:
        GraphError: an actor is dead, did not answer in time, or cannot run its share; names it. Or this process
            has no descriptors or memory left for the channels; names the limit.
        Cancelled: ``cancelled`` said so.
        Apart: an actor cannot share memory with others on its node; `Graph.hosts` has to say so.
    """
    with contextlib.ExitStack() as undo:
        with limits_named():
            work = _Deploying(plan, handles, options, links or {}, undo, deadline)
        work.invite()
        with limits_named():
            work.meeting.wait(cancelled)
            deployment = work.conclude()
        undo.pop_all()
        return deployment


@contextlib.contextmanager
def limits_named() -> Iterator[None]:
    """An `OSError` in here is a limit of this process: a `GraphError` that names it."""
    try:
        yield
    except OSError as error:
        raise GraphError(
            f"the driver cannot make the graph's channels: {explain(error)}; no graph was left behind"
        ) from error


class _Deploying:
    """One deployment, while it is being made."""

    def __init__(
        self,
        plan: Plan,
        handles: tuple[Any, ...],
        options: Options,
        links: dict[int, tuple[Any, ...]],
        undo: contextlib.ExitStack,
        deadline: float | None,
    ) -> None:
        self._plan = plan
        self._options = options
        self._links = links
        self._instance, self._own = self._own_actor()
        here = {DRIVER} if self._own is None else {DRIVER, self._own}
        self._abroad = Abroad(plan, options, here) if plan.graph.hosts else None
        if self._abroad is not None:
            undo.callback(self._abroad.close)
        local = [c for c in plan.channels if {c.writer, *c.readers} <= here]
        slots = max(2, options.max_inflight)
        self._directs = {c.number: Direct(slots, [Doorbell(-1)] * len(c.readers), Doorbell(-1)) for c in local}
        self._specs = {c.number: ring_spec(c, slots, options.buffer_size) for c in plan.channels if c not in local}
        self._files = HostFiles()
        undo.callback(self._files.close)
        # The doorbells of actors on other hosts are rung by nobody but the driver.
        processes = (DRIVER, *(a.actor for a in plan.actors))
        self._files.make(processes, plan.channels, self._specs_here())
        self._pages: list[int] = []  # the control pages, by actor, and the board
        undo.callback(close_all, self._pages)
        self._controls: list[Control] = []
        for actor in plan.actors:
            self._pages.append(create_file("async-adag-control", control_size(actor)))
            self._controls.append(Control(self._pages[-1], actor))
            undo.callback(self._controls[-1].close)
        self._seats = self._take_seats(undo)
        self._board = create_board(self._processes())
        self._pages.append(self._board)
        undo.callback(self._end_all)
        self.meeting = Meeting(plan, handles, options, self._fds_of, self._abroad, self._welcome, deadline)
        undo.callback(self.meeting.close)

    def _specs_here(self) -> dict[int, RingSpec]:
        """The rings on the driver's host."""
        return {n: spec for n, spec in self._specs.items() if self._abroad is None or self._abroad.is_here(n)}

    def _own_actor(self) -> tuple[object, int | None]:
        """The driver's own actor, if that is in the graph: it cannot answer a call while it is busy compiling."""
        own = own_actor()
        if own is None:
            return None, None
        number = next((actor.number for actor in self._plan.graph.actors if actor.id == own[0]), None)
        if number is None:
            return None, None
        actor = self._plan.actors[number]
        if any(self._share_of_links(actor)):
            raise GraphError(
                f"the driver is {actor.name}, which is to meet another GPU's actor over NCCL: "
                "compile from another process, or with device='cpu'"
            )
        if actor.communicators:
            raise GraphError(
                f"the driver is {actor.name}, which is a rank of a communicator of your own: "
                "compile from another process, or leave the communicator out"
            )
        return own[1], number

    def invite(self) -> None:
        """Have `install` called on every actor."""
        for actor in self._plan.actors:
            if actor.actor != self._own:
                share = self._share(actor)
                waits = share.reach is not None or bool(actor.communicators) or bool(share.links)
                self.meeting.invite(actor, dumps(share), waits)

    def _share(self, actor: ActorPlan) -> Share:
        return Share(
            actor,
            wire(self._plan.channels, actor.actor),
            self._plan.channels,
            self._specs,
            self._options.max_inflight,
            self._processes(),
            self._options.poll_ns,
            self._share_of_links(actor),
            self._options.overlap,
            self._abroad.reach(actor.actor) if self._abroad and self._abroad.has_reach(actor.actor) else None,
            self._abroad.lodging(actor.actor, self._specs) if self._abroad else None,
            self._seats[actor.actor] if self._seats else None,
        )

    def _take_seats(self, undo: contextlib.ExitStack) -> list[int]:
        """The CPUs of the loops, by actor; empty where the system is to place them."""
        policy = self._options.placement
        if policy is None:
            return []
        # Those of this process: an actor that may not use them takes others of its own in their place.
        given = seats.take(policy, len(self._plan.actors), cores_first(os.sched_getaffinity(0), core_of))
        undo.callback(seats.give_back, given)
        return given

    def _processes(self) -> int:
        return 1 + len(self._plan.actors)

    def _share_of_links(self, actor: ActorPlan) -> dict[int, tuple[Any, ...]]:
        """The links of an actor: of a channel that it writes, all; of one that it reads, its own."""
        return {
            move.channel: links if move.reader is None else links[move.reader : move.reader + 1]
            for move in actor.gpu_moves
            if (links := self._links.get(move.channel))
        }

    def _fds_of(self, actor: int) -> list[int]:
        return [self._pages[actor], self._board, *self._files.of(wire(self._plan.channels, actor))]

    def _welcome(self, actor: int, stream: Stream) -> socket.socket:
        assert self._abroad is not None
        return self._abroad.welcome(actor, stream, self._controls[actor], self._files.bells[actor])

    def _network(self, process: int, supervision: Supervision) -> Network | None:
        """The network of a process that is this one, where it has edges with other hosts."""
        wiring = wire(self._plan.channels, process)
        if self._abroad is None or not (wiring.outgoing or wiring.incoming):
            return None
        network, losses = self._abroad.make_network()
        supervision.listen(process, losses)
        return network

    def conclude(self) -> Deployment:
        """Take what is the driver's; what was made for the actors alone is closed."""
        plan = self._plan
        wiring = wire(plan.channels, DRIVER)
        with contextlib.ExitStack() as undo:
            bells = []
            for actor in plan.actors:
                bells.append(Doorbell(os.dup(self._files.bells[actor.actor])))
                undo.callback(bells[-1].close)
            supervision = Supervision()
            undo.callback(supervision.close)
            self.meeting.hand_on(supervision)
            own_fds = self._own_fds()
            undo.callback(close_all, own_fds)
            gauges: dict[int, Gauge] = {n: RingGauge(self._specs[n], fd) for n, fd in self._files.rings.items()}
            undo.callback(gauges.clear)
            gauges |= {number: DirectGauge(direct) for number, direct in self._directs.items()}
            gauges |= {} if self._abroad is None else self._abroad.gauges
            network = self._network(DRIVER, supervision)
            streams = {} if self._abroad is None else self._abroad.take_streams(wiring)
            fds = self._files.take(wiring)
            ends = connect_ends(wiring, fds, plan.channels, self._specs, self._directs, network, streams)
            undo.callback(ends.close)
            for number, direct in self._directs.items():
                channel = plan.channels[number]
                bell = {actor.actor: bells[actor.actor] for actor in plan.actors} | {DRIVER: ends.doorbell}
                direct.doorbells = [bell[reader] for reader in channel.readers]
                direct.writer_doorbell = bell[channel.writer]
            learns = self._own is None and self._abroad is None
            board = Board(self._board, self._processes(), DRIVER + 1) if learns else None
            own_loop = self._install_here(own_fds, supervision)
            gpu_results = self._gpu_results(ends)
            undo.pop_all()
        self._files.close()
        close_all(self._pages)
        self.meeting.close()
        if self._abroad is not None:
            self._abroad.close_gate()
        return Deployment(
            plan,
            ends,
            self._controls,
            bells,
            supervision,
            self._specs,
            gauges,
            self._movers(),
            own_loop,
            gpu_results,
            self._abroad,
            board,
            self._seats,
        )

    def _movers(self) -> dict[int, str]:
        movers = {
            channel.number: type(mover.communicator).__name__
            for channel in self._plan.channels
            if (mover := self._plan.mover(channel.number)) is not None
        }
        return movers | {c.number: GPU_EDGES[c.gpu] for c in self._plan.channels if c.gpu}

    def _gpu_results(self, ends: Endpoints) -> Any:
        moves = gpu_moves(self._plan.channels, DRIVER)
        if not moves:
            return None
        from async_adag.driver.gpu_results import GpuResults  # whoever gets none need not have cupy

        try:
            return GpuResults(moves, ends, {number: spec.slots for number, spec in self._specs.items()})
        except DeviceError as error:
            raise GraphError(f"the driver cannot get results on its GPU: {error}") from error

    def _own_fds(self) -> list[int]:
        """What the loop of the driver's own actor is handed: duplicates, since it closes them by itself."""
        return [] if self._own is None else self._files.duplicates_of(wire(self._plan.channels, self._own))

    def _install_here(self, fds: list[int], supervision: Supervision) -> asyncio.AbstractEventLoop | None:
        if self._own is None:
            return None
        share = self._share(self._plan.actors[self._own])
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            network = self._network(self._own, supervision)
            streams = {} if self._abroad is None else self._abroad.take_streams(share.wiring)
            handed, fds[:] = fds.copy(), []  # the ends' from here on
            ends = connect_ends(
                share.wiring, handed, self._plan.channels, self._specs, self._directs, network, streams
            )
        except BaseException:
            ours.close()
            its.close()
            raise
        supervision.watch(self._own, None, ours)
        return install_here(self._instance, share, Joined(its, -1, self._controls[self._own], ends, None))

    def _end_all(self) -> None:
        for control in self._controls:
            control.end()
        self._files.ring_all()
