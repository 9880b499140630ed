"""Do hand-overs of finished work cost the work that follows any time?

Three runs of each kind of edge: compute only, communication only, and both, where each message waits for the work
before it and travels beside the work behind it. The work is made to take as long as the communication, on half of
the multiprocessors, as copying on one GPU needs some as well. The reader shares the device, and two processes take
turns on it, unless by MPS; NCCL goes through sockets. So what is seen here is whether something waits that need
not; how NVLink and peer copies go along with computing, one GPU cannot show.
"""

from __future__ import annotations

import time
from typing import Any

from async_adag.gpu.acks import acks_size
from async_adag.gpu.interface import Span
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.nccl import NcclLink
from tests.gpu.hand_over import Pooled, Reader, Writer
from tests.gpu.kernels import BLOCKS
from tests.gpu.mailbox import Mailbox, Page
from tests.gpu.nccl_environment import look_like_a_host
from tests.gpu.ours import settle
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, percentile, run

IN_FLIGHT = 8
SLOTS = slots_for(IN_FLIGHT)
ROUNDS = 3
KINDS = {"IPC, copied once": (256 << 20, 50), "NCCL": (8 << 20, 30)}  # bytes of a message, and how many
BUSY = BLOCKS // 8  # blocks of work: one for every second multiprocessor, so that copying has room beside it


def reader(line: Line, page: Page, inbox: Mailbox, outbox: Mailbox, by_nccl: bool, size: int) -> None:
    end = Reader(1)
    receiver: Any
    if by_nccl:
        look_like_a_host(1)
        link = NcclLink(line.get())
        link.initialize(1)
        receiver = LinkReceiver(end.device, link)
    else:
        receiver = IpcReceiver(end.device, page.memory, 0, SLOTS)
    line.put("ready")
    while (count := inbox.get()) is not None:
        for number in range(count):
            arrived = receiver.receive(inbox.get(), [size], end.stream)
            if number == count - 1:
                end.check(0, arrived, [size])
            del arrived
        settle()
        outbox.put(0)
    line.put(end.wrong())
    receiver.close()


class Runs:
    """Runs with one kind of edge."""

    def __init__(self, line: Line, page: Page, inbox: Mailbox, outbox: Mailbox, by_nccl: bool, size: int) -> None:
        self.inbox, self.outbox = inbox, outbox
        self.end = Writer(Pooled())
        self.sender: Any
        if by_nccl:
            look_like_a_host(0)
            identity = NcclLink.new_id()
            line.put(identity)
            link = NcclLink(identity)
            link.initialize(0)
            self.sender = LinkSender(self.end.device, [link])
        else:
            self.sender = IpcSender(self.end.device, page.memory, 1, SLOTS)
        self.spans: list[Span]
        self.spans, self.owners = self.end.make(0, [size])
        line.get()

    def run(self, count: int, rounds: int, communicate: bool) -> float:
        """The seconds of so many turns of work (if ``rounds`` is not 0) and communication."""
        settle()
        begin = time.perf_counter()
        if communicate:
            self.inbox.put(count)
        for _ in range(count):
            if rounds:
                self.end.kernels.work(self.end.compute, rounds, BUSY)
            if communicate:
                note = self.sender.announce(self.spans, self.owners, self.end.stream)
                self.inbox.put(note, room=IN_FLIGHT)
                self.sender.send()
        settle()
        if communicate:
            self.outbox.get()
        return time.perf_counter() - begin

    def rounds_for(self, seconds: float) -> int:
        """How many rounds of work take that long."""
        few, many = 2000, 50_000
        self.run(3, few, communicate=False)
        taken = [self.run(20, rounds, communicate=False) / 20 for rounds in (few, many)]
        return max(1, int(seconds * (many - few) / max(taken[1] - taken[0], 1e-6)))


def overlap(figures: Figures) -> dict[str, Any]:
    checks = {}
    for name, (size, count) in KINDS.items():
        by_nccl = name == "NCCL"
        page, inbox, outbox = Page(acks_size(SLOTS, 1)), Mailbox(), Mailbox()
        with peer(reader, page, inbox, outbox, by_nccl, size) as line:
            runs = Runs(line, page, inbox, outbox, by_nccl, size)
            runs.run(count, 0, communicate=True)
            alone = runs.run(count, 0, communicate=True) / count
            rounds = runs.rounds_for(alone)
            taken: dict[str, list[float]] = {"compute": [], "communication": [], "both": []}
            for _ in range(ROUNDS):
                taken["compute"].append(runs.run(count, rounds, communicate=False))
                taken["communication"].append(runs.run(count, 0, communicate=True))
                taken["both"].append(runs.run(count, rounds, communicate=True))
            inbox.put(None)
            wrong = line.get()
            runs.sender.close()
        middle = {kind: percentile(seconds, 50) for kind, seconds in taken.items()}
        figures.add(f"{name}, {count} messages", "ms", "", **{kind: value * 1e3 for kind, value in middle.items()})
        ratio = middle["both"] / max(middle["compute"], middle["communication"])
        figures.add(f"{name}, both to the larger", target="<= 1.05", ratio=ratio)
        checks[name] = {"wrong": wrong, "ratio": ratio}
    return checks


if __name__ == "__main__":
    run(overlap)
