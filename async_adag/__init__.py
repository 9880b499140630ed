"""Compiled graphs for Ray, asyncio first.

    with InputNode() as prompt:
        dag = decode.run.bind(prefill.run.bind(prompt))

    async with async_adag.compile(dag) as compiled:
        result = await compiled(prompt)

The house, from the roof down; imports point down only:

    adapter.py    Ray's own experimental_compile() and what it gives, mapped on this backend
    driver/       in the caller's process: compile, deploy, the compiled graph, futures and refs, supervision
    observe/      stats and pictures: reads the others' records, steers nothing
    actor/        in each actor: the loop that reads, computes and writes
    collectives/  allreduce, allgather, reducescatter: what is bound, and what a rank computes
    channels/     how bytes move: ring in a memory file, hand-over, codec, rendezvous, parking
    graph/        what to run: reads a Ray DAG, plans it into frozen dataclasses
    protocol/     the rules, sans-io: frames, ring cursors, ledger, life of a graph
    errors.py  options.py
"""

import importlib
from typing import TYPE_CHECKING

from async_adag._version import __version__
from async_adag.actor.ray_runtime import is_worker

if TYPE_CHECKING:
    from async_adag.adapter import experimental_compile
    from async_adag.driver.compile import compile, compile_async
    from async_adag.driver.graph import CompiledGraph
    from async_adag.driver.results import FutureList, GraphRef, RefList
    from async_adag.errors import (
        AdagError,
        CapacityExceeded,
        ExecutionTimeout,
        GpuUnavailable,
        GraphBroken,
        GraphClosed,
        GraphError,
        RemoteError,
    )
    from async_adag.observe.stats import NodeStats, Stats
    from async_adag.options import Options

__all__ = [
    "AdagError",
    "CapacityExceeded",
    "CompiledGraph",
    "ExecutionTimeout",
    "FutureList",
    "GpuUnavailable",
    "GraphBroken",
    "GraphClosed",
    "GraphError",
    "GraphRef",
    "NodeStats",
    "Options",
    "RefList",
    "RemoteError",
    "Stats",
    "__version__",
    "compile",
    "compile_async",
    "experimental_compile",
]

_HOMES = {
    "adapter": ["experimental_compile"],
    "driver.compile": ["compile", "compile_async"],
    "driver.graph": ["CompiledGraph"],
    "driver.results": ["FutureList", "GraphRef", "RefList"],
    "errors": [
        "AdagError",
        "CapacityExceeded",
        "ExecutionTimeout",
        "GpuUnavailable",
        "GraphBroken",
        "GraphClosed",
        "GraphError",
        "RemoteError",
    ],
    "observe.stats": ["NodeStats", "Stats"],
    "options": ["Options"],
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


if not is_worker():
    # At once, rather than in the midst of an event loop. Workers need what is in actor/ alone, unless they ask for
    # more, and dozens of them may start at the same time.
    for _home in _HOMES:
        importlib.import_module(f"{__name__}.{_home}")
