"""Loops that time calls, and percentiles. Times are in seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

WARM_UP = 0.2  # of the time that is measured afterwards


async def async_times(call: Callable[[Any], Awaitable[Any]], value: Any, seconds: float) -> list[float]:
    """One time per awaited call, one call after the other, for `seconds`."""
    until = perf_counter() + WARM_UP * seconds
    while perf_counter() < until:
        await call(value)
    times: list[float] = []
    began = perf_counter()
    until = began + seconds
    while began < until:
        await call(value)
        ended = perf_counter()
        times.append(ended - began)
        began = ended
    return times


def blocking_times(call: Callable[[Any], Any], value: Any, seconds: float) -> list[float]:
    """One time per blocking call, one call after the other, for `seconds`."""
    until = perf_counter() + WARM_UP * seconds
    while perf_counter() < until:
        call(value)
    times: list[float] = []
    began = perf_counter()
    until = began + seconds
    while began < until:
        call(value)
        ended = perf_counter()
        times.append(ended - began)
        began = ended
    return times


async def throughput(
    submit: Callable[[Any], Awaitable[Awaitable[Any]]], value: Any, in_flight: int, seconds: float
) -> float:
    """Executions per second while `in_flight` of them are always under way."""
    window: deque[Awaitable[Any]] = deque()

    async def keep_full(seconds: float) -> float:
        done = 0
        began = now = perf_counter()
        while now < began + seconds:
            window.append(await submit(value))
            if len(window) == in_flight:
                await window.popleft()
                done += 1
            now = perf_counter()
        return done / (now - began)

    await keep_full(WARM_UP * seconds)
    rate = await keep_full(seconds)
    while window:
        await window.popleft()
    return rate


def percentile(times: list[float], percent: float) -> float:
    """The smallest of `times` that at least `percent` of them do not exceed."""
    ordered = sorted(times)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(int(rank), 1) - 1]
