"""An NCCL edge beside NCCL itself: the same sizes, in turns, in the same two processes.

*Hop*: one message at a time; from before the writer does anything for it until the reader's host sees it received.
Both are told of it by the same queue; NCCL itself is then called with nothing around it. *Burst*: several messages
behind one another, from the first being sent until the last is received. The transport is sockets of the loopback
interface: what is compared is what an edge adds, and the bandwidth says nothing about a real one.
"""

from __future__ import annotations

import time
from typing import Any

import cupy

from async_adag.gpu.interface import Span
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.nccl import NcclLink
from tests.gpu.hand_over import Pooled, Reader, Writer
from tests.gpu.mailbox import Mailbox
from tests.gpu.nccl_environment import look_like_a_host
from tests.gpu.ours import settle
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, percentile, run

HOPS = {"4 B": (4, 100), "64 KiB": (1 << 16, 100), "1 MiB": (1 << 20, 100), "16 MiB": (16 << 20, 20)}
BURSTS = {"1 MiB": (1 << 20, 32), "16 MiB": (16 << 20, 6), "64 MiB": (64 << 20, 3)}
ROUNDS = 4
WARM = 5
RAW, OURS = 0, 1


def communicator(rank: int, identity: Any) -> Any:
    from cupy.cuda import nccl

    return nccl.NcclCommunicator(2, identity, rank)


def reader(line: Line, inbox: Mailbox, outbox: Mailbox) -> None:
    from cupy.cuda import nccl

    look_like_a_host(1)
    end = Reader(1)
    link = NcclLink(line.get())
    link.initialize(1)
    raw = communicator(1, line.get())
    receiver = LinkReceiver(end.device, link)
    stream = end.device.stream()
    memory = end.device.allocate(1 << 26)
    done = end.device.event()
    line.put("ready")
    # Each message is a question: what to take in, how often, and whether the host is to see it when it is there.
    while (message := inbox.get()) is not None:
        way, size, count, note = message
        for number in range(count):
            if number:
                note = inbox.get()
            if way == RAW:
                raw.recv(memory.span.address, size, nccl.NCCL_UINT8, 0, stream.handle)
                stream.record(done)
            else:
                arrived = receiver.receive(note, [size], end.stream)
                end.stream.record(done)
                del arrived
        while not done.query():
            pass
        outbox.put(time.perf_counter_ns())
    raw.abort()
    receiver.close()


class Sides:
    """The writer's ends: NCCL itself, and an edge."""

    def __init__(self, line: Line, inbox: Mailbox, outbox: Mailbox) -> None:
        self.end = Writer(Pooled())
        self.inbox, self.outbox = inbox, outbox
        look_like_a_host(0)
        identity = NcclLink.new_id()
        line.put(identity)
        link = NcclLink(identity)
        link.initialize(0)
        identity = NcclLink.new_id()
        line.put(identity)
        self.raw = communicator(0, identity)
        self.sender = LinkSender(self.end.device, [link])
        self.stream = self.end.device.stream()
        self.array = cupy.zeros(1 << 26, cupy.uint8)
        self.address = int(self.array.data.ptr)
        settle()
        line.get()

    def send(self, way: int, size: int, count: int = 1) -> float:
        """Send so many messages; the seconds until the last was received."""
        from cupy.cuda import nccl

        begin = time.perf_counter_ns()
        for number in range(count):
            if way == RAW:
                note = 0
            else:
                note = self.sender.announce([Span(self.address, size)], [self.array], self.end.stream)
            self.inbox.put(note if number else (way, size, count, note))
            if way == RAW:
                self.raw.send(self.address, size, nccl.NCCL_UINT8, 1, self.stream.handle)
            else:
                self.sender.send()
        return (self.outbox.get() - begin) / 1e9

    def compare(self, size: int, count: int, times: int) -> tuple[list[float], list[float]]:
        """NCCL itself, and an edge, in turns that begin with either."""
        taken: tuple[list[float], list[float]] = ([], [])
        for turn in range(WARM + times):
            for way in (RAW, OURS) if turn % 2 else (OURS, RAW):
                seconds = self.send(way, size, count)
                if turn >= WARM:
                    taken[way].append(seconds)
        return taken


def nccl_beside_raw(figures: Figures) -> dict[str, Any]:
    inbox, outbox = Mailbox(), Mailbox()
    added, ratios = {}, {}
    with peer(reader, inbox, outbox) as line:
        sides = Sides(line, inbox, outbox)
        for label, (size, times) in HOPS.items():
            raw, ours = sides.compare(size, 1, times)
            figures.latencies(f"hop of {label}, NCCL itself", raw)
            figures.latencies(f"hop of {label}, edge", ours)
            added[label] = (percentile(ours, 50) - percentile(raw, 50)) * 1e6
            figures.add(f"hop of {label}, added", "µs", "<= 30", p50=added[label])
        for label, (size, count) in BURSTS.items():
            raw, ours = sides.compare(size, count, ROUNDS)
            speeds = [size * count / percentile(seconds, 50) / 1e9 for seconds in (raw, ours)]
            ratios[label] = speeds[OURS] / speeds[RAW]
            figures.add(f"burst of {count} x {label}", "GB/s", nccl=speeds[RAW], edge=speeds[OURS])
            figures.add(f"burst of {count} x {label}, edge to NCCL", "", ">= 0.97", ratio=ratios[label])
        inbox.put(None)
        sides.raw.abort()
        sides.sender.close()
    return {"added": added, "ratios": ratios}


if __name__ == "__main__":
    run(nccl_beside_raw)
