"""A device on which work is done when the test says so, for what waits for a device."""

from __future__ import annotations

import os
import threading
from collections import deque

from async_adag.gpu.interface import CannotNotify, DeviceError


class ManualDevice:
    """Streams run as far as the next `ManualStream.work` that has not been `finish`ed.

    Attributes:
        can_notify: whether `notify` works here.
        skips: whether host functions are lost, as if the device were about to fail.
        open: streams and events that were made and not closed.
    """

    identity = "GPU-manual"
    name = "by hand"

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.can_notify = True
        self.skips = False
        self.failure = ""
        self.streams: list[ManualStream] = []
        self.open: set[object] = set()

    def enter(self) -> None:
        pass

    def stream(self) -> ManualStream:
        self.check()
        with self.changed:
            stream = ManualStream(self, 100 + len(self.streams))
            self.streams.append(stream)
            self.open.add(stream)
            return stream

    def event(self) -> ManualEvent:
        event = ManualEvent(self)
        self.open.add(event)
        return event

    def notify(self, stream: ManualStream, fd: int) -> None:
        if not self.can_notify:
            raise CannotNotify("not by hand")
        stream.issue(("ring", fd))

    def fail(self, why: str) -> None:
        """The device fails: nothing goes on, and every call says so."""
        with self.changed:
            self.failure = why
            self.changed.notify_all()

    def check(self) -> None:
        if self.failure:
            raise DeviceError(self.failure)

    def run(self) -> None:
        """Do what can be done; with the lock held."""
        going = True
        while going and not self.failure:
            going = False
            for stream in self.streams:
                going = stream.step() or going
        self.changed.notify_all()


class ManualStream:
    def __init__(self, device: ManualDevice, handle: int) -> None:
        self.device = device
        self.handle = handle
        self.issued: deque[tuple] = deque()

    def issue(self, what: tuple) -> None:
        self.device.check()
        with self.device.changed:
            self.issued.append(what)
            self.device.run()

    def work(self) -> None:
        """Issue work that takes until `finish`."""
        self.issue(("work",))

    def finish(self) -> None:
        """The work that this stream is at is done."""
        with self.device.changed:
            assert self.issued.popleft() == ("work",)
            self.device.run()

    def step(self) -> bool:
        if not self.issued:
            return False
        kind, *rest = self.issued[0]
        if kind == "work":
            return False
        if kind == "wait" and rest[0].passed < rest[1]:
            return False
        self.issued.popleft()
        if kind == "record":
            rest[0].passed = max(rest[0].passed, rest[1])
        elif kind == "ring" and not self.device.skips:
            os.eventfd_write(rest[0], 1)
        return True

    def record(self, event: ManualEvent) -> None:
        event.recorded += 1
        self.issue(("record", event, event.recorded))

    def wait(self, event: ManualEvent) -> None:
        self.issue(("wait", event, event.recorded))

    def close(self) -> None:
        self.device.open.discard(self)


class ManualEvent:
    def __init__(self, device: ManualDevice) -> None:
        self.device = device
        self.recorded = 0
        self.passed = 0

    def query(self) -> bool:
        self.device.check()
        return self.passed >= self.recorded

    def synchronize(self) -> None:
        with self.device.changed:
            self.device.changed.wait_for(lambda: self.device.failure or self.passed >= self.recorded)
        self.device.check()

    def close(self) -> None:
        self.device.open.discard(self)
