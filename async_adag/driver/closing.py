"""Closing a graph: drain or abandon, wait for the loops' goodbyes, let go.

Waiting for goodbyes is bounded where a graph is abandoned: a method that is still running gives its actor's
share back when it returns.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time

from async_adag.driver.capacity import Waiter
from async_adag.driver.engine import Engine
from async_adag.driver.interrupts import Held
from async_adag.protocol.lifecycle import State

COMPUTING_GRACE = 0.25  # seconds for a method that is running when its graph is abandoned
SILENT_GRACE = 5.0  # seconds for a loop that does nothing and still says nothing
_SLICE = 0.05


def teardown(engine: Engine) -> bool:
    """Abandon what is in flight, free the actors, let go. Bounded in time; again is harmless.

    Ctrl-C ends the wait for goodbyes; what there was to let go of is let go. In the middle of a step of the same
    thread nothing is closed under its hands: another thread does all this as soon as the step is over.

    Returns:
        Whether it is done.
    """
    if engine.is_in_step():
        threading.Thread(target=teardown, args=(engine,), name="async_adag teardown", daemon=True).start()
        return False
    with Held() as held:
        _teardown(engine, held)
    return True


def _teardown(engine: Engine, held: Held) -> None:
    with engine.lock:
        engine.close_now()
    try:
        _await_goodbyes(engine, _Patience(engine, drain=False), held)
    finally:
        engine.release(wait=True)


def close(engine: Engine) -> None:
    """Let what is in flight finish, then free the actors, let go. Ctrl-C ends the wait, and abandons the rest."""
    with Held() as held:
        _close(engine, held)


def _close(engine: Engine, held: Held) -> None:
    try:
        waiter = Waiter()
        with engine.lock:
            engine.begin_draining()
            if engine.is_quiet():
                waiter.granted = True
            else:
                engine.wait_quiet(waiter)
        if not waiter.granted:
            engine.blocking.check_own_loop("async with")
            engine.blocking.wait(lambda: waiter.granted, None, held)
        with engine.lock:
            engine.send_stop()
        _await_goodbyes(engine, _Patience(engine, drain=True), held)
        with engine.lock:
            engine.life.move(State.CLOSED)
    finally:
        _teardown(engine, held)


async def aclose(engine: Engine) -> None:
    """As `close`, for a task. Cancelling it abandons the graph."""
    with engine.lock:  # a loop that may not have the graph spoils nothing
        loop = engine.loop.bind() if engine.life.state in (State.OPEN, State.DRAINING) else None
    try:
        with engine.lock:
            engine.begin_draining()
        if loop is not None:
            while not _check_quiet(engine):
                waiter = Waiter(loop.create_future())
                assert waiter.future is not None
                with engine.lock:
                    engine.wait_quiet(waiter)
                await waiter.future
            with engine.lock:
                engine.send_stop()
            await _await_goodbyes_async(engine, _Patience(engine, drain=True))
            with engine.lock:
                engine.life.move(State.CLOSED)
    except BaseException:
        abandon(engine)
        raise
    await ateardown(engine)


async def ateardown(engine: Engine) -> None:
    """As `teardown`, for a task."""
    try:
        with engine.lock:
            engine.close_now()
        await _await_goodbyes_async(engine, _Patience(engine, drain=False))
    finally:
        abandon(engine)


def abandon(engine: Engine) -> None:
    """As `teardown`, without waiting for anybody: for finalizers and cancelled tasks."""
    with Held():
        with engine.lock:
            engine.close_now()
        engine.release(wait=False)


def _check_quiet(engine: Engine) -> bool:
    with engine.lock:
        return engine.is_quiet()


class _Patience:
    """How long goodbyes are waited for."""

    def __init__(self, engine: Engine, *, drain: bool) -> None:
        self._engine = engine
        self._drain = drain
        self._began = time.monotonic()

    def is_over(self) -> bool:
        waited = time.monotonic() - self._began
        if self._engine.deployment.computing():
            if self._drain:  # a leaf node still at work: it was promised to run
                self._began = time.monotonic()
                return False
            return waited > COMPUTING_GRACE
        return waited > SILENT_GRACE


def _all_left(engine: Engine) -> bool:
    with engine.lock:
        engine.notice_departures()
        return not engine.deployment.supervision.present


def _await_goodbyes(engine: Engine, patience: _Patience, held: Held) -> None:
    while not _all_left(engine) and not patience.is_over():
        held.check()
        if engine.blocking.is_on_own_loop():
            return  # the goodbye needs the very loop that a wait here would stop
        poll = select.poll()
        try:
            poll.register(engine.deployment.supervision.fd, select.POLLIN)
        except ValueError:
            return  # closed by somebody else meanwhile
        poll.poll(_SLICE * 1000)


async def _await_goodbyes_async(engine: Engine, patience: _Patience) -> None:
    while not _all_left(engine) and not patience.is_over():
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        assert waiter.future is not None
        with engine.lock:
            engine.wait_left(waiter)
        # The bound loop wakes the waiter; where the graph is bound to none, the time-out looks again.
        await asyncio.wait([waiter.future], timeout=_SLICE)
