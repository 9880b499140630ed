"""Deploys a plan: makes the channels, meets every actor, hands out the descriptors, waits until all are ready.

Everything is made by the driver: memory files, doorbells, control pages. Each actor is handed what it needs at
the rendezvous, and the driver then closes what is not its own, so that actors need not find one another.

Strangers may knock meanwhile (`channels/rendezvous.py`): they are kept waiting for their hello, so many of them at
most, and hold up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from async_adag._version import __version__
from async_adag.actor.control import Control, control_size
from async_adag.actor.install import READY, Share, install, install_here
from async_adag.actor.ray_runtime import call_in_actor, own_actor
from async_adag.actor.wiring import Endpoints, Wiring, connect_ends, ring_spec, wire
from async_adag.channels.codec import dumps
from async_adag.channels.direct import Direct
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.gauge import DirectGauge, Gauge, RingGauge
from async_adag.channels.limits import EXHAUSTED, explain
from async_adag.channels.memory import create_file
from async_adag.channels.pollers import Board, create_board
from async_adag.channels.processes import has_ended, peer_pidfd
from async_adag.channels.rendezvous import Listener, receive_text, send_fds
from async_adag.channels.ring import RingSpec, create_ring
from async_adag.driver.supervision import Supervision
from async_adag.errors import CompileActorDied, GraphError
from async_adag.gpu.acks import acks_size
from async_adag.gpu.interface import DeviceError
from async_adag.gpu.ipc import slots_for
from async_adag.graph.plan import DRIVER, ActorPlan, Plan, gpu_moves
from async_adag.observe.picture import GPU_EDGES, HAND_OVER, Transport, ring_transport
from async_adag.options import Options

T = TypeVar("T")


@dataclass(slots=True)
class Deployment:
    """A graph at work, as the driver holds it. Owns all of it.

    Attributes:
        ends: the driver's channel ends.
        controls: the actors' control pages, by actor.
        bells: every actor's doorbell, by actor.
        supervision: watches the actors.
        specs: the rings, by channel; a channel without one is a hand-over.
        gauges: how far each channel is, by channel.
        movers: by channel, what carries its tensors, in words.
        own_loop: the event loop on which nodes of the driver's own actor run, if there is one.
        gpu_results: the `gpu_results.GpuResults`, if results stay on the driver's GPU.
        board: who of the graph's processes polls; None where the driver is not to, as one of its own threads
            runs nodes.
    """

    ends: Endpoints
    controls: list[Control]
    bells: list[Doorbell]
    supervision: Supervision
    specs: dict[int, RingSpec]
    gauges: dict[int, Gauge]
    movers: dict[int, str]
    own_loop: asyncio.AbstractEventLoop | None
    gpu_results: Any = None
    board: Board | None = None

    def transport(self, channel: int) -> Transport:
        """What moves a channel's frames."""
        spec = self.specs.get(channel)
        return HAND_OVER if spec is None else ring_transport(spec.slots, spec.keep, self.movers.get(channel, ""))

    def end_loops(self) -> None:
        """Ask every loop to end after its present method."""
        for control, bell in zip(self.controls, self.bells, strict=True):
            if bell.fd >= 0:
                control.end()
                bell.ring()

    def computing(self) -> list[str]:
        """What is computing now, or has a communicator at work, in words."""
        snapshots = [control.snapshot() for control in self.controls]
        return [str(snapshot) for snapshot in snapshots if snapshot.is_busy()]

    def close(self) -> None:
        """Let go of everything; the loops have ended or were asked to."""
        if self.gpu_results is not None:
            self.gpu_results.close()
        self.ends.close()
        self._let_go()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self.ends.leave_to_parent()
        self._let_go()

    def _let_go(self) -> None:
        self.gauges.clear()
        for bell in self.bells:
            bell.close()
        self.supervision.close()


