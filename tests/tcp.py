"""Channels over TCP with both sides in this process: real sockets; a network and an attendant for each side."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from async_adag.channels.attendant import Attendant
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.gate import Gate
from async_adag.channels.landed import LandedReader
from async_adag.channels.landing import Landing
from async_adag.channels.network import Network
from async_adag.channels.ring import RingReader, RingSpec, RingWriter, create_ring
from async_adag.channels.stream import Stream, prepare
from async_adag.channels.tcp_writer import TcpWriter
from async_adag.protocol.handshake import Purpose
from tests.sides import Sides

PATIENCE = 100.0  # seconds; only a failing test waits
HEARTBEAT = 1000.0  # seconds: none in a test, unless it says so


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        prepare(end, HEARTBEAT)
    return near, far


class Side:
    """The network of one side, and its attendant."""

    def __init__(self, heartbeat: float = HEARTBEAT, clock: Callable[[], float] = time.monotonic) -> None:
        self.errors: list[BaseException] = []
        self.losses: list[tuple[int, str]] = []
        self.attendant = Attendant(on_error=self.errors.append)
        self.network = Network(self.attendant, heartbeat, clock)
        self.network.on_lost = lambda channel, why: self.losses.append((channel, why))
        self.attendant.start()

    def wait(self, until: Callable[[], bool], ring_own: bool = True) -> None:
        """Do what a loop does: wait by the network's descriptor, and take turns; until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            # The attendant has its share, and nobody is told what it has done: so look again now and then.
            select.select([self.network.fileno()], [], [], 0.002)
            self.network.turn(ring_own)
            assert not self.errors
            assert time.monotonic() < deadline, "nothing has come of it"

    def close(self) -> None:
        self.network.close()
        self.attendant.close()
        assert not self.errors


@dataclass
class Link(Sides):
    """A channel over TCP, as bare as it is.

    Attributes:
        ring: the landing's, which the readers read.
        landing_bell: the doorbell that other readers ring.
    """

    here: Side
    there: Side
    writer: TcpWriter
    landing: Landing
    readers: list[RingReader]
    bells: list[Doorbell]
    landing_bell: Doorbell
    spec: RingSpec
    memory: int
    near: socket.socket = field(repr=False)
    far: socket.socket = field(repr=False)
    on_change: Callable[[], None] = lambda: None

    def pass_on(self, value: Any) -> Any:
        """Send a value; what the only reader gets."""
        self.send(value)
        self.settle()
        return self.reader.read()

    def is_settled(self) -> bool:
        """Whether all that was sent has come: frames, and credits that are due."""
        if self.writer.is_closed() or self.landing.lost or self.writer.lost:
            return True
        owed = self.landing._ring.taken() - self.landing.credited
        short = self.landing.landed - self.landing.credited >= self.spec.slots
        return (
            self.landing.landed == self.writer.written
            and self.writer.credited == self.landing.credited
            and not (owed and short)
            and self._holds_are_settled()
        )

    def _holds_are_settled(self) -> bool:
        writer, landing = self.writer, self.landing
        if any(landing._ring.has_given_back(*hold) for hold in landing._held.items()):
            return False
        generations = writer._holds._generations
        told = {hold for hold in writer._holds.refs if writer._words[writer._released + hold] == generations[hold]}
        return told | set(landing._held) == set(writer._holds.refs)

    def settle(self) -> None:
        """Wait until `is_settled`."""
        deadline = time.monotonic() + PATIENCE
        while not self.is_settled():
            for side in (self.here, self.there):
                side.network.turn(ring_own=True)
            self.on_change()
            if self.is_settled():
                break
            fds = [side.network.fileno() for side in (self.here, self.there)]
            select.select(fds, [], [], 0.001)
            assert not self.here.errors + self.there.errors
            assert time.monotonic() < deadline, "frames or credits have not come"
        self.on_change()

    def leave_in_child(self) -> None:
        """Fork a child, which leaves all of it to this process, and ends."""
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for side in (self.here, self.there):
                    side.network.leave_to_parent()
                    side.attendant.leave_to_parent()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0

    def close(self) -> None:
        self.writer.close()
        for reader in self.readers:
            reader.close()
        for side in (self.there, self.here):  # the landing, which closes when it has read to the end
            side.close()
        for bell in (self.landing_bell, *self.bells):
            bell.close()
        self.close_memory()


