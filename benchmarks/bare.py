"""The bare loop: async_adag's own rings and codec between processes that do nothing else, without the library.

What an integer in a ring costs through a chain of processes, with several under way: the most that a graph over
these channels could carry. No graph, no event loop, no failure and no second caller is cared for here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from async_adag.channels.codec import STOP
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.parking import Parking
from async_adag.channels.ring import RingReader, RingSpec, RingWriter, create_ring
from benchmarks.measure import WARM_UP

SLOTS = 16
SPEC = RingSpec(SLOTS, readers=1, keep=0)
PATIENCE = 30.0  # seconds


class Ends:
    """What one process reads from, and writes to; each ring has the doorbells of both its ends.

    Args:
        inward: the descriptor of the ring that is read; owned from now on.
        outward: of the one that is written.
        own: this process's doorbell.
        before: that of whoever writes `inward`.
        behind: that of whoever reads `outward`.
    """

    def __init__(self, inward: int, outward: int, own: int, before: int, behind: int) -> None:
        self.reader = RingReader(SPEC, inward, 0, Doorbell(before))
        self.writer = RingWriter(SPEC, outward, [Doorbell(behind)])
        self._parking = Parking(Doorbell(own), [])

    def wait(self, ready: Callable[[], bool], arm: Callable[[], bool]) -> None:
        """Wait for news of one of the ends."""
        while not ready():
            self._parking.wait(ready, arm)

    def pass_on(self) -> None:
        """Write what is read, until that is STOP."""
        reader, writer = self.reader, self.writer
        while True:
            self.wait(reader.may_read, reader.arm)
            value = reader.read()
            self.wait(writer.may_write, writer.arm)
            writer.stage(writer.encode(value))
            writer.publish()
            if value is STOP:
                return

    def rate(self, in_flight: int, seconds: float) -> float:
        """Integers per second there and back, while so many are under way: one is sent, and one waited for."""
        reader, writer = self.reader, self.writer
        done = under_way = 0
        began = now = perf_counter()
        while now < began + seconds:
            writer.stage(writer.encode(1))
            writer.publish()
            under_way += 1
            if under_way == in_flight:
                self.wait(reader.may_read, reader.arm)
                reader.read()
                under_way -= 1
                done += 1
            now = perf_counter()
        for _ in range(under_way):
            self.wait(reader.may_read, reader.arm)
            reader.read()
        return done / (now - began)

    def stop(self) -> None:
        """Have all of the chain end."""
        self.writer.stage(self.writer.encode(STOP))
        self.writer.publish()
        self.wait(self.reader.may_read, self.reader.arm)

    def close(self) -> None:
        """Let go of both ends."""
        self._parking.close()
        self.reader.close()
        self.writer.close()


def throughput(stages: int, in_flight: int, seconds: float) -> float:
    """Integers per second through a chain of so many processes and back, ``in_flight`` of them under way.

    Raises:
        subprocess.TimeoutExpired: one of the processes does not end.
    """
    with _chain(stages) as ends:
        ends.rate(in_flight, WARM_UP * seconds)
        return ends.rate(in_flight, seconds)


@contextmanager
def _chain(stages: int) -> Iterator[Ends]:
    members = stages + 1  # this process is the first
    rings = [create_ring(SPEC) for _ in range(members)]  # ring N is written by member N
    bells = [Doorbell.create() for _ in range(members)]

    def places(member: int) -> list[int]:
        before, behind = (member - 1) % members, (member + 1) % members
        return [rings[before], rings[member], bells[member].fd, bells[before].fd, bells[behind].fd]

    processes = []
    try:
        for member in range(1, members):
            fds = places(member)
            command = [sys.executable, "-m", "benchmarks.bare", json.dumps(fds)]
            processes.append(subprocess.Popen(command, pass_fds=set(fds)))
        inward, outward, *rest = places(0)
        ends = Ends(os.dup(inward), os.dup(outward), *rest)
        yield ends
        ends.stop()
        ends.close()
        for process in processes:
            process.wait(PATIENCE)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for fd in (*rings, *(bell.fd for bell in bells)):
            os.close(fd)


if __name__ == "__main__":
    Ends(*json.loads(sys.argv[1])).pass_on()
