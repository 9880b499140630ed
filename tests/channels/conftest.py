"""Channels of every kind, with both sides in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

from async_adag.actor.moved import MovedReader, MovedWriter
from async_adag.channels import ray_objects
from async_adag.channels.direct import Direct, DirectReader, DirectWriter
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.ring import RingReader, RingSpec, RingWriter, create_ring
from tests.sides import Sides
from tests.tcp import Link, TurningReader, TurningWriter, link

settings.register_profile("same-each-time", derandomize=True, deadline=None)
settings.load_profile("same-each-time")

SLOTS = 4


@dataclass
class Channel(Sides):
    """Both sides of a channel, and their doorbells.

    Attributes:
        slots: frames that it holds.
        bells: the readers' doorbells.
        writer_bell: the writer's.
        spec: of a ring, what its ends agree on.
    """

    slots: int
    writer: Any
    readers: list[Any]
    bells: list[Doorbell]
    writer_bell: Doorbell
    spec: RingSpec | None = None
    memory: int = -1
    on_close: Callable[[], None] = lambda: None

    def read_all(self) -> list[Any]:
        """What each reader reads next."""
        assert all(reader.may_read() for reader in self.readers)
        return [reader.read() for reader in self.readers]

    def pass_on(self, value: Any) -> Any:
        """Send a value; what the first reader gets. The others discard it."""
        self.send(value)
        first, *others = self.readers
        for other in others:
            other.discard()
        return first.read()

    def close(self) -> None:
        for end in (self.writer, *self.readers):
            end.close()
        self.on_close()
        for bell in (self.writer_bell, *self.bells):
            bell.close()
        self.close_memory()


def has_rung(bell: Doorbell) -> bool:
    """Whether it has rung since it was last asked."""
    try:
        os.eventfd_read(bell.fd)
    except BlockingIOError:
        return False
    return True


def open_ring(readers: int = 1, slots: int = SLOTS, keep: int = 1 << 20) -> Channel:
    """A ring whose ends each map the file by themselves, as in different processes."""
    spec = RingSpec(slots, readers, keep)
    writer_bell, bells = Doorbell.create(), [Doorbell.create() for _ in range(readers)]
    fd = create_ring(spec)
    reading = [RingReader(spec, os.dup(fd), number, writer_bell) for number in range(readers)]
    memory = os.dup(fd)
    return Channel(slots, RingWriter(spec, fd, bells), reading, bells, writer_bell, spec, memory)


def open_direct(readers: int = 1, slots: int = SLOTS) -> Channel:
    """A hand-over."""
    writer_bell, bells = Doorbell.create(), [Doorbell.create() for _ in range(readers)]
    direct = Direct(slots, bells, writer_bell)
    reading = [DirectReader(direct, number) for number in range(readers)]
    return Channel(slots, DirectWriter(direct), reading, bells, writer_bell)


class Mover:
    """Moves tensors within this process: a queue for each reader. One for the writer, and one for each reader."""

    on_gpu = False
    may_wait = True

    def __init__(self, queues: list[deque[Any]]) -> None:
        self.queues = queues

    def announce(self, tensors: Any) -> Any:
        return len(tensors)

    def check(self) -> None: ...

    def withdraw(self) -> None: ...

    def close(self) -> None: ...

    def send(self, tensors: Any) -> None:
        for queue in self.queues:
            queue.extend(tensors)

    def receive(self, headers: Any, note: Any) -> list[Any]:
        (queue,) = self.queues
        assert note == len(headers)
        received = [queue.popleft() for _ in headers]
        assert not any(header.mismatch(tensor) for header, tensor in zip(headers, received, strict=True))
        return [tensor.copy() for tensor in received]


def open_moved(readers: int = 1) -> Channel:
    """A ring whose tensors something else carries."""
    ring = open_ring(readers)
    queues: list[deque[Any]] = [deque() for _ in range(readers)]
    ring.writer = MovedWriter(ring.writer, Mover(queues), nullcontext)
    ring.readers = [
        MovedReader(reader, Mover([queue]), "the edge", nullcontext)
        for reader, queue in zip(ring.readers, queues, strict=True)
    ]
    return ring


def open_tcp(readers: int = 1, slots: int = SLOTS) -> Channel:
    """A channel over TCP, whose ends take their turns by themselves."""
    made, bell = link(readers, slots), Doorbell.create()
    reading = [TurningReader(made, reader) for reader in made.readers]
    writer = TurningWriter(made, bell)
    return Channel(slots, writer, reading, made.bells, bell, made.spec, on_close=made.close)


KINDS: dict[str, Callable[[], Channel]] = {
    "ring": open_ring,
    "ring-of-3": lambda: open_ring(3),
    "direct": open_direct,
    "direct-of-3": lambda: open_direct(3),
    "moved": open_moved,
    "moved-of-3": lambda: open_moved(3),
    "tcp": open_tcp,
    "tcp-of-3": lambda: open_tcp(3),
}


@pytest.fixture(params=KINDS)
def channel(request: pytest.FixtureRequest) -> Iterator[Channel]:
    """A channel of each kind."""
    made = KINDS[request.param]()
    yield made
    made.close()


@pytest.fixture(scope="session", params=KINDS)
def open_channel(request: pytest.FixtureRequest) -> Callable[[], Channel]:
    """Makes channels of one kind, for tests that need many of them."""
    return KINDS[request.param]


@pytest.fixture(scope="session")
def open_one_ring() -> Callable[[], Channel]:
    """Makes rings with one reader, for tests that need many of them."""
    return open_ring


@pytest.fixture
def make_ring() -> Iterator[Callable[..., Channel]]:
    """Makes rings, and closes them."""
    made: list[Channel] = []

    def make(*args: Any, **options: Any) -> Channel:
        made.append(open_ring(*args, **options))
        return made[-1]

    yield make
    for channel in made:
        channel.close()


@pytest.fixture
def ring(make_ring: Callable[..., Channel]) -> Channel:
    """A ring with one reader."""
    return make_ring()


@pytest.fixture
def open_link() -> Iterator[Callable[..., Link]]:
    """Opens channels over TCP, as bare as they are, and closes them."""
    made: list[Link] = []

    def make(**options: Any) -> Link:
        made.append(link(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands for an ObjectRef is not handed to a Ray to which other tests have connected this process."""
    monkeypatch.setattr(ray_objects, "global_worker", SimpleNamespace(connected=False))


@pytest.fixture
def start_script() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts scripts that lie beside the tests, each in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).with_name(name)), *arguments]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        started.append(subprocess.Popen(command, env=environment, text=True, **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def rung() -> Callable[[Doorbell], bool]:
    return has_rung