def link(
    readers: int = 1,
    slots: int = 4,
    keep: int = 1 << 20,
    sockets: tuple[socket.socket, socket.socket] | None = None,
    make_stream: Callable[[socket.socket], Stream] = Stream,
    here: Side | None = None,
    there: Side | None = None,
    landing_bell: Doorbell | None = None,
) -> Link:
    """Open a channel over TCP with so many readers on the other side."""
    near, far = sockets or connected()
    here, there = here or Side(), there or Side()
    spec = RingSpec(slots, readers, keep)
    bells, landing_bell = [Doorbell.create() for _ in range(readers)], landing_bell or Doorbell.create()
    fd = create_ring(spec)
    ring = RingWriter(spec, os.dup(fd), bells)
    writer = here.network.add_writer(0, make_stream(near), slots)
    landing = there.network.add_landing(
        0, make_stream(far), ring, own=0, shared=readers > 1, doorbell=landing_bell
    )
    reading: list[RingReader] = [LandedReader(spec, os.dup(fd), 0, landing_bell, landing)]
    reading += [RingReader(spec, os.dup(fd), number, landing_bell) for number in range(1, readers)]
    return Link(here, there, writer, landing, reading, bells, landing_bell, spec, fd, near, far)


class TurningWriter:
    """A writer whose process takes its turns, as a loop does before it looks; it rings a doorbell, when room comes
    that was waited for.
    """

    def __init__(self, link: Link, bell: Doorbell) -> None:
        self._link = link
        self._bell = bell
        self._asleep = False
        self._lock = threading.Lock()
        link.on_change = self._wake

    def _wake(self) -> None:
        with self._lock:
            woken = self._asleep and self._link.writer.may_write()
            if woken:
                self._asleep = False
        if woken:
            self._bell.ring()

    def may_write(self) -> bool:
        self._link.settle()
        return self._link.writer.may_write()

    def arm(self) -> bool:
        self._link.settle()
        with self._lock:
            there = self._link.writer.arm()
            self._asleep = self._asleep or not there
        return there

    def publish(self) -> None:
        self._link.writer.publish()
        self._link.settle()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link.writer, name)


class TurningReader:
    """A reader whose process takes its turns, as a loop does before it looks."""

    def __init__(self, link: Link, reader: RingReader) -> None:
        self._link = link
        self._reader = reader

    def may_read(self) -> bool:
        self._link.settle()
        return self._reader.may_read()

    def read(self) -> Any:
        self._link.settle()
        try:
            return self._reader.read()
        finally:
            self._link.settle()

    def discard(self) -> None:
        self._link.settle()
        self._reader.discard()
        self._link.settle()

    def arm(self) -> bool:
        self._link.settle()
        return self._reader.arm()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class Ends:
    """One process's ends of two channels, which it writes and reads, and the wait of a loop."""

    def __init__(self, sending: tuple[int, Stream], receiving: tuple[int, Stream], slots: int = 16) -> None:
        self.side = Side()
        self.network = self.side.network
        self.bell = Doorbell.create()
        spec = RingSpec(slots, 1, 1 << 20)
        fd = create_ring(spec)
        self.writer = self.network.add_writer(*sending, slots)
        ring = RingWriter(spec, os.dup(fd), [self.bell])
        landing = self.network.add_landing(*receiving, ring, own=0, shared=False)
        self.reader = LandedReader(spec, fd, 0, self.bell, landing)
        self._epoll = select.epoll()
        self._epoll.register(self.bell.fd, select.EPOLLIN | select.EPOLLET)
        self._epoll.register(self.network.fileno(), select.EPOLLIN)

    def _wait(self, ready: Callable[[], bool], arm: Callable[[], bool]) -> None:
        while not ready():
            self.network.turn()
            if not ready() and not arm():
                assert self._epoll.poll(PATIENCE), "nothing has come"
            assert not self.network.lost

    def write(self, value: Any) -> None:
        """Write one frame, when there is room."""
        self._wait(self.writer.may_write, self.writer.arm)
        self.writer.stage(self.writer.encode(value))
        self.writer.publish()

    def read(self) -> Any:
        """What comes next."""
        self._wait(self.reader.may_read, self.reader.arm)
        return self.reader.read()

    def close(self) -> None:
        self._epoll.close()
        self.reader.close()
        self.writer.close()
        self.side.close()
        self.bell.close()


def dial(address: tuple[str, int], secret: bytes, channels: tuple[int, ...]) -> dict[int, Stream]:
    """Dial the edges of these channels; their streams."""
    gate = Gate("127.0.0.1", None, secret, HEARTBEAT)
    for channel in channels:
        gate.dial(address, Purpose("edge", channel))
    streams = step_until(gate, len(channels))
    gate.close()
    return streams


def step_until(gate: Gate, count: int) -> dict[int, Stream]:
    """Let a gate go on until so many edges are through; their streams, by channel."""
    through: dict[int, Stream] = {}
    deadline = time.monotonic() + PATIENCE
    while len(through) < count:
        through |= {purpose.number: stream for purpose, stream in gate.step(0.1)}
        assert time.monotonic() < deadline, gate.trying()
        assert not gate.failures
    return through
