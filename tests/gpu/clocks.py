"""The device's clock and the host's, compared: when, by the host's, did the device do something?

The device answers the host through pinned memory. Each answer lies between two looks at the host's clock, so the
offset of the clocks is known to half of the shortest round trip; how much that is comes with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tests.gpu.kernels import Kernels, Pinned

ROUNDS = 200
LIMIT = 2.0  # seconds


@dataclass(frozen=True)
class Offset:
    """How far the device's clock is ahead of ``time.perf_counter_ns``.

    Attributes:
        ns: that.
        error: by how much it may be wrong, either way, in ns.
    """

    ns: int
    error: int

    def host(self, device_ns: int) -> int:
        """The time of a stamp of the device's, by ``time.perf_counter_ns``."""
        return device_ns - self.ns


def compare(kernels: Kernels, stream: Any) -> Offset:
    """Compare the clocks; nothing else should be on the device meanwhile."""
    asked, stamps = Pinned(1), Pinned(ROUNDS)
    stream.synchronize()
    kernels.answer(stream, asked.address, stamps.address, ROUNDS, LIMIT)
    best = None
    question, answers = asked.words, stamps.words
    for number in range(ROUNDS):
        before = time.perf_counter_ns()
        question[0] = number + 1
        while not answers[number]:
            if time.perf_counter_ns() - before > 2 * LIMIT * 1e9:
                raise TimeoutError("the device does not answer through pinned memory")
        after = time.perf_counter_ns()
        offset = Offset(int(answers[number]) - (before + after) // 2, (after - before + 1) // 2)
        best = offset if best is None or offset.error < best.error else best
    stream.synchronize()
    assert best is not None
    return best
