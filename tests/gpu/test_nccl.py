"""NCCL between two processes on one GPU, which looks to it like two hosts."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(100)


def test_nccl_refuses_two_ranks_on_one_gpu(step):
    checks = step("nccl_refuses", "nccl", timeout=40)
    assert checks["refused"] == [True, True], checks["said"]


def test_nccl_by_size(step):
    assert step("nccl_sizes", "nccl", timeout=60)["wrong"] == []


def test_a_buffer_that_is_filled_again_while_it_is_read(step):
    checks = step("nccl_buffer_reuse", "nccl", timeout=60)
    for name, result in checks.items():
        assert result["buffers"] < 20, f"{name}: no buffer was used again, so this shows nothing"
    assert checks["guarded"]["wrong"] == []
    assert checks["not guarded"]["wrong"], "nothing went wrong without the guard, so this shows nothing"


def test_nccl_beside_raw(step):
    checks = step("nccl_beside_raw", "nccl", timeout=60)
    assert checks["ratios"]
    assert checks["added"]


def test_nccl_peer_killed(step):
    for name, checks in step("nccl_peer_killed", "nccl", timeout=60).items():
        assert checks == {"known": True, "went_on": True, "usable": True}, name


def test_nccl_orders(step):
    checks = step("nccl_orders", "nccl", timeout=60)
    assert checks["same order"] == {"done": True, "wrong": 0, "usable": True}
    assert checks["opposite orders"]["usable"]
    assert checks["opposite orders"]["wrong"] == 0
