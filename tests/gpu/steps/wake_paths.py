"""How an event loop learns that the device is done: how late, at which cost, and whether it holds up the device.

*Latency*: from the last instruction of a kernel, by the device's clock, until the coroutine goes on, by the
host's; the clocks are compared before and after. *CPU*: of this whole process, while it awaits kernels of 10 ms.
*Stall*: by how much kernels on one stream take longer, each, when every one of them is to be told of.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import cupy
import uvloop

from async_adag.channels.pollers import FixedPoller
from async_adag.gpu.awaiting import Completions
from async_adag.gpu.interface import CannotNotify
from async_adag.protocol.polling import Poller
from tests.gpu.clocks import compare
from tests.gpu.control import WithoutHostFunctions
from tests.gpu.kernels import Kernels, Pinned
from tests.gpu.ours import in_cupy, our_device, settle
from tests.gpu.step import Figures, run

WAKES, WARM = 300, 20
KERNEL = 300e-6  # seconds: what is awaited is not done before the awaiting begins
LONG, LONGS = 10e-3, 50
ROW = 200  # kernels behind one another
LOOKING = 1_000_000  # ns, as with `busy_poll=1e-3`
TARGET = "p50 <= 50"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Wakes:
    """Kernels that are awaited, and when they ended."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.device = our_device()
        self.stream = self.device.stream()
        self.compute = in_cupy(self.stream)
        self.kernels = Kernels()
        self.stamps = Pinned(max(WAKES + WARM, ROW))
        self.kernels.spin_and_stamp(self.compute, 0, self.stamps.at(0))
        self.kernels.spin(self.compute, 0)
        settle()
        self.early = 0
        self.error = 0

    def note(self, name: str, seen: list[int], target: str = "") -> None:
        """Add the latencies of kernels that were seen to have ended, by the host's clock, at ``seen``."""
        settle()
        ended = self.stamps.words[: len(seen)].tolist()
        offset = compare(self.kernels, self.compute)
        self.error = max(self.error, offset.error)
        late = [woken - offset.host(stamp) for woken, stamp in zip(seen, ended, strict=True)][WARM:]
        self.early += sum(ns < -2 * offset.error - 1000 for ns in late)
        self.figures.latencies(f"{name}, latency", [ns / 1e9 for ns in late], target)

    async def awaited(self, name: str, device: Any, poller: Poller | None = None) -> None:
        """The latency and the CPU of awaiting by ``device``, in the running loop."""
        completions = Completions(device, poller=poller)
        seen = []
        for number in range(WARM + WAKES):
            self.kernels.spin_and_stamp(self.compute, KERNEL, self.stamps.at(number))
            await completions.future_for(self.stream)
            seen.append(time.perf_counter_ns())
        self.note(name, seen, TARGET)
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(LONGS):
            self.kernels.spin(self.compute, LONG)
            await completions.future_for(self.stream)
        self.figures.add(f"{name}, CPU", "%", cpu=percent(cpu, wall))
        completions.close()

    def blocking(self, name: str, wait: Callable[[], None]) -> None:
        """The same of a thread that waits."""
        seen = []
        for number in range(WARM + WAKES):
            self.kernels.spin_and_stamp(self.compute, KERNEL, self.stamps.at(number))
            wait()
            seen.append(time.perf_counter_ns())
        self.note(name, seen)
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(LONGS):
            self.kernels.spin(self.compute, LONG)
            wait()
        self.figures.add(f"{name}, CPU", "%", cpu=percent(cpu, wall))

    def row(self, tell: Callable[[], Any]) -> float:
        """The seconds that each of a row of kernels takes, with ``tell`` behind each."""
        settle()
        self.kernels.spin(self.compute, 20e-3)  # the host gets ahead
        for number in range(ROW):
            self.kernels.spin_and_stamp(self.compute, 200e-6, self.stamps.at(number))
            tell()
        settle()
        return int(self.stamps.words[ROW - 1] - self.stamps.words[0]) / (ROW - 1) / 1e9

    async def stalls(self) -> None:
        completions, reaped = Completions(self.device), Completions(WithoutHostFunctions(self.device))
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        futures: list[Any] = []
        ways: dict[str, Callable[[], Any]] = {
            "host function on a side stream": lambda: futures.append(completions.future_for(self.stream)),
            "reaper thread": lambda: futures.append(reaped.future_for(self.stream)),
            "host function on the stream itself": lambda: self.device.notify(self.stream, fd),
        }
        for name, tell in ways.items():
            without = self.row(lambda: None)
            try:
                stall = self.row(tell) - without
            except CannotNotify as reason:
                self.figures.add(f"{name}, stall", not_measured=str(reason))
                continue
            self.figures.add(f"{name}, stall of each kernel", "µs", mean=stall * 1e6)
            await asyncio.gather(*futures)
            futures.clear()
        completions.close()
        reaped.close()
        os.close(fd)


def percent(cpu: float, wall: float) -> float:
    return 100 * (time.process_time() - cpu) / (time.perf_counter() - wall)


def wake_paths(figures: Figures) -> dict[str, Any]:
    wakes = Wakes(figures)
    device = wakes.device
    ways: dict[str, Any] = {"reaper thread": WithoutHostFunctions(device)}
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        device.notify(wakes.stream, fd)
        ways = {"host function": device, **ways}
        settle()
    except CannotNotify as reason:
        figures.add("host function", not_measured=str(reason))
    for loop_name, loop_factory in LOOPS.items():
        for way, by in ways.items():
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(wakes.awaited(f"{way}, {loop_name}", by))
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(wakes.awaited(f"looking for 1 ms first, {loop_name}", device, FixedPoller(LOOKING)))
    event = cupy.cuda.Event(block=False, disable_timing=True)
    ours = device.event()

    def spin() -> None:
        event.record(wakes.compute)
        event.synchronize()

    def sleep() -> None:
        wakes.stream.record(ours)
        ours.synchronize()

    wakes.blocking("spinning in cudaEventSynchronize", spin)
    wakes.blocking("sleeping in it", sleep)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(wakes.stalls())
    figures.add("clocks compared to within", "µs", error=wakes.error / 1000)
    os.close(fd)
    return {"woken before the end": wakes.early, "host functions": "host function" in ways}


if __name__ == "__main__":
    run(wake_paths)
