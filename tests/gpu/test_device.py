"""What concerns the device and both kinds of edge: awaiting it, overlap, dropped tensors, other libraries."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(100)


def test_wake_paths(step):
    checks = step("wake_paths", timeout=60)
    assert checks["woken before the end"] == 0


def test_overlap(step, sharing):
    for name, checks in step("overlap", "nccl", timeout=80, environment=sharing).items():
        assert checks["wrong"] == [], name


def test_sender_drops_its_tensor_early(step):
    checks = step("drop_early", "nccl", timeout=80)
    for name, result in checks.items():
        if name.endswith("not held"):
            assert result["again"], f"{name}: the memory was not handed out again, so this shows nothing"
            assert result["wrong"], f"{name}: nothing went wrong without the guard, so this shows nothing"
        else:
            assert result == {"wrong": [], "again": 0}, name


def test_dlpack(step):
    assert step("dlpack", timeout=80)["wrong"] == {}
