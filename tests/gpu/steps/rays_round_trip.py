"""Round trips of Ray's own compiled graph, for comparison: two actors on one GPU, a tensor from one to the other.

Ray's NCCL channel takes no two actors on one GPU, so the tensor goes by Ray's shared-memory channel, through the
host. A Ray and actors of its own, so that nothing of it is left when it is measured, or does not get on.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

import ray
from ray.dag import InputNode

from tests.gpu.graphs import LATENCY_SIZES, WARM, calls_for, make_actor
from tests.gpu.runner import MARK
from tests.gpu.step import Figures, run
from tests.gpu.tensors import Tensor

PATIENCE = 40.0  # seconds


def give_up() -> None:
    """End as a step that could not run: what hangs here is not ours, and holds up nothing else."""
    reason = f"Ray's own compiled graph has not got on within {PATIENCE:g} s"
    print(f"\n{MARK}{json.dumps({'skipped': reason})}", flush=True)
    os._exit(0)


def rays_round_trip(figures: Figures) -> dict[str, Any]:
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    writer, reader = (make_actor(rank, "torch") for rank in range(2))
    for label, count in LATENCY_SIZES.items():
        with InputNode() as given:
            dag = reader.touch.bind(writer.make.bind(given))
        compiled = dag.experimental_compile(_buffer_size_bytes=(8 << 20) + 8 * count)
        taken = []
        for number in range(WARM + calls_for(count)):
            begin = time.perf_counter()
            assert ray.get(compiled.execute(Tensor((count,))), timeout=20) == 1
            if number >= WARM:
                taken.append(time.perf_counter() - begin)
        compiled.teardown()
        figures.latencies(f"round trip, {label}, Ray's own graph by shared memory", taken)
    ray.shutdown()
    return {"sizes": list(LATENCY_SIZES)}


if __name__ == "__main__":
    timer = threading.Timer(PATIENCE, give_up)
    timer.daemon = True
    timer.start()
    run(rays_round_trip)
    timer.cancel()
