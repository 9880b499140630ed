"""NCCL between two processes on one GPU, which looks to it like two hosts."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(90)


def test_nccl_refuses_two_ranks_on_one_gpu(step):
    checks = step("nccl_refuses", "nccl", timeout=40)
    assert checks["refused"] == [True, True], checks["said"]
