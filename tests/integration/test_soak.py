"""The soak and chaos, for seconds: they run, every outcome has its reason, and the record is there.

Whether anything grows takes minutes to tell: ``nox -s soak``.
"""

from __future__ import annotations

import json
from random import Random

import pytest
from ray.dag import InputNode

import async_adag
from async_adag import GraphBroken
from tests.gate import wait_at
from tests.soak import intruders
from tests.soak.__main__ import main
from tests.soak.outcomes import Subject, Tally
from tests.soak.shapes import SHAPES


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
    printed = capsys.readouterr().out
    assert "too short to tell" in printed
    assert "of memory (PSS) in the driver at most" in printed


@pytest.mark.one_host(reason="it spoils shared memory")
def test_a_moment_of_chaos(run):
    record = run("chaos", "--minutes", "0.03", "--pause", "0.3", "--loop", "asyncio")
    assert record["outcomes"]["right"] > 0
    assert record["events"]["kills"] > 0
    assert record["events"]["graphs compiled"] > 0
    assert record["events"]["strangers that were refused, with a line in the log"] > 0
    assert [sample["process"] for sample in record["samples"]][:1] == ["driver"]


@pytest.mark.one_host(reason="it spoils shared memory")
@pytest.mark.parametrize("byte", intruders.BYTES)
def test_a_frame_that_chaos_has_spoiled_is_refused(worker, gate, monkeypatch, byte):
    monkeypatch.setattr(intruders, "BYTES", (byte,))
    tally, subject = Tally(patience=30), Subject(SHAPES[0], [worker])
    with InputNode() as x:
        dag = worker.call.bind(wait_at, x)
    with async_adag.compile(dag) as compiled:
        subject.compiled = compiled
        assert not intruders.spoil_a_frame(subject, Random(1), tally)  # nothing is there
        held, bad = compiled.execute(gate.path), compiled.execute(gate.path)
        gate.entered()
        assert intruders.spoil_a_frame(subject, Random(1), tally)
        assert subject.is_hurt()
        gate.open()
        held.get()
        with pytest.raises(GraphBroken, match="from the driver to call"):
            bad.get()
    assert tally.events == {"frames spoiled": 1}
