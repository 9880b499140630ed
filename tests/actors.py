"""Actors that tests bind."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError

from tests.gate import wait_at


@ray.remote(num_cpus=0)
class Worker:
    """A synchronous actor."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.kept: Any = None
        self.running = 0
        self.overlaps = 0

    def echo(self, value: Any) -> Any:
        return value

    def add(self, value: Any, amount: Any = 1) -> Any:
        return value + amount

    def size(self, value: Any) -> int:
        return len(value)

    def join(self, *parts: Any, **named: Any) -> tuple[Any, ...]:
        return (*parts, named) if named else parts

    @ray.method(num_returns=2)
    def split(self, value: Any) -> tuple[Any, Any]:
        return value, -value

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def hold(self, path: str) -> str:
        return wait_at(path)

    def hold_or_echo(self, value: Any) -> Any:
        """Stands at a gate where the value is a path, which only strings are."""
        return wait_at(value) if isinstance(value, str) else value

    def note(self, value: Any) -> Any:
        self.notes.append(value)
        return value

    def take_notes(self) -> list[Any]:
        taken, self.notes = self.notes, []
        return taken

    def keep(self, value: Any) -> Any:
        self.kept = value
        return value

    def is_kept(self, value: Any) -> bool:
        return value is self.kept

    def alone(self, value: Any) -> Any:
        """Counts how often another call of it was under way."""
        self.overlaps += self.running
        self.running += 1
        for _ in range(3):
            time.sleep(0)  # lets other threads in
        self.running -= 1
        return value

    def take_overlaps(self) -> int:
        taken, self.overlaps = self.overlaps, 0
        return taken

    def threads(self) -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    def pid(self) -> int:
        return os.getpid()


def wait_until_dead(actor: Any) -> None:
    """Wait until Ray knows that ``actor`` is dead; until then a call may still get through."""
    while True:
        try:
            ray.get(actor.pid.remote())
        except ActorDiedError:
            return


@ray.remote(num_cpus=0)
class AsyncWorker:
    """An asynchronous actor."""

    def __init__(self) -> None:
        self.events: dict[str, asyncio.Event] = {}
        self.current = contextvars.ContextVar("current", default="nothing")

    def _event(self, name: str) -> asyncio.Event:
        return self.events.setdefault(name, asyncio.Event())

    async def echo(self, value: Any) -> Any:
        return value

    async def wait(self, name: str) -> str:
        """Waits until `set` names the same event."""
        await self._event(name).wait()
        return name

    async def set(self, name: str) -> str:
        self._event(name).set()
        return name

    async def meet(self, names: tuple[str, str]) -> str:
        """Sets one event and waits for the other: two executions that need each other."""
        mine, other = names
        self._event(mine).set()
        await self._event(other).wait()
        return mine

    async def mark(self, value: str) -> str:
        """What the context held; and puts ``value`` there."""
        found = self.current.get()
        self.current.set(value)
        await asyncio.sleep(0)
        assert self.current.get() == value
        return found

    async def loop_id(self, _: Any = None) -> int:
        return id(asyncio.get_running_loop())

    def plain_loop_id(self, _: Any = None) -> int:
        return id(asyncio.get_running_loop())

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def pid(self) -> int:
        return os.getpid()
