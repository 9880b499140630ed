"""A graph over two Ray nodes: which edge is what, and what it costs. Starts both nodes on this machine by itself.

On a real cluster the same program takes `ray.init("auto")`, and Ray decides where the actors live.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter, deque
from statistics import median
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.dag import InputNode

import async_adag


@ray.remote(num_cpus=0)
class Stage:
    """Counts words, and hands arrays on."""

    def count(self, text: str) -> Counter[str]:
        return Counter(text.lower().split())

    def most_common(self, counted: Counter[str]) -> list[tuple[str, int]]:
        return counted.most_common(3)

    def scale(self, array: Any) -> Any:
        return array * 2


def node(name: str) -> dict[str, Any]:
    return {"num_cpus": 1, "include_dashboard": False, "resources": {name: 100.0}}


def on(name: str) -> Any:
    """A stage on the node that has this resource."""
    return Stage.options(resources={name: 0.01}).remote()  # type: ignore[attr-defined]


async def round_trip(compiled: async_adag.CompiledGraph, value: Any, seconds: float) -> float:
    """The median of round trips one at a time, in seconds."""
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        await compiled(value)
        taken.append(time.perf_counter() - began)
    return median(taken)


async def throughput(compiled: async_adag.CompiledGraph, value: Any, seconds: float) -> float:
    """Executions per second with eight in flight."""
    flying: deque[Any] = deque()
    done = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        while len(flying) < 8:
            flying.append(await compiled.execute_async(value))
        await flying.popleft()
        done += 1
    for future in flying:
        await future
    return done / seconds


async def main(seconds: float) -> None:
    here, there = on("here"), on("there")
    with InputNode() as text:
        dag = there.most_common.bind(here.count.bind(text))
    async with await async_adag.compile_async(dag) as compiled:
        print(compiled.visualize(), "\n")
        words = await compiled((__doc__ or "") + (node.__doc__ or "") + (main.__doc__ or "") + str(on.__doc__))
        print("most frequent words of this program's docstrings:", words, "\n")

    megabyte = np.ones(1 << 17)
    print(f"{'one actor':<14}{'round trip':>12}{'8 in flight':>14}{'1 MB there and back':>22}")
    for name, actor in (("on this node", here), ("on the other", there)):
        with InputNode() as array:
            dag = actor.scale.bind(array)
        async with await async_adag.compile_async(dag) as compiled:
            alone = await round_trip(compiled, 1, seconds)
            many = await throughput(compiled, 1, seconds)
            large = await round_trip(compiled, megabyte, seconds)
            assert float((await compiled(megabyte)).sum()) == 2.0 * megabyte.size
        print(f"{name:<14}{alone * 1e6:>9.0f} µs{many:>12,.0f} /s{large * 1e6:>19.0f} µs")
    print("\nThe same program over two nodes: every result was right.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    arguments = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args=node("here"))
    try:
        cluster.add_node(**node("there"))
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        asyncio.run(main(arguments.seconds))
    finally:
        ray.shutdown()
        cluster.shutdown()
