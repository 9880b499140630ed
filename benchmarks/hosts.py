"""Two Ray nodes on this machine: Ray's compiled graph and async_adag over the same two, and plain TCP beside them.

``python -m benchmarks.hosts [SECONDS [ROUNDS]]``. The actor is on the other node: a round trip is two hops by TCP.
Backends take turns in each round, one graph alive at a time.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import ray
import uvloop
from ray.cluster_utils import Cluster
from ray.dag import InputNode

from benchmarks.backends import AdagBackend, Backend, Graph, RayBackend
from benchmarks.measure import async_times, throughput
from benchmarks.tcp_floor import plain

SECONDS, ROUNDS = 1.0, 5
IN_FLIGHT = 8
SIZES = {"1 MB there and back": 1 << 20, "16 MB there and back": 1 << 24}
PLAIN = "plain socket"


@ray.remote(num_cpus=0)
class Echo:
    def echo(self, value: Any) -> Any:
        return value


@contextmanager
def two_nodes() -> Iterator[Any]:
    """An actor on the second of two nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, include_dashboard=False, resources={"other": 1.0})
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        yield Echo.options(resources={"other": 0.1}).remote()  # type: ignore[attr-defined]
    finally:
        ray.shutdown()
        cluster.shutdown()


async def measure(graph: Graph, seconds: float) -> dict[str, float]:
    """The figures of one graph: round trips in seconds, and executions per second."""
    figures = {"round trip": median(await async_times(graph.call, 1, seconds))}
    figures[f"{IN_FLIGHT} in flight"] = await throughput(graph.submit, 1, IN_FLIGHT, seconds)
    for name, size in SIZES.items():
        value = np.ones(size // 8)
        figures[name] = median(await async_times(graph.call, value, seconds))
    return figures


def turn(backend: Backend, actor: Any, seconds: float) -> dict[str, float]:
    with InputNode() as x:
        dag = actor.echo.bind(x)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def one() -> dict[str, float]:
            graph = backend.compile(dag, asynchronous=True, buffer_size=1 << 25)
            try:
                return await measure(graph, seconds)
            finally:
                graph.close()

        return runner.run(one())


def floor(seconds: float) -> dict[str, float]:
    """A ping-pong of 8 bytes over a plain socket, and 64 MB one way, answered by a byte."""
    return {"round trip": plain(8, seconds), "64 MB one way": plain(1 << 26, seconds)}


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    turns: dict[str, Callable[[Any], dict[str, float]]] = {
        "Ray": lambda actor: turn(RayBackend(), actor, seconds),
        "async_adag": lambda actor: turn(AdagBackend("auto"), actor, seconds),
        PLAIN: lambda _: floor(seconds),
    }
    found: dict[str, dict[str, list[float]]] = {who: {} for who in turns}
    with two_nodes() as actor:
        for _ in range(rounds):
            for who, take in turns.items():
                try:
                    for name, figure in take(actor).items():
                        found[who].setdefault(name, []).append(figure)
                except Exception as error:
                    print(f"{who} failed: {error!r}"[:300], file=sys.stderr)
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    print(f"{'':<24}" + "".join(f"{who:>16}" for who in turns) + f"{'gain':>10}{'over plain':>12}")
    for name in names:
        middle = {who: median(figures[name]) for who, figures in found.items() if name in figures}
        cells = "".join(f"{_words(name, middle.get(who)):>16}" for who in turns)
        ray_, ours, bare = middle.get("Ray"), middle.get("async_adag"), middle.get(PLAIN)
        gain = "-" if not ray_ or not ours else f"{(ours / ray_ if 'flight' in name else ray_ / ours):.1f} x"
        over = "-" if not bare or not ours else f"{ours / bare:.2f} x"
        print(f"{name:<24}{cells}{gain:>10}{over:>12}")


def _words(name: str, figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:,.0f} /s" if "flight" in name else f"{figure * 1e6:,.0f} µs"


if __name__ == "__main__":
    main()
