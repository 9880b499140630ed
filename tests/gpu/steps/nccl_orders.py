"""Two communicators, one for each direction, whose operations the two processes issue in opposite orders.

Graphs issue in one order, fixed at compile; this shows what that is worth on this machine. Each operation has a
stream of its own, so that nothing but NCCL and the device can hold up one for the other. In the same order both
must arrive, right. In opposite orders they may: the step says whether they did, and where they did not, aborting
both has to leave the GPU usable.
"""

from __future__ import annotations

import time
from typing import Any

import cupy

from async_adag.gpu.interface import Span
from async_adag.gpu.nccl import NcclLink
from tests.gpu.kernels import Counters, Kernels
from tests.gpu.nccl_environment import look_like_a_host
from tests.gpu.ours import in_cupy, our_device
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

SIZE = 16 << 20
ROUNDS = 20
LIMIT = 8.0  # seconds after which a round counts as stuck


class Side:
    """One process: it sends on the link where it is rank 0, and receives on the other."""

    def __init__(self, rank: int, line: Line) -> None:
        self.device = our_device()
        self.kernels = Kernels()
        self.rank = rank
        identities = [NcclLink.new_id() if rank == 0 else None, None]
        if rank == 0:
            line.put(identities[0])
            identities[1] = line.get()
        else:
            identities[0] = line.get()
            identities[1] = NcclLink.new_id()
            line.put(identities[1])
        self.links = [NcclLink(identity) for identity in identities]
        for number, link in enumerate(self.links):
            link.initialize(rank if number == 0 else 1 - rank)
        self.streams = [self.device.stream() for _ in self.links]
        self.arrays = [cupy.zeros(SIZE, cupy.uint8) for _ in self.links]
        self.wrong = Counters(ROUNDS)

    def round(self, number: int, order: tuple[int, int]) -> None:
        """Issue one operation on each link, in that order."""
        for index in order:
            span, stream = Span(int(self.arrays[index].data.ptr), SIZE), self.streams[index]
            if index == self.rank:
                self.kernels.fill(in_cupy(stream), span.address, SIZE, number * 2 + index)
                self.links[index].send(span, stream)
            else:
                self.links[index].receive(span, stream)
                self.kernels.check(in_cupy(stream), span.address, SIZE, number * 2 + index, self.wrong.at(number))

    def run(self, line: Line, opposite: bool) -> tuple[bool, float, int]:
        """Do all rounds: whether they came to their end, how long they took, and how many were wrong."""
        order = (1, 0) if opposite and self.rank else (0, 1)
        line.put("go")
        line.get()
        begin = time.perf_counter()
        for number in range(ROUNDS):
            self.round(number, order)
        events = [self.device.event() for _ in self.streams]
        for stream, event in zip(self.streams, events, strict=True):
            stream.record(event)
        while not (done := all(event.query() for event in events)) and time.perf_counter() - begin < LIMIT:
            time.sleep(0.0005)
        seconds = time.perf_counter() - begin
        line.put(done)
        done = line.get() and done
        if not done:
            for link in self.links:
                link.destroy()
            return False, seconds, 0
        return True, seconds, int((self.wrong.read() > 0).sum())

    def close(self) -> None:
        for link in self.links:
            link.destroy()


def other(line: Line) -> None:
    look_like_a_host(1)
    for opposite in (False, True):
        side = Side(1, line)
        line.put(side.run(line, opposite))
        line.get()
        side.close()


def nccl_orders(figures: Figures) -> dict[str, Any]:
    checks = {}
    look_like_a_host(0)
    with peer(other) as line:
        for name, opposite in (("same order", False), ("opposite orders", True)):
            side = Side(0, line)
            done, seconds, wrong = side.run(line, opposite)
            there_done, _, there_wrong = line.get()
            usable = int(cupy.arange(1000).sum()) == 499_500
            line.put("next")
            side.close()
            checks[name] = {"done": done and there_done, "wrong": wrong + there_wrong, "usable": usable}
            outcome = "all arrived" if done and there_done else f"stuck for {LIMIT:g} s, aborted"
            figures.add(f"two directions, {name}", outcome=outcome, rounds=ROUNDS, seconds=seconds)
    return checks


if __name__ == "__main__":
    run(nccl_orders)
