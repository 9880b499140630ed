"""The soak over two hosts, for a round: it runs, and looks at the processes of both.

Whether anything grows takes minutes to tell: ``nox -s soak -- --hosts 2``.
"""

from __future__ import annotations

import json

from tests.soak.__main__ import main


def test_a_round_of_the_soak_over_two_hosts(second, tmp_path):
    assert main(["soak", "--minutes", "0", "--largest", "100000", "--hosts", "2", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "soak.json").read_text())
    assert record["wrong"] == []
    assert record["outcomes"]["right"] > 0
    assert [sample["process"] for sample in record["samples"]] == [
        "driver",
        "actor a, host 0",
        "actor b (async), host 1",
        "actor c, host 0",
        "actor d, host 1",
    ]
    assert all(sample["rss"] > 0 and sample["fds"] > 0 for sample in record["samples"])