LOOK_AGAIN = 0.05  # seconds between looks at what Ray knows
DYING = 5.0  # seconds within which a process that has hung up ends, if it does: it frees its memory in between
SILENT = 128  # connections that may wait for their hello; an actor's takes microseconds


class Cancelled(Exception):
    """The deployment was given up by whoever asked for it."""


def deploy(
    plan: Plan,
    handles: tuple[Any, ...],
    options: Options,
    cancelled: Callable[[], bool] = lambda: False,
    links: dict[int, tuple[Any, ...]] | None = None,
) -> Deployment:
    """Deploy ``plan`` on the actors behind ``handles``.

    Args:
        plan: the plan.
        handles: by actor.
        options: the options.
        cancelled: whether whoever compiles has given up.
        links: of channels between two GPUs, by channel, one to each reader.

    Raises:
        GraphError: an actor is dead, did not answer in time, or cannot run its share; names it. Or this process
            has no descriptors or memory left for the channels; names the limit.
        Cancelled: ``cancelled`` said so.
    """
    with contextlib.ExitStack() as undo:
        with limits_named():
            meeting = _Meeting(plan, handles, options, links or {}, undo)
        meeting.invite()
        with limits_named():
            meeting.wait(cancelled)
            deployment = meeting.conclude()
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


@dataclass(slots=True)
class _Guest:
    """An actor that has been invited."""

    number: int
    ref: Any
    connection: socket.socket | None = None
    pidfd: int = -1
    ready: bool = False


@dataclass(slots=True)
class _Made:
    """The descriptors of a graph, as the driver made them."""

    bells: dict[int, int] = field(default_factory=dict)  # by process
    rings: dict[int, int] = field(default_factory=dict)  # by channel
    controls: list[int] = field(default_factory=list)  # by actor
    pages: dict[int, int] = field(default_factory=dict)  # by channel
    board: int = -1

    def for_actor(self, wiring: Wiring) -> list[int]:
        return [
            self.controls[wiring.process],
            self.board,
            *(self.bells[process] for process in wiring.doorbells),
            *(self.rings[channel] for channel in wiring.channels),
            *(self.pages[channel] for channel in wiring.pages),
        ]

    def close(self) -> None:
        for fd in (*self.bells.values(), *self.rings.values(), *self.controls, *self.pages.values(), self.board):
            if fd >= 0:
                os.close(fd)


