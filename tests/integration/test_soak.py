"""The soak and chaos, for seconds: they run, every outcome has its reason, and the record is there.

Whether anything grows takes minutes to tell: ``nox -s soak``.
"""

from __future__ import annotations

import json

import pytest

from tests.soak.__main__ import main


@pytest.fixture
def run(tmp_path):
    def run_(*arguments: str) -> dict:
        status = main([*arguments, "--seed", "1", "--out", str(tmp_path)])
        record = json.loads((tmp_path / f"{arguments[0]}.json").read_text())
        assert record["wrong"] == []
        assert status == 0
        return record

    return run_


def test_a_round_of_the_soak(run, capsys):
    record = run("soak", "--minutes", "0", "--largest", "100000")
    processes = [sample["process"] for sample in record["samples"]]
    assert processes == ["driver", "actor a", "actor b (async)", "actor c"]
    assert all(sample["rss"] > 0 and sample["fds"] > 0 for sample in record["samples"])
    done = record["outcomes"]
    assert done["right"] + done["failed as ordered"] == record["samples"][-1]["executions"]
    assert done["refused, cannot be pickled"] > 0
    assert "too short to tell" in capsys.readouterr().out


def test_a_moment_of_chaos(run):
    record = run("chaos", "--minutes", "0.03", "--pause", "0.3", "--loop", "asyncio")
    assert record["outcomes"]["right"] > 0
    assert record["events"]["kills"] > 0
    assert record["events"]["graphs compiled"] > 0
    assert [sample["process"] for sample in record["samples"]][:1] == ["driver"]
