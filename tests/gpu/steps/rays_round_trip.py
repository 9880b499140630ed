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

PATIENCE = 15.0  # seconds for the first answer, Ray's start included, and for each one after that
LIMIT = 45.0  # seconds for all


class Watch:
    """Ends the step as one that could not run if Ray does not get on: what hangs here is not ours."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._end = time.monotonic() + LIMIT
        self.answered()
        threading.Thread(target=self._look, daemon=True).start()

    def answered(self) -> None:
        self._next = time.monotonic() + PATIENCE

    def _look(self) -> None:
        while not self.over.wait(0.1):
            now = time.monotonic()
            if now > self._next:
                give_up(f"Ray's own compiled graph has given no answer for {PATIENCE:g} s")
            if now > self._end:
                give_up(f"Ray's own compiled graph was not done within {LIMIT:g} s")


def give_up(reason: str) -> None:
    print(f"\n{MARK}{json.dumps({'skipped': reason})}", flush=True)
    os._exit(0)


def rays_round_trip(figures: Figures, watch: Watch) -> dict[str, Any]:
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
            watch.answered()
        compiled.teardown()
        figures.latencies(f"round trip, {label}, Ray's own graph by shared memory", taken)
    ray.shutdown()
    return {"sizes": list(LATENCY_SIZES)}


if __name__ == "__main__":
    watch = Watch()
    run(lambda figures: rays_round_trip(figures, watch))
    watch.over.set()
