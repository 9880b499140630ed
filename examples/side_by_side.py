"""Times one DAG as Ray's own compiled graph and as async_adag's: the table at the end of quickstart.py."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle, islice
from statistics import median
from typing import Any

import async_adag

ROUNDS = 3
SECONDS = 0.5
IN_FLIGHT = 8  # Ray's graph takes ten at most and raises beyond that

Submit = Callable[[Any], Awaitable[Awaitable[Any]]]
Figures = tuple[float, float]  # seconds per round trip (median), executions per second


def event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's loop where it is installed, else asyncio's."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        import uvloop

        new_loop = uvloop.new_event_loop
    return new_loop


async def side_by_side(new_dag: Callable[[], Any], inputs: list[Any]) -> str:
    """A table of round trip and throughput.

    The two take turns, with one graph alive at a time, since an idle graph of Ray's keeps a core busy. Ray
    compiles a DAG but once, so each turn has a new one.
    """
    rounds: dict[str, list[Figures]] = {"Ray": [], "async_adag": []}
    for _ in range(ROUNDS):
        async with async_adag.compile(new_dag()) as ours:
            rounds["async_adag"].append(await _measure(ours.execute_async, inputs))
        rays = new_dag().experimental_compile(enable_asyncio=True)
        rounds["Ray"].append(await _measure(rays.execute_async, inputs))
        rays.teardown()

    table = [f"  {'':<16}{'Ray':>15}{'async_adag':>15}"]
    (ray_time, ray_rate), (our_time, our_rate) = (
        (median(time for time, _ in figures), median(rate for _, rate in figures)) for figures in rounds.values()
    )
    for label, rays_own, ours_own, gain in (
        ("round trip, p50", f"{ray_time * 1e6:.0f} µs", f"{our_time * 1e6:.0f} µs", ray_time / our_time),
        (f"{IN_FLIGHT} in flight", f"{ray_rate:,.0f} /s", f"{our_rate:,.0f} /s", our_rate / ray_rate),
    ):
        table.append(f"  {label:<16}{rays_own:>15}{ours_own:>15}{gain:>10.1f} x")
    return "\n".join(table)


async def _measure(submit: Submit, inputs: list[Any]) -> Figures:
    await _times(submit, inputs, SECONDS / 5)  # warm up
    return median(await _times(submit, inputs, SECONDS)), await _rate(submit, inputs, SECONDS)


async def _times(submit: Submit, inputs: list[Any], seconds: float) -> list[float]:
    """How long each execution took, one after the other."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    for item in cycle(inputs):
        began = time.perf_counter()
        if began > until:
            break
        await (await submit(item))
        times.append(time.perf_counter() - began)
    return times


async def _rate(submit: Submit, inputs: list[Any], seconds: float) -> float:
    """Executions per second with IN_FLIGHT of them always under way."""
    items = cycle(inputs)
    window = deque([await submit(item) for item in islice(items, IN_FLIGHT)])
    done, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        await window.popleft()
        done += 1
        window.append(await submit(next(items)))
    rate = done / (time.perf_counter() - began)
    for future in window:
        await future
    return rate
