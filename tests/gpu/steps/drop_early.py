"""A sender that drops its tensor at once, and whose allocator hands the memory out again.

The tensor is cupy's, and as soon as it is announced and sent the writer drops it, takes a new array of that size
and has it overwritten on another stream, while the transfer waits or is under way. Edges hold what they were
given until the device has read it, so the new array lies elsewhere. The control gives the edge nothing to hold:
it gets the same memory, and the reader finds what was not sent.
"""

from __future__ import annotations

from typing import Any

import cupy

from async_adag.gpu.acks import acks_size
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.nccl import NcclLink
from tests.gpu.hand_over import Pooled, Reader, Writer
from tests.gpu.mailbox import Mailbox, Page
from tests.gpu.nccl_environment import look_like_a_host
from tests.gpu.ours import settle
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

MESSAGES = 5
SIZE = 64 << 20
SLOTS = 4
DELAY = 20e-3  # seconds between the filling of a tensor and its hand-over, on the writer's stream


def reader(line: Line, page: Page, inbox: Mailbox, by_nccl: bool) -> None:
    end = Reader(MESSAGES)
    receiver: Any
    if by_nccl:
        look_like_a_host(1)
        link = NcclLink(line.get())
        link.initialize(1)
        receiver = LinkReceiver(end.device, link)
    else:
        receiver = IpcReceiver(end.device, page.memory, 0, SLOTS)
    line.put("ready")
    for number in range(MESSAGES):
        arrived = receiver.receive(inbox.get(), [SIZE], end.stream)
        end.check(number, arrived, [SIZE])
        del arrived
        settle()
        line.put(number)
    line.put(end.wrong())
    receiver.close()


def send(by_nccl: bool, held: bool) -> tuple[list[int], int]:
    """Send all; which were wrong, and how often the memory of a tensor was handed out again while it was sent."""
    page, inbox = Page(acks_size(SLOTS, 1)), Mailbox()
    with peer(reader, page, inbox, by_nccl) as line:
        end = Writer(Pooled())
        sender: Any
        if by_nccl:
            look_like_a_host(0)
            identity = NcclLink.new_id()
            line.put(identity)
            link = NcclLink(identity)
            link.initialize(0)
            sender = LinkSender(end.device, [link])
        else:
            sender = IpcSender(end.device, page.memory, 1, SLOTS)
        line.get()
        other = cupy.cuda.Stream(non_blocking=True)
        filled = cupy.cuda.Event()
        again = 0
        for number in range(MESSAGES):
            spans, owners = end.make(number, [SIZE])
            filled.record(end.compute)
            end.kernels.spin(end.compute, DELAY)
            inbox.put(sender.announce(spans, owners if held else [None], end.stream))
            sender.send()
            del owners
            with end.compute:  # cupy's pool hands memory out again on the stream where it was freed
                new = cupy.empty(SIZE, cupy.uint8)
            again += int(new.data.ptr) == spans[0].address
            other.wait_event(filled)
            with other:
                cupy.cuda.runtime.memsetAsync(new.data.ptr, 0, SIZE, other.ptr)
            line.get()
            settle()
            del new
        wrong: list[int] = line.get()
        sender.close()
    return wrong, again


def drop_early(figures: Figures) -> dict[str, Any]:
    results = {}
    for name, by_nccl in (("IPC, copied once", False), ("NCCL", True)):
        for held in (True, False):
            wrong, again = send(by_nccl, held)
            kind = "held" if held else "not held"
            figures.add(f"{name}, {kind}", messages=MESSAGES, wrong=len(wrong), memory_reused=again)
            results[f"{name}, {kind}"] = {"wrong": wrong, "again": again}
    return results


if __name__ == "__main__":
    run(drop_early)
