"""`CompiledGraph.trace`: has every process of a graph record what it does for a while, and gathers the records.

Nothing is called in the actors: the driver sets a word of each control page, and reads their memory afterwards.
Those on other hosts are told, and asked for their records; their times are put on the driver's clock.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import IO, Any, Self

import anyio

from async_adag.actor.records import (
    Recorder,
    copy_records,
    count_of,
    give_back,
    hear_records,
    make_room,
    read_records,
    records_here,
    records_in,
)
from async_adag.channels.memory import Mapping
from async_adag.driver.clock import HostClock
from async_adag.driver.engine import Engine
from async_adag.graph.plan import DRIVER
from async_adag.observe.timeline import Log, Timeline, write_timeline

Target = str | os.PathLike[str] | IO[str]


SETTLE = 1.0
"""How long leaving the block waits for actors whose GPU is still at work on what is recorded, in seconds."""

LOOK = 0.0002
"""Seconds between looks at whether they are done."""


class Trace:
    """A timeline of what a graph does while a ``with`` block, or an ``async with`` block, runs.

    Made by `CompiledGraph.trace`. The figures are there once the block is left.
    """

    def __init__(self, engine: Engine, file: Target | None) -> None:
        self._engine = engine
        self._file = file
        self._opened: IO[str] | None = None  # ours to close
        self._own: memoryview | None = None  # this process's records, while they are written
        self._here: dict[int, Mapping] = {}  # where actors on this host record, by actor, while they do
        self._firsts: dict[int, int] = {}  # by actor: the number of the first record
        self._began = 0
        self._ended = 0
        self._admitted = 0
        self._copies: dict[
            int, tuple[memoryview, int, int]
        ] = {}  # by process: records, how many, the first of ours
        self._told: dict[int, tuple[bytes, HostClock]] = {}  # the same of actors on other hosts
        self._timeline: Timeline | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        """The trace events, as in the file.

        Raises:
            RuntimeError: the block has not been left.
        """
        return self._result().events()

    @property
    def lost(self) -> dict[str, int]:
        """By the names of processes, how many records they have lost, as later ones have taken their places.

        Raises:
            RuntimeError: the block has not been left.
        """
        return self._result().lost()

    @property
    def missing(self) -> list[str]:
        """The names of processes on other hosts that did not answer, so that nothing of theirs is shown.

        Raises:
            RuntimeError: the block has not been left.
        """
        return self._result().missing()

    @property
    def clock_errors(self) -> dict[str, float]:
        """By the names of processes on other hosts: how many seconds their times may be wrong, either way.

        Raises:
            RuntimeError: the block has not been left.
        """
        return self._result().clock_errors()

    def export_spans(self, name: str = "graph", tracer_provider: Any = None) -> None:
        """Send the executions that ended meanwhile to OpenTelemetry: a span for each, in it one for each node.

        Args:
            name: of the spans of executions, whose parent is the span that is current now.
            tracer_provider: by default OpenTelemetry's global one.

        Raises:
            RuntimeError: the block has not been left.
            ImportError: OpenTelemetry is not installed; says what to do.
        """
        from async_adag.driver.spans import export_spans

        export_spans(self._result(), name, tracer_provider)

    def _result(self) -> Timeline:
        if not self._copies and self._timeline is None:
            raise RuntimeError("the trace is still being recorded: leave the `with` block first")
        if self._timeline is None:
            logs = {
                process: Log(*read_records(copy, first, written))
                for process, (copy, written, first) in self._copies.items()
            }
            for process, (told, clock) in self._told.items():
                logs[process] = Log(*hear_records(told, clock.to_ours), clock.error)
            logs = dict(sorted(logs.items()))
            self._timeline = Timeline(self._engine.plan, logs, self._began, self._ended, self._admitted)
            self._copies, self._told = {}, {}
        return self._timeline

    def __enter__(self) -> Self:
        self._begin()
        with self._undone():
            self._begin_abroad()
        return self

    def __exit__(self, *_: object) -> None:
        if self._stop():
            self._settle()
            self._gather()
            self._write()

    async def __aenter__(self) -> Self:
        self._begin()
        if self._engine.deployment.abroad is not None:
            with self._undone():
                await anyio.to_thread.run_sync(self._begin_abroad)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._stop():
            return
        with anyio.CancelScope(shield=True):  # also where the block was left because of a cancellation
            try:
                if self._have_lanes():
                    await anyio.to_thread.run_sync(self._settle)
            except BaseException:
                self._close_file()
                raise
            finally:
                self._gather()  # what has been recorded is gathered all the same
            await anyio.to_thread.run_sync(self._write)  # it may be many megabytes

    def _begin(self) -> None:
        engine = self._engine
        self._check()
        if self._file is not None and not hasattr(self._file, "write"):
            self._opened = open(self._file, "w", encoding="utf-8")  # noqa: SIM115 - where it cannot be, say so now
        try:
            with engine.lock:
                self._check()
                self._start()
                engine.tracing = self
        except BaseException:
            self._close_file()
            raise

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """What has begun is ended, should something be raised in here."""
        try:
            yield
        except BaseException:
            if self._stop():
                self._gather()
            self._close_file()
            raise

    def _begin_abroad(self) -> None:
        abroad = self._engine.deployment.abroad
        if abroad is not None:
            abroad.begin_trace()

    def _check(self) -> None:
        self._engine.life.check_open()
        if self._began:
            raise RuntimeError("this trace was recorded already: make a new one with compiled.trace()")
        if self._engine.tracing is not None:
            raise RuntimeError("this graph is being traced already: one trace at a time")

    def _start(self) -> None:
        deployment = self._engine.deployment
        here = {n: page.records for n, page in enumerate(deployment.controls) if not deployment.is_away(n)}
        try:
            for records in here.values():
                make_room(records)
        except BaseException:
            for records in here.values():
                give_back(records)
            raise
        self._here = here
        self._firsts = {number: count_of(records_in(records)) for number, records in here.items()}
        self._began = time.monotonic_ns()
        self._own = records_here()
        self._engine.record(Recorder(self._own))
        self._ask(True)

    def _ask(self, traced: bool) -> None:
        deployment = self._engine.deployment
        for control, bell in zip(deployment.controls, deployment.bells, strict=True):
            control.set_traced(traced)
            if bell.fd >= 0:
                bell.ring()  # whoever sleeps wakes, and does it

    def _stop(self) -> bool:
        """Stop recording; False in a forked child, whose parent does it."""
        engine = self._engine
        if engine.life.is_forked():
            return False
        self._ended = time.monotonic_ns()
        with engine.lock:
            self._ask(False)
            engine.record(None)
        return True

    def _have_lanes(self) -> list[int]:
        """The actors on this host that record what a GPU does."""
        actors = self._engine.plan.actors
        return [number for number in self._here if actors[number].gpu_moves]

    def _settle(self) -> None:
        """Wait until they have heard that recording is over, for then they wait for their GPUs; not for long."""
        controls = self._engine.deployment.controls
        deadline = time.monotonic() + SETTLE
        for number in self._have_lanes():
            while not controls[number].is_heeded() and time.monotonic() < deadline:
                time.sleep(LOOK)

    def _gather(self) -> None:
        engine = self._engine
        with engine.lock:
            engine.tracing = None
        # Copied now, and read by whoever wants them: that takes longer than an event loop should stand still.
        assert self._own is not None
        self._copies = {DRIVER: (*copy_records(self._own), 0)}
        self._own = None
        for number, records in self._here.items():
            self._copies[number] = (*copy_records(records_in(records)), self._firsts[number])
            give_back(records)
        self._here = {}
        self._admitted = engine.ledger.admitted

    def _write(self) -> None:
        try:
            abroad = self._engine.deployment.abroad
            if abroad is not None:
                self._told = abroad.end_trace()
            target = self._opened if self._opened is not None else self._file
            if target is not None:
                assert not isinstance(target, str | os.PathLike)
                write_timeline(self._result(), target)
        finally:
            self._close_file()

    def _close_file(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
