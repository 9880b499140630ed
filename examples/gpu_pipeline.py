"""Two stages on GPUs, with transfers that overlap with computing and in plain order.

Each stage is an actor with a share of a GPU and weights of its own; activations go from one to the other without
leaving the GPU: by CUDA IPC if both are on the same one, by NCCL if not. Needs the extra ``gpu`` (or ``gpu13``).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

import ray
from ray.dag import InputNode

import async_adag

WIDTH, ROWS = 4096, 2048


class Stage:
    def __init__(self, seed: int) -> None:
        import cupy

        self.cupy = cupy
        self.weights = (
            cupy.random.default_rng(seed).standard_normal((WIDTH, WIDTH), dtype=cupy.float32) / WIDTH**0.5
        )

    def embed(self, seed: int) -> Any:
        return self.cupy.tanh(self.cupy.full((ROWS, WIDTH), seed / 100, dtype=self.cupy.float32) @ self.weights)

    def finish(self, activations: Any) -> float:
        return float(self.cupy.abs(activations @ self.weights).mean())


async def measure(dag: Any, requests: int, overlap: bool) -> tuple[list[float], float]:
    async with await async_adag.compile_async(dag, overlap=overlap) as compiled:
        if overlap:
            print(compiled.visualize())
        await compiled(0)
        began = time.perf_counter()
        results = [result async for result in compiled.map(range(requests), window=8)]
        return results, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100)
    requests = parser.parse_args().requests
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        share = 1.0 if gpus > 1 else 0.4 if gpus else 0.0
        if not gpus:
            print("Ray finds no GPU on this machine: this example needs one, and cupy")
            return 0
        stage = ray.remote(num_cpus=0, num_gpus=share)(Stage)
        first, second = (stage.remote(seed) for seed in (1, 2))
        with InputNode() as seed:
            dag = second.finish.bind(first.embed.bind(seed).with_tensor_transport("accelerator"))
        overlapped, with_overlap = asyncio.run(measure(dag, requests, overlap=True))
        plain, without = asyncio.run(measure(dag, requests, overlap=False))
        assert overlapped == plain
        size = ROWS * WIDTH * 4 / 2**20
        print(f"{requests} requests, {size:.0f} MiB handed over in each, {gpus} GPU(s)")
        each, plainly = with_overlap / requests * 1e3, without / requests * 1e3
        print(f"with overlap {each:.2f} ms each, in plain order {plainly:.2f} ms")
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
