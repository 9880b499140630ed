"""A process is killed while the other receives from it, or sends to it.

The one that is left must learn of it, its stream must go on once the link is destroyed, and the GPU must be as
good as before: a kernel runs, and a new edge to a new process carries a message.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import cupy

from async_adag.gpu.interface import DeviceError, Span
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.nccl import NcclLink
from tests.gpu.nccl_environment import look_like_a_host
from tests.gpu.ours import our_device
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

SIZE = 256 << 20
MIDST = 0.03  # seconds into a transfer that takes four times as long through sockets
PATIENCE = 10.0  # seconds to learn of a death, and for a stream to go on


def other(line: Line, rank: int, die: bool) -> None:
    """Be that rank; then die, or do its part of one message."""
    look_like_a_host(1)
    device = our_device()
    link = meet(line, rank)
    array = cupy.arange(SIZE // 4, dtype=cupy.uint32)
    stream = device.adopt(int(cupy.cuda.get_current_stream().ptr))
    if die:
        line.get()  # the other has issued its part
        (link.receive if rank else link.send)(Span(int(array.data.ptr), SIZE), stream)
        time.sleep(MIDST)
        line.put(time.perf_counter())
        os.kill(os.getpid(), signal.SIGKILL)
    sender = LinkSender(device, [link])
    note = sender.announce([Span(int(array.data.ptr), SIZE)], [array], stream)
    sender.send()
    line.put(note)
    line.get()
    sender.close()


def meet(line: Line, rank: int) -> NcclLink:
    """A link to the other process, whichever end makes the identity."""
    if rank == 0:
        identity = NcclLink.new_id()
        line.put(identity)
    else:
        identity = line.get()
    link = NcclLink(identity)
    link.initialize(rank)
    return link


def survive(rank: int) -> tuple[float, bool]:
    """Be left alone as that rank: the seconds until it is known, and whether the stream went on afterwards."""
    device = our_device()
    stream = device.stream()
    array = cupy.zeros(SIZE, cupy.uint8)
    with peer(other, 1 - rank, True) as line:
        link = meet(line, rank)
        end: Any
        if rank == 1:
            end = LinkReceiver(device, link)
            kept = end.receive(1, [SIZE], stream)
        else:
            end = LinkSender(device, [link])
            kept = end.announce([Span(int(array.data.ptr), SIZE)], [array], stream)
            end.send()
        line.put("issued")
        killed = line.get()
        known = None
        while known is None and time.perf_counter() - killed < PATIENCE:
            try:
                link.check()
                time.sleep(0.001)
            except DeviceError:
                known = time.perf_counter() - killed
        done = device.event()
        link.destroy()
        stream.record(done)
        limit = time.monotonic() + PATIENCE
        while not done.query() and time.monotonic() < limit:
            time.sleep(0.001)
        went_on = done.query()
        del kept
        end.close()
    return PATIENCE if known is None else known, went_on


def is_usable() -> bool:
    """Whether a kernel runs, and a new link to a new process carries a message."""
    if int(cupy.arange(1000).sum()) != 499_500:
        return False
    device = our_device()
    with peer(other, 0, False) as line:
        receiver = LinkReceiver(device, meet(line, 1))
        stream = device.adopt(int(cupy.cuda.get_current_stream().ptr))
        (arrived,) = receiver.receive(line.get(), [SIZE], stream)
        memory = cupy.cuda.UnownedMemory(arrived.span.address, SIZE, arrived)
        array = cupy.ndarray((SIZE // 4,), cupy.uint32, cupy.cuda.MemoryPointer(memory, 0))
        right = bool((array == cupy.arange(SIZE // 4, dtype=cupy.uint32)).all())
        line.put("done")
        del array, memory, arrived
        receiver.close()
    return right


def nccl_peer_killed(figures: Figures) -> dict[str, Any]:
    checks = {}
    look_like_a_host(0)
    for name, rank in (("receiving", 1), ("sending", 0)):
        known, went_on = survive(rank)
        figures.add(f"killed while the other was {name}, until it is known", "s", after=known)
        checks[name] = {"known": known < PATIENCE, "went_on": went_on, "usable": is_usable()}
    return checks


if __name__ == "__main__":
    run(nccl_peer_killed)
