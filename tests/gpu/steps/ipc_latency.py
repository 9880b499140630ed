"""How long a hand-over between two processes on one GPU takes, by size.

Two figures of each. *Host*: the tensor is finished; from before the writer announces it until the reader's host
sees that its own stream has got past the wait for it. *Device*: the writer's kernel is still at work when the
reader's wait is issued; from the end of the last one to the beginning of the reader's first kernel, by the
device's clock. The notes go through a queue in shared memory at which both ends look without sleeping. Without
MPS, two processes do not run on one GPU at the same moment, so what takes the device from one to the other is in
it: the floor is the same by a bare word, which one process has its stream store and the other's waits for.
"""

from __future__ import annotations

import mmap
import time
from typing import Any

from async_adag.gpu.acks import acks_size
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from tests.gpu.hand_over import Exported, Pooled, Reader, Writer
from tests.gpu.kernels import Pinned
from tests.gpu.mailbox import Mailbox, Page
from tests.gpu.ours import settle
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

SIZES = {"4 B": 4, "1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20, "16 MiB": 16 << 20, "256 MiB": 256 << 20}
HOST, DEVICE = 150, 50  # hand-overs of each
WARM = 10  # more, ahead of those
PRODUCING = 400e-6  # seconds that the writer's kernel takes, so that the reader's wait is there before its end
SLOTS = slots_for(1)
EACH = WARM + HOST + WARM + DEVICE
MESSAGES = len(SIZES) * EACH
FLOOR = EACH  # messages


def reader(line: Line, page: Page, inbox: Mailbox, outbox: Mailbox) -> None:
    end = Reader(MESSAGES)
    receiver = IpcReceiver(end.device, page.memory, 0, SLOTS)
    stamps = Pinned(MESSAGES)
    ready = end.device.event()
    line.put("ready")
    while (message := inbox.get()) is not None:
        number, size, note, by_device = message
        arrived = receiver.receive(note, [size], end.stream)
        if by_device:
            end.kernels.spin_and_stamp(end.compute, 0, stamps.at(number))
            outbox.put(0)  # the writer's kernel may end
        end.stream.record(ready)
        while not ready.query():
            pass
        seen = time.perf_counter_ns()
        end.check(number, arrived, [size])
        del arrived
        settle()
        outbox.put(seen)
    line.put((end.wrong(), stamps.words.tolist()))
    receiver.close()


def measure(figures: Figures, name: str, source: Any, target: str) -> dict[str, Any]:
    page, inbox, outbox = Page(acks_size(SLOTS, 1)), Mailbox(), Mailbox()
    host: dict[str, list[float]] = {label: [] for label in SIZES}
    device: dict[str, list[int]] = {label: [] for label in SIZES}
    with peer(reader, page, inbox, outbox) as line:
        end = Writer(source)
        sender = IpcSender(end.device, page.memory, 1, SLOTS, source.pool)
        stamps = Pinned(MESSAGES)
        line.get()
        number = 0
        for label, size in SIZES.items():
            for turn in range(EACH):
                by_device = turn >= WARM + HOST
                spans, owners = end.make(number, [size])
                settle()
                if by_device:
                    end.kernels.spin_and_stamp(end.compute, PRODUCING, stamps.at(number))
                begin = time.perf_counter_ns()
                inbox.put((number, size, sender.announce(spans, owners, end.stream), by_device))
                sender.send()
                del owners
                if by_device:
                    outbox.get()
                seen = outbox.get()
                if by_device and turn >= WARM + HOST + WARM:
                    device[label].append(number)
                elif WARM <= turn < WARM + HOST:
                    host[label].append((seen - begin) / 1e9)
                number += 1
        inbox.put(None)
        wrong, begun = line.get()
        sender.close()
    ended = stamps.words.tolist()
    for label in SIZES:
        figures.latencies(f"{name}, {label}, host", host[label], target)
        figures.latencies(f"{name}, {label}, device", [(begun[n] - ended[n]) / 1e9 for n in device[label]], target)
    return {"messages": number, "wrong": wrong}


def floor_reader(line: Line, page: Page, inbox: Mailbox, outbox: Mailbox) -> None:
    end = Reader(1)
    words = end.device.words(memoryview(page.memory))
    stamps = Pinned(FLOOR)
    ready = end.device.event()
    line.put("ready")
    while (message := inbox.get()) is not None:
        number, by_device = message
        words.wait(end.stream, 0, number + 1)
        if by_device:
            end.kernels.spin_and_stamp(end.compute, 0, stamps.at(number))
            outbox.put(0)
        end.stream.record(ready)
        while not ready.query():
            pass
        outbox.put(time.perf_counter_ns())
    settle()
    line.put(stamps.words.tolist())
    words.close()


def measure_floor(figures: Figures) -> int:
    page, inbox, outbox = Page(mmap.PAGESIZE), Mailbox(), Mailbox()
    host: list[float] = []
    device: list[int] = []
    with peer(floor_reader, page, inbox, outbox) as line:
        end = Writer(Pooled())
        words = end.device.words(memoryview(page.memory))
        stamps = Pinned(FLOOR)
        line.get()
        for number in range(FLOOR):
            by_device = number >= WARM + HOST
            settle()
            if by_device:
                end.kernels.spin_and_stamp(end.compute, PRODUCING, stamps.at(number))
            begin = time.perf_counter_ns()
            words.store(end.stream, 0, number + 1)
            inbox.put((number, by_device))
            if by_device:
                outbox.get()
            seen = outbox.get()
            if number >= WARM + HOST + WARM:
                device.append(number)
            elif WARM <= number < WARM + HOST:
                host.append((seen - begin) / 1e9)
        settle()
        inbox.put(None)
        begun = line.get()
        words.close()
    ended = stamps.words.tolist()
    figures.latencies("the floor: a bare word, host", host)
    figures.latencies("the floor: a bare word, device", [(begun[n] - ended[n]) / 1e9 for n in device])
    return len(device)


def ipc_latency(figures: Figures) -> dict[str, Any]:
    assert measure_floor(figures) == DEVICE
    return {
        "where it is": measure(figures, "where it is", Exported(), "p50 <= 40"),
        "copied": measure(figures, "copied once", Pooled(), ""),
    }


if __name__ == "__main__":
    run(ipc_latency)
