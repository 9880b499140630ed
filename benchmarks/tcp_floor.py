"""A channel over TCP beside what one plain socket carries, between two processes on the loopback interface.

Run with ``python -m benchmarks.tcp_floor [seconds]``. They take turns, as the machine changes. What a wake-up
costs depends on whether both processes share a core, so small payloads are also measured with that decided.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

from async_adag.channels.attendant import Attendant
from async_adag.channels.codec import STOP
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.interface import Reader, Writer
from async_adag.channels.landed import LandedReader
from async_adag.channels.network import Network
from async_adag.channels.parking import Parking
from async_adag.channels.ring import RingSpec, RingWriter, create_ring
from async_adag.channels.stream import Stream, prepare
from benchmarks.pinning import two_cores

SLOTS = 16
ROUNDS = 5
PAYLOADS = {"int": 8, "1 KB": 1 << 10, "64 KB": 1 << 16, "1 MB": 1 << 20, "16 MB": 1 << 24, "64 MB": 1 << 26}
SMALL = ("int", "1 KB")
HEARTBEAT = 5.0
Cores = tuple[int, int] | None


class Ends:
    """One side's ends of two channels, one in each direction, and the wait of a loop."""

    def __init__(self, sending: socket.socket, receiving: socket.socket) -> None:
        self.attendant = Attendant()
        self.network = Network(self.attendant, HEARTBEAT)
        self.attendant.start()
        spec = RingSpec(SLOTS, 1, 1 << 26)
        self.bell = Doorbell.create()
        fd = create_ring(spec)
        self.writer: Writer = self.network.add_writer(0, Stream(sending), SLOTS)
        ring = RingWriter(spec, os.dup(fd), [self.bell])
        landing = self.network.add_landing(1, Stream(receiving), ring, own=0, shared=False)
        self.reader: Reader = LandedReader(spec, fd, 0, self.bell, landing)
        self._parking = Parking(self.bell, [], network=self.network)

    def send(self, value: Any) -> None:
        while not self.writer.may_write():
            self._parking.wait(self.writer.may_write, self.writer.arm)
        self.writer.stage(self.writer.encode(value))
        self.writer.publish()

    def read(self) -> Any:
        while not self.reader.may_read():
            self._parking.wait(self.reader.may_read, self.reader.arm)
        return self.reader.read()

    def close(self) -> None:
        self._parking.close()
        self.reader.close()
        self.writer.close()
        self.network.close()
        self.attendant.close()


def plain_answers(connection: socket.socket, size: int, answer: int) -> None:
    """Receive so many bytes and send others, again and again."""
    view, reply = memoryview(bytearray(size)), bytes(answer)
    while True:
        got = 0
        while got < size:
            count = connection.recv_into(view[got:])
            if not count:
                return
            got += count
        connection.sendall(reply)


def answer(port: int, kind: str, size: int) -> None:
    """The other process."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if kind == "plain":
        with connections[0], connections[1]:
            plain_answers(connections[0], size, 1 if size > 8 else 8)
        return
    for connection in connections:
        prepare(connection, HEARTBEAT)
    ends = Ends(*connections)
    while True:
        value = ends.read()
        if value is STOP:
            break
        ends.send(value if size <= 8 else 1)
    ends.close()


@contextmanager
def other_process(kind: str, size: int, cores: Cores = None) -> Iterator[list[socket.socket]]:
    """Start it; the connections to it: from it, and to it.

    ``cores``: where this process is to run, and that one.
    """
    before = os.sched_getaffinity(0)
    here, there = cores or (None, None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.tcp_floor", "answer", str(port), kind, str(size)]
        stay(there)
        process = subprocess.Popen(command)
        stay(here)
        connections = [listener.accept()[0] for _ in range(2)]
    try:
        yield connections
        process.wait(30)
    finally:
        for connection in connections:
            connection.close()
        process.kill()
        process.wait()
        os.sched_setaffinity(0, before)


def stay(core: int | None) -> None:
    """Have this thread, and whatever it starts from now on, run on one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def times_of(call: Callable[[], None], seconds: float) -> list[float]:
    times: list[float] = []
    until = perf_counter() + seconds
    began = perf_counter()
    while began < until or len(times) < 3:
        call()
        ended = perf_counter()
        times.append(ended - began)
        began = ended
    return times


def plain(size: int, seconds: float, cores: Cores = None) -> float:
    """The median time, in seconds, from sending ``size`` bytes to the answer."""
    return median(times_of_plain(size, seconds, cores))


def times_of_plain(size: int, seconds: float, cores: Cores = None) -> list[float]:
    """The times, in seconds, from sending ``size`` bytes over a plain socket to the answer."""
    with other_process("plain", size, cores) as (connection, _):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data, into = bytes(size), memoryview(bytearray(8))

        def call() -> None:
            connection.sendall(data)
            connection.recv_into(into)

        times_of(call, seconds / 5)
        times = times_of(call, seconds)
        connection.close()
    return times


def ours(size: int, seconds: float, cores: Cores = None) -> float:
    """The same through two channels; what is sent is an integer, or an array."""
    import numpy as np

    with other_process("ours", size, cores) as (receiving, sending):
        for connection in (receiving, sending):
            prepare(connection, HEARTBEAT)
        ends = Ends(sending, receiving)
        value: Any = 1 if size <= 8 else np.zeros(size, np.uint8)

        def call() -> None:
            ends.send(value)
            ends.read()

        times_of(call, seconds / 5)
        times = times_of(call, seconds)
        ends.send(STOP)
        ends.close()
    return median(times)


def main(seconds: float) -> None:
    """Print a line for each payload."""
    print(f"{'there, and an answer':<22}{'plain socket':>14}{'channel':>14}{'ratio':>8}")
    placements: dict[str, Cores] = {"": None}
    if (cores := two_cores()) is not None:
        placements |= {", one core": (cores[0], cores[0]), ", two cores": cores}
    for name, size in PAYLOADS.items():
        for where, cores in placements.items():
            if where and name not in SMALL:
                continue
            pairs = [(plain(size, seconds, cores), ours(size, seconds, cores)) for _ in range(ROUNDS)]
            floor, channel = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
            ratio = median(pair[1] / pair[0] for pair in pairs)
            label = f"{name}{where}"
            print(f"{label:<22}{floor * 1e6:>11.1f} us{channel * 1e6:>11.1f} us{ratio:>8.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["answer"]:
        answer(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.5)
