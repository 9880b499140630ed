"""Ray's own compiled graph, for comparison: a Ray of its own, which wants the GPU for itself."""

from __future__ import annotations

import pytest

from tests.gpu.graphs import LATENCY_SIZES

pytestmark = pytest.mark.timeout(100)


def test_rays_own_graph(step):
    assert step("rays_round_trip", "torch", "ray", timeout=60)["sizes"] == list(LATENCY_SIZES)
