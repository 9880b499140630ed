"""Snapshots of a graph at work: what its engine knows, and what the actors keep in shared memory."""

from __future__ import annotations

import time

from async_adag.driver.engine import Engine
from async_adag.observe.dump import InFlight, describe_state
from async_adag.observe.stats import Stats, take_stats
from async_adag.observe.words import counted

_PATIENCE = 0.1  # seconds: whoever holds the graph's lock may be what is to be looked at


def stats_of(engine: Engine) -> Stats:
    """What the graph has done, and does now, in figures."""
    engine.life.check_process()
    engine.deployment.refresh()
    with engine.lock:
        parked, spun = engine.blocking.waits()
        spun += engine.attention.spun
        return take_stats(
            engine.plan,
            engine.deployment.controls,
            executions=engine.ledger.admitted,
            in_flight=engine.ledger.in_flight,
            waiting=len(engine.line),
            waits=engine.line.waited,
            written=engine.inputs.bytes_written(),
            parked=parked,
            spun=spun,
            seconds=time.monotonic() - engine.began,
        )


def state_of(engine: Engine) -> str:
    """What loops, channels and executions do now, in words, some lines."""
    engine.life.check_process()
    engine.deployment.refresh()
    locked = engine.lock.acquire(timeout=_PATIENCE)
    try:
        flights = [
            InFlight(entry.seq, engine.arrivals.outputs_of(channels))
            for entry, channels in engine.ledger.pending()
        ]
    except RuntimeError:  # it has changed meanwhile, in the hands of whoever holds the lock
        flights = []
    finally:
        if locked:
            engine.lock.release()
    ledger = engine.ledger
    busy = "" if locked else "; a thread is in the midst of a call"
    summary = (
        f"{engine.life.state.value}; {ledger.in_flight} of {engine.options.max_inflight} executions in flight, "
        f"{counted(len(engine.line), 'caller')} in line for a place{busy}"
    )
    return describe_state(engine.plan, engine.deployment.controls, engine.deployment.gauges, flights, summary)
