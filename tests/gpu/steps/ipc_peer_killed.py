"""The writer of an edge on one GPU is killed, with a message that its device has not finished.

What had arrived stays readable, as the reader has its memory mapped, and the reader's device goes on. The stream
that waits for the dead writer does so until the reader gives it up; then it goes on, and everything can be closed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
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
UNTOUCHED = 0.5  # seconds for which the stream is watched before the writer is given up
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
    end.check(0, first, [SIZE])
    end.compute.synchronize()
    waited = not passes(event, UNTOUCHED)
    released = time.perf_counter()
    receiver.release()
    checks: dict[str, Any] = {"waited": waited, "went on": passes(event, PATIENCE)}
    after = time.perf_counter() - released
    outcome = f"went on after {after * 1e6:.0f} us" if checks["went on"] else f"still waits after {PATIENCE:g} s"
    figures.add("a stream that waited for a dead writer, given up", outcome=outcome)
    if checks["went on"]:  # else whatever waits for the whole device would never return
        checks["usable"] = int(cupy.arange(1000).sum()) == 499_500
        checks["first message wrong"] = 0 in end.wrong()
        del first, second
        receiver.close()
        checks["closed"] = receiver.is_free
    return checks


def passes(event: Any, seconds: float) -> bool:
    """Whether the device passes it within so long."""
    limit = time.perf_counter() + seconds
    while not event.query():
        if time.perf_counter() > limit:
            return False
        time.sleep(0.0001)
    return True


if __name__ == "__main__":
    status = 1
    try:
        run(ipc_peer_killed)
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)  # else whatever still waits on the device would keep the process
