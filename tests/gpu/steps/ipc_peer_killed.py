"""The writer of an edge on one GPU is killed, with a message that its device has not finished.

What had arrived stays readable, as the reader has its memory mapped, and the reader's device goes on. What
becomes of a stream that waits for an event of the dead process is CUDA's business: the step says what it saw.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import cupy

from async_adag.gpu.acks import acks_size
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from tests.gpu.hand_over import Pooled, Reader, Writer
from tests.gpu.mailbox import Page
from tests.gpu.peers import Line, peer
from tests.gpu.step import Figures, run

SIZE = 1 << 20
SLOTS = slots_for(2)
PATIENCE = 5.0  # seconds
LONG = 1.0  # seconds that the device still needs for the last message when its process is killed


def writer(line: Line, page: Page) -> None:
    end = Writer(Pooled())
    sender = IpcSender(end.device, page.memory, 1, SLOTS)
    for number in (0, 1):
        spans, owners = end.make(number, [SIZE])
        if number:
            end.kernels.spin(end.compute, LONG)
        note = sender.announce(spans, owners, end.stream)
        line.put(note)
        sender.send()
        line.get()
    os.kill(os.getpid(), signal.SIGKILL)


def ipc_peer_killed(figures: Figures) -> dict[str, Any]:
    page = Page(acks_size(SLOTS, 1))
    end = Reader(2)
    behind = end.device.stream()
    event = end.device.event()
    with peer(writer, page) as line:
        receiver = IpcReceiver(end.device, page.memory, 0, SLOTS, linger=1.0)
        first = receiver.receive(line.get(), [SIZE], end.stream)
        end.check(0, first, [SIZE])
        end.compute.synchronize()
        line.put("next")
        second = receiver.receive(line.get(), [SIZE], behind)
        behind.record(event)
        line.put("die")
        assert line.process is not None
        line.process.join(PATIENCE)
    ended = time.perf_counter()
    end.check(0, first, [SIZE], shift=0)
    end.compute.synchronize()
    usable = int(cupy.arange(1000).sum()) == 499_500
    while not (fired := event.query()) and time.perf_counter() - ended < PATIENCE:
        time.sleep(0.001)
    after = time.perf_counter() - ended
    outcome = f"went on {after:.3g} s after the death" if fired else f"still waits {PATIENCE:g} s after the death"
    figures.add("a stream that waited for the dead writer's event", outcome=outcome)
    checks = {"usable": usable, "fired": fired}
    if fired:
        checks["first message wrong"] = 0 in end.wrong()
        del first, second
        receiver.close()
    return checks


if __name__ == "__main__":
    run(ipc_peer_killed)
