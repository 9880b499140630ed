"""The ways of compiling a graph and of ending it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import async_adag
from tests.soak.outcomes import Subject, Tally
from tests.threads import in_thread

ENDS = ("aclose", "close in a thread", "teardown", "teardown in a thread", "drop", "leave with an error")


class Abandoned(Exception):
    """What leaves an `async with` block early."""


async def compile_subject(subject: Subject, rng: Random, tally: Tally, **options: Any) -> BaseException | None:
    """Compile ``subject``; the error, if that fails."""
    dag = subject.shape.bind(subject.actors)
    options.setdefault("max_inflight", rng.choice((1, 2, 4, 8, 32)))
    options.setdefault("submit_timeout", rng.choice((None, None, 0.05)))
    # Ray runs actors at a lower priority than most: a machine that is busy with others starves them for seconds.
    options.setdefault("heartbeat_timeout", tally.patience)
    subject.impatient = options["submit_timeout"] is not None
    if rng.random() < 0.5:
        compiling: Any = async_adag.compile_async(dag, **options)
    else:
        compiling = asyncio.wrap_future(in_thread(lambda: async_adag.compile(dag, **options)))
    compiled = await tally.result_of(compiling, f"compiling {subject.shape.name!r}")
    if isinstance(compiled, BaseException):
        return compiled
    subject.compiled = compiled
    return None


async def end(subject: Subject, way: str, tally: Tally) -> None:
    """End a graph one of these `ENDS`; harmless where it was ended or never compiled."""
    compiled, subject.compiled = subject.compiled, None
    if compiled is None:
        return
    tally.note(f"graphs ended by {way}")
    if way in ("aclose", "close in a thread"):
        subject.draining = True
    elif way != "drop":
        subject.abandoned = True
    ending: Any
    match way:
        case "aclose":
            ending = compiled.aclose()
        case "close in a thread":
            ending = asyncio.wrap_future(in_thread(compiled.__exit__, None, None, None))
        case "teardown":
            compiled.teardown()
            return
        case "teardown in a thread":
            ending = asyncio.wrap_future(in_thread(compiled.teardown))
        case "drop":
            return
        case _:
            ending = _leave(compiled)
    result = await tally.result_of(ending, way)
    if isinstance(result, BaseException) and not (subject.is_hurt() and isinstance(result, async_adag.AdagError)):
        tally.complain(f"{way} of {subject.shape.name!r} raised {result!r:.2000}")


async def _leave(compiled: Any) -> None:
    try:
        await compiled.__aenter__()
    except async_adag.AdagError:
        pass  # it is broken: it is left all the same
    await compiled.__aexit__(Abandoned, Abandoned(), None)
