"""Turns of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def turns(count: int = 10) -> None:
    """Let every task come as far as it can without news from outside."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until ``condition`` holds."""
    while not condition():
        await turns(1)
