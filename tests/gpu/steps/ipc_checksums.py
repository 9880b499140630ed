"""10,000 messages between two processes on one GPU, eight in flight, every byte of them compared on the device.

Half of the time the reader keeps what it got for a while, and now and then its device falls behind, so that slots
are waited for, leases run out and the receiver copies. Three kinds of hand-over: memory that readers use where it
is, memory that is copied once, and arrays of cupy in our pool, where small ones are copied. The control checks
every hundredth message as another one: all of those must be found.
"""

from __future__ import annotations

import time
from typing import Any

from async_adag.gpu.acks import acks_size
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from tests.gpu.hand_over import Exported, FromExportablePool, Pooled, Reader, Writer
from tests.gpu.mailbox import Mailbox, Page
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

MESSAGES = 10_000
IN_FLIGHT = 8
SLOTS = slots_for(IN_FLIGHT)
KEPT = SLOTS  # more than may be leased
SHAPES = ([4], [1], [4096, 4, 65537], [1 << 20], [100, 100], [333_333], [4, 4, 4, 4], [1 << 16])
RARE = [16 << 20]
CONTROL = 100
SOURCES = {"where it is": Exported, "copied once": Pooled, "cupy's arrays in our pool": FromExportablePool}


def sizes_of(number: int) -> list[int]:
    return RARE if number % 250 == 0 else SHAPES[number % len(SHAPES)]


def reader(line: Line, page: Page, inbox: Mailbox) -> None:
    end, control = Reader(MESSAGES), Reader(MESSAGES)
    receiver = IpcReceiver(end.device, page.memory, 0, SLOTS)
    kept: list[Any] = []
    line.put("ready")
    for number in range(MESSAGES):
        sizes, note = inbox.get()
        arrived = receiver.receive(note, sizes, end.stream)
        if number % 500 == 499:
            end.kernels.spin(end.compute, 5e-3)
        end.check(number, arrived, sizes)
        if number % CONTROL == 0:
            control.check(number, arrived, sizes, shift=1)
            control.compute.synchronize()
        if number // 50 % 2:
            kept.append(arrived)
            if len(kept) > KEPT:
                kept.pop(0)
        else:
            kept.clear()
        del arrived
    kept.clear()
    line.put((end.wrong(), control.wrong()))
    receiver.close()


def send_all(source: Any) -> dict[str, Any]:
    page, inbox = Page(acks_size(SLOTS, 1)), Mailbox()
    with peer(reader, page, inbox) as line:
        end = Writer(source)
        sender = IpcSender(end.device, page.memory, 1, SLOTS, source.pool)
        line.get()
        begin = time.perf_counter()
        for number in range(MESSAGES):
            sizes = sizes_of(number)
            spans, owners = end.make(number, sizes)
            note = sender.announce(spans, owners, end.stream)
            del owners
            inbox.put((sizes, note), room=IN_FLIGHT)
            sender.send()
        wrong, found = line.get()
        seconds = time.perf_counter() - begin
        sender.close()
    return {"wrong": wrong, "found": found, "seconds": seconds}


def ipc_checksums(figures: Figures) -> dict[str, Any]:
    results = {}
    for name, source in SOURCES.items():
        results[name] = result = send_all(source())
        figures.add(
            f"{name}, {IN_FLIGHT} in flight",
            target="0 wrong",
            messages=MESSAGES,
            wrong=len(result["wrong"]),
            per_second=round(MESSAGES / result["seconds"]),
        )
    return {"results": results, "control": list(range(0, MESSAGES, CONTROL))}


if __name__ == "__main__":
    run(ipc_checksums)