class _Meeting:
    """One deployment, while it is being made."""

    def __init__(
        self,
        plan: Plan,
        handles: tuple[Any, ...],
        options: Options,
        links: dict[int, tuple[Any, ...]],
        undo: contextlib.ExitStack,
    ) -> None:
        self._plan = plan
        self._links = links
        self._handles = handles
        self._options = options
        self._deadline = time.monotonic() + options.compile_timeout
        own = own_actor()
        self._instance = own[1] if own is not None else None
        # Its own actor, if that is in the graph: it cannot answer a call while it is busy compiling.
        self._own = next((a.number for a in plan.graph.actors if own is not None and a.id == own[0]), None)
        if self._own is not None and any(self._share_of_links(plan.actors[self._own])):
            raise GraphError(
                f"the driver is {plan.actors[self._own].name}, which is to meet another GPU's actor over NCCL: "
                "compile from another process, or with device='cpu'"
            )
        if self._own is not None and plan.actors[self._own].communicators:
            raise GraphError(
                f"the driver is {plan.actors[self._own].name}, which is a rank of a communicator of your own: "
                "compile from another process, or leave the communicator out"
            )
        here = {DRIVER, self._own}
        local = [c for c in plan.channels if {c.writer, *c.readers} <= here]
        slots = max(2, options.max_inflight)
        self._directs = {c.number: Direct(slots, [Doorbell(-1)] * len(c.readers), Doorbell(-1)) for c in local}
        self._specs = {c.number: ring_spec(c, slots, options.buffer_size) for c in plan.channels if c not in local}
        self._made = _Made()
        undo.callback(self._made.close)
        _make(self._made, plan, self._specs)
        self._controls = [Control(fd, actor) for fd, actor in zip(self._made.controls, plan.actors, strict=True)]
        undo.callback(self._end_all)
        self._listener = Listener()
        undo.callback(self._listener.close)
        self._epoll = select.epoll()
        undo.callback(self._epoll.close)
        self._epoll.register(self._listener.socket.fileno(), select.EPOLLIN)
        self._guests: dict[int, _Guest] = {}
        self._unknown: dict[int, socket.socket] = {}
        self._known: dict[int, _Guest] = {}
        undo.callback(self._hang_up)

    def invite(self) -> None:
        """Call `install` on every actor, all at once."""
        for actor, handle in zip(self._plan.actors, self._handles, strict=True):
            if actor.actor == self._own:
                continue
            ref = self._call(actor, handle)
            self._guests[actor.actor] = _Guest(actor.actor, ref)

    def _call(self, actor: ActorPlan, handle: Any) -> Any:
        return call_in_actor(
            handle,
            install,
            __version__,
            self._listener.address,
            actor.actor,
            dumps(self._share(actor)),
            self._options.compile_timeout,
        )

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
        )

    def _processes(self) -> int:
        return 1 + len(self._plan.actors)

    def _share_of_links(self, actor: ActorPlan) -> dict[int, tuple[Any, ...]]:
        """The links of an actor: of a channel that it writes, all; of one that it reads, its own."""
        return {
            move.channel: links if move.reader is None else links[move.reader : move.reader + 1]
            for move in actor.gpu_moves
            if (links := self._links.get(move.channel))
        }

    def wait(self, cancelled: Callable[[], bool]) -> None:
        """Wait until every actor is ready."""
        while not all(guest.ready for guest in self._guests.values()):
            if cancelled():
                raise Cancelled
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise self._too_late()
            events = self._epoll.poll(min(left, LOOK_AGAIN))
            if not events:
                # A loop that is ready says so on its connection; only failures are learned from Ray.
                self._check_failures()
            for fd, _ in events:
                if fd == self._listener.socket.fileno():
                    self._greet()
                elif fd in self._unknown:
                    self._admit(fd)
                elif fd in self._known:
                    self._hear(self._known[fd])

    def conclude(self) -> Deployment:
        """Take what is the driver's; what was made for the actors alone is closed."""
        made = self._made
        wiring = wire(self._plan.channels, DRIVER)
        self._refuse_silent()
        with contextlib.ExitStack() as undo:
            bells = []
            for actor in self._plan.actors:
                bells.append(Doorbell(os.dup(made.bells[actor.actor])))
                undo.callback(bells[-1].close)
            supervision = Supervision()
            undo.callback(supervision.close)
            for guest in self._guests.values():
                assert guest.connection is not None
                self._epoll.unregister(guest.connection.fileno())
                supervision.watch(guest.number, guest.pidfd, guest.connection)
                guest.connection, guest.pidfd = None, -1
            own_fds = self._own_fds()
            undo.callback(_close_all, own_fds)
            gauges: dict[int, Gauge] = {n: RingGauge(self._specs[n], fd) for n, fd in made.rings.items()}
            gauges |= {number: DirectGauge(direct) for number, direct in self._directs.items()}
            fds = [made.bells.pop(process) for process in wiring.doorbells]
            fds += [made.rings.pop(channel, -1) for channel in wiring.channels]
            fds += [made.pages.pop(channel) for channel in wiring.pages]
            ends = connect_ends(wiring, fds, self._plan.channels, self._specs, self._directs)
            undo.callback(ends.close)
            for number, direct in self._directs.items():
                channel = self._plan.channels[number]
                bell = {actor.actor: bells[actor.actor] for actor in self._plan.actors} | {DRIVER: ends.doorbell}
                direct.doorbells = [bell[reader] for reader in channel.readers]
                direct.writer_doorbell = bell[channel.writer]
            board = None if self._own is not None else Board(made.board, self._processes(), DRIVER + 1)
            own_loop = self._install_here(own_fds, supervision)
            gpu_results = self._gpu_results(ends)
            undo.pop_all()
        made.close()
        self._listener.close()
        self._epoll.close()
        movers = {
            channel.number: type(mover.communicator).__name__
            for channel in self._plan.channels
            if (mover := self._plan.mover(channel.number)) is not None
        }
        movers |= {channel.number: GPU_EDGES[channel.gpu] for channel in self._plan.channels if channel.gpu}
        return Deployment(
            ends, self._controls, bells, supervision, self._specs, gauges, movers, own_loop, gpu_results, board
        )

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
        if self._own is None:
            return []
        wiring = wire(self._plan.channels, self._own)
        rings = self._made.rings
        sources = [self._made.bells[process] for process in wiring.doorbells]
        sources += [rings.get(channel, -1) for channel in wiring.channels]
        sources += [self._made.pages[channel] for channel in wiring.pages]
        fds: list[int] = []
        try:
            fds.extend(os.dup(fd) if fd >= 0 else -1 for fd in sources)  # as far as it gets
        except BaseException:
            _close_all(fds)
            raise
        return fds

    def _install_here(self, fds: list[int], supervision: Supervision) -> asyncio.AbstractEventLoop | None:
        if self._own is None:
            return None
        share = self._share(self._plan.actors[self._own])
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        handed, fds[:] = fds.copy(), []  # the ends' from here on
        try:
            ends = connect_ends(share.wiring, handed, self._plan.channels, self._specs, self._directs)
        except BaseException:
            ours.close()
            its.close()
            raise
        supervision.watch(self._own, None, ours)
        return install_here(self._instance, share, ends, self._controls[self._own], its)

    def _greet(self) -> None:
        connection = self._with_room(self._listener.accept)
        if connection is not None:
            self._unknown[connection.fileno()] = connection
            self._epoll.register(connection.fileno(), select.EPOLLIN)
            if len(self._unknown) > SILENT:
                self._refuse_silent(1)

    def _with_room(self, make: Callable[[], T]) -> T:
        """Make something that takes a descriptor, for which those who say nothing are turned away."""
        try:
            return make()
        except OSError as error:
            if error.errno not in EXHAUSTED or not self._unknown:
                raise
        self._refuse_silent()
        return make()

    def _refuse_silent(self, count: int = sys.maxsize) -> None:
        """Turn away ``count`` of those who have said nothing yet, who came first."""
        for fd in list(self._unknown)[:count]:
            self._epoll.unregister(fd)
            self._listener.refuse(self._unknown.pop(fd), "it said nothing")

    def _admit(self, fd: int) -> None:
        connection = self._unknown.pop(fd)
        self._epoll.unregister(fd)
        number = self._listener.identify(connection)
        if number is None:
            return
        guest = self._guests.get(number)
        if guest is None or guest.connection is not None:
            self._listener.refuse(connection, f"the graph waits for no actor {number}")
            return
        self._epoll.register(fd, select.EPOLLIN)
        guest.connection = connection
        self._known[fd] = guest
        wiring = wire(self._plan.channels, guest.number)
        try:
            guest.pidfd = self._with_room(lambda: peer_pidfd(connection))
            left = max(0.0, self._deadline - time.monotonic())
            send_fds(connection, self._made.for_actor(wiring), left)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            self._check_failures()

    def _hear(self, guest: _Guest) -> None:
        assert guest.connection is not None
        text = receive_text(guest.connection)
        if text == READY:
            guest.ready = True
        elif text is not None:
            # It hung up, or its loop broke at once; Ray has the reason, or will in a moment.
            self._check_failures(guest, text)
            self._let_go(guest)  # only now: by its pidfd one sees whether it has died

    def _let_go(self, guest: _Guest) -> None:
        """Forget a connection that ended; Ray may restart its actor, which then connects again."""
        assert guest.connection is not None
        fd = guest.connection.fileno()
        self._epoll.unregister(fd)
        del self._known[fd]
        guest.connection.close()
        guest.connection = None
        pidfd, guest.pidfd = guest.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def _check_failures(self, guest: _Guest | None = None, text: str = "") -> None:
        guests = [guest] if guest is not None else [g for g in self._guests.values() if not g.ready]
        for one in guests:
            wait = max(0.0, self._deadline - time.monotonic()) if guest is not None else 0
            done, _ = ray.wait([one.ref], timeout=wait)
            if not done:
                continue
            try:
                reason = ray.get(one.ref)
            except ActorUnavailableError:
                # Ray is restarting it, or cannot reach it just now: ask again until the deadline.
                one.ref = self._call(self._plan.actors[one.number], self._handles[one.number])
                continue
            except Exception as error:
                raise self._refused(one, error) from error
            if reason or guest is not None:
                raise self._gone(one, reason or text)

    def _refused(self, guest: _Guest, error: Exception) -> GraphError:
        actor = self._plan.actors[guest.number]
        nodes = ", ".join(task.label for task in actor.tasks)
        if isinstance(error, RayActorError):
            return CompileActorDied(
                f"{actor.name} is dead, so the graph cannot be compiled: it was to run {nodes}"
            )
        cause = error.cause if isinstance(error, RayTaskError) else error  # without the remote traceback
        if isinstance(cause, ModuleNotFoundError) and "async_adag" in str(cause):
            return GraphError(
                f"the process of {actor.name} cannot import async_adag: install async-adag where the workers run "
                "(runtime_env={'pip': ['async-adag']} does it)"
            )
        return GraphError(f"{actor.name} cannot run its share of the graph ({nodes}): {cause}")

    def _gone(self, guest: _Guest, words: str) -> GraphError:
        """What an actor that has left makes of this; ``words`` is what it said, if it did."""
        name = self._plan.actors[guest.number].name
        left = max(0.0, min(DYING, self._deadline - time.monotonic()))
        if not words and guest.pidfd >= 0 and has_ended(guest.pidfd, left):
            return CompileActorDied(f"the process of {name} died while the graph was being compiled")
        return GraphError(f"{name} left while the graph was being compiled: {words or 'it hung up'}")

    def _too_late(self) -> GraphError:
        late = [
            f"{self._plan.actors[guest.number].name} (for {self._plan.actors[guest.number].tasks[0].label})"
            for guest in self._guests.values()
            if not guest.ready
        ]
        return GraphError(
            f"no answer within compile_timeout={self._options.compile_timeout:g} s from {', '.join(late)}: busy "
            "with another call (or with a communicator's initialize), or not started yet. Compile again when it "
            "is free; no graph was left behind"
        )

    def _end_all(self) -> None:
        for control in self._controls:
            control.end()
        for fd in self._made.bells.values():
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def _hang_up(self) -> None:
        for connection in self._unknown.values():
            connection.close()  # not refused: it may be one of ours
        for guest in self._guests.values():
            if guest.connection is not None:
                guest.connection.close()
            if guest.pidfd >= 0:
                os.close(guest.pidfd)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _make(made: _Made, plan: Plan, specs: dict[int, RingSpec]) -> None:
    for process in (DRIVER, *(actor.actor for actor in plan.actors)):
        made.bells[process] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    for actor in plan.actors:
        made.controls.append(create_file("async-adag-control", control_size(actor)))
    made.board = create_board(1 + len(plan.actors))
    for number, spec in specs.items():
        made.rings[number] = create_ring(spec)
    for channel in plan.channels:
        if channel.gpu == "ipc":
            readers = len(channel.readers)
            size = acks_size(slots_for(specs[channel.number].slots, readers), readers)
            made.pages[channel.number] = create_file("async-adag-page", size)
