"""Two actors that share a layer: each has half of its weights, and they sum what they get.

The sum is an allreduce of the graph. It goes over NCCL where each actor has a GPU of its own, and through shared
memory otherwise: on one GPU, or on none, where the arrays are numpy's.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

import numpy as np
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag.collectives import allreduce

WIDTH, HIDDEN, ROWS = 512, 2048, 8


class Half:
    """Half of a layer: columns of the first matrix, and the rows of the second that belong to them."""

    def __init__(self, rank: int, on_gpu: bool) -> None:
        self.arrays: Any = np
        if on_gpu:
            import cupy

            self.arrays = cupy
        random = np.random.default_rng(7)
        up = random.standard_normal((WIDTH, HIDDEN), dtype=np.float32) / WIDTH**0.5
        down = random.standard_normal((HIDDEN, WIDTH), dtype=np.float32) / HIDDEN**0.5
        mine = slice(rank * HIDDEN // 2, (rank + 1) * HIDDEN // 2)
        self.up, self.down = self.arrays.asarray(up[:, mine]), self.arrays.asarray(down[mine])

    def partial(self, rows: Any) -> Any:
        return self.arrays.maximum(self.arrays.asarray(rows) @ self.up, 0) @ self.down

    def norm(self, rows: Any) -> float:
        return float(self.arrays.sqrt((rows * rows).mean()))

    def whole(self, rows: Any, other: Any) -> float:
        """The same, from both halves in one place."""
        return self.norm(self.partial(rows) + self.arrays.asarray(other))


async def serve(dag: Any, requests: list[Any]) -> list[list[float]]:
    async with await async_adag.compile_async(dag) as compiled:
        print(compiled.visualize())
        await compiled(requests[0])
        began = time.perf_counter()
        results = [norms async for norms in compiled.map(requests, window=8)]
        seconds = time.perf_counter() - began
        print(f"{len(requests)} requests of {ROWS} rows: {len(requests) / seconds:,.0f} /s")
        return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    arguments = parser.parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        actor = ray.remote(num_cpus=0, num_gpus=1.0 if gpus > 1 else 0.4 if gpus else 0.0)(Half)
        halves = [actor.remote(rank, on_gpu=gpus > 0) for rank in (0, 1)]
        with InputNode() as rows:
            sums = allreduce.bind([half.partial.bind(rows) for half in halves])
            dag = MultiOutputNode([half.norm.bind(both) for half, both in zip(halves, sums, strict=True)])
        random = np.random.default_rng(1)
        requests = [random.standard_normal((ROWS, WIDTH), dtype=np.float32) for _ in range(arguments.requests)]
        for request, norms in zip(requests, asyncio.run(serve(dag, requests)), strict=True):
            assert abs(norms[0] - norms[1]) < 1e-6, "both ranks have the same sum"
            if request is requests[0]:
                whole = ray.get(halves[0].whole.remote(request, halves[1].partial.remote(request)))
                assert abs(norms[0] - whole) < 1e-4, (norms, whole)
                print(f"first result {norms[0]:.6f}, from both halves in one place {whole:.6f}")
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
