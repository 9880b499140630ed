"""Hand-overs between two processes on one GPU."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(100)


def test_ipc_latency(step, sharing):
    for kind, checks in step("ipc_latency", timeout=60, environment=sharing).items():
        assert checks["messages"] > 1000
        assert checks["wrong"] == [], kind


def test_ipc_checksums(step):
    checks = step("ipc_checksums", timeout=80)
    for kind, result in checks["results"].items():
        assert result["wrong"] == [], kind
        assert result["found"] == checks["control"], f"{kind}: the check itself misses what is wrong"


def test_ipc_without_acks_is_detected(step):
    checks = step("ipc_no_acks", timeout=40)
    assert checks["with"] == []
    assert checks["without"], "nothing went wrong without the guard, so this shows nothing"


def test_ipc_writer_killed(step):
    checks = step("ipc_peer_killed", timeout=40)
    assert checks["waited"], "the stream went on by itself, so this shows nothing"
    assert checks["went on"]
    assert checks["usable"]
    assert not checks["first message wrong"]
    assert checks["closed"]


def test_memory_is_flat(step):
    checks = step("memory_flat", timeout=60)
    assert checks["wrong"] == []
    assert checks["opened"] == [0, 0]
    assert checks["used"] <= 16, "MiB more than after the first messages"
