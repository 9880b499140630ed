"""Threads that give a result, and that cannot keep a failed run from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def in_thread(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Run ``function`` in a thread of its own; a task awaits it with `asyncio.wrap_future`."""
    future: Future[Any] = Future()

    future.set_running_or_notify_cancel()  # from here on it cannot be cancelled

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def join_all(name: str, seconds: float) -> None:
    """Wait for the threads of that name, which end by themselves; for so long at most, each."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(seconds)
