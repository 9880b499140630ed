"""Hand-overs and more hand-overs: the device's free memory and both processes' descriptors stay where they are."""

from __future__ import annotations

import os
from typing import Any

from async_adag.gpu.acks import acks_size
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from tests.gpu.hand_over import Pooled, Reader, Writer
from tests.gpu.mailbox import Mailbox, Page
from tests.gpu.ours import free_memory, settle
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

SHAPES = ([4], [65_537, 1], [1 << 20], [8 << 20], [1000] * 8)
WARM, MESSAGES = 1000, 6000
IN_FLIGHT = 4
SLOTS = slots_for(IN_FLIGHT)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def reader(line: Line, page: Page, inbox: Mailbox) -> None:
    end = Reader(WARM + MESSAGES)
    receiver = IpcReceiver(end.device, page.memory, 0, SLOTS)
    counts = []
    for phase in (range(WARM), range(WARM, WARM + MESSAGES)):
        for number in phase:
            sizes, note = inbox.get()
            arrived = receiver.receive(note, sizes, end.stream)
            end.check(number, arrived, sizes)
            del arrived
        settle()
        counts.append(descriptors())
        line.put("done")
        line.get()
    line.put((end.wrong(), counts))
    receiver.close()


def memory_flat(figures: Figures) -> dict[str, Any]:
    page, inbox = Page(acks_size(SLOTS, 1)), Mailbox()
    free, counts = [], []
    with peer(reader, page, inbox) as line:
        end = Writer(Pooled())
        sender = IpcSender(end.device, page.memory, 1, SLOTS)
        for phase in (range(WARM), range(WARM, WARM + MESSAGES)):
            for number in phase:
                sizes = SHAPES[number % len(SHAPES)]
                spans, owners = end.make(number, sizes)
                inbox.put((sizes, sender.announce(spans, owners, end.stream)), room=IN_FLIGHT)
                sender.send()
                del owners
            line.get()
            settle()
            free.append(free_memory())
            counts.append(descriptors())
            line.put("go on")
        wrong, other_counts = line.get()
        sender.close()
    used = (free[0] - free[1]) / 2**20
    opened = [counts[1] - counts[0], other_counts[1] - other_counts[0]]
    figures.add(
        f"over {MESSAGES} messages, after {WARM}", "MiB", "flat", more_memory=used, more_descriptors=max(opened)
    )
    return {"wrong": wrong, "used": used, "opened": opened}


if __name__ == "__main__":
    run(memory_flat)
