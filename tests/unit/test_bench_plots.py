"""The benchmark's pictures: drawn from a record, the same each time."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("matplotlib", reason="the pictures need matplotlib, which only `nox -s bench` installs")

from benchmarks import plots, record
from benchmarks.everything import Extent, all_workloads
from benchmarks.histogram import Histogram
from benchmarks.rows import Figures
from benchmarks.suite import FLOOR, OURS, Results

MACHINE = {"CPU": "a processor", "kernel": "Linux 6", "Python": "CPython 3", "ray": "2.60.0", "async-adag": "0.1"}
OPTIONS = {"event loop": "uvloop", "rounds": "3, 1 s per figure"}
FACTORS = {FLOOR: 1, OURS: 2, "ray": 6}


def record_of(rows, rounds=3):
    results = Results(rows)
    for row in rows:
        for who, factor in FACTORS.items():
            for number in range(rounds):
                figure = 1e-4 * (row.x or 1) * factor * (1 + number / 10)
                times = {row: Histogram.of([figure, 1.1 * figure])} if row.unit == "s" else {}
                results.add(who, Figures({row: figure}, times))
    run = record.Circumstances(MACHINE, OPTIONS, commit="0123456789")
    return json.loads(json.dumps(record.as_record(results, run)))


ALL_ROWS = [row for workload in all_workloads(Extent(True, 64, True)) for row in workload.rows]


def words_of(path):
    """All that stands in an SVG."""
    return " ".join("".join(ET.parse(path).getroot().itertext()).split())


def test_every_picture_is_drawn_and_says_where_its_figures_are_from(tmp_path):
    drawn = plots.draw(record_of(ALL_ROWS), tmp_path)
    names = ["ratios", "latencies", "throughput", "payloads", "scaling"]
    assert drawn == [tmp_path / f"bench-{name}.svg" for name in names]
    for path in drawn:
        words = words_of(path)
        for fact in ("a processor", "Linux 6", "CPython 3", "Ray 2.60.0", "uvloop", "async_adag 0.1 at 0123456"):
            assert fact in words, path.name


def test_the_ratios_stand_in_the_picture(tmp_path):
    (path, *_) = plots.draw(record_of(ALL_ROWS), tmp_path)
    words = words_of(path)
    assert "3.0x" in words
    assert "2.0x" in words
    assert "fan-out of 3" in words


def test_the_same_record_gives_the_same_files(tmp_path):
    made = record_of(ALL_ROWS)
    first, second = (plots.draw(made, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("rounds", [0, 1])
def test_what_was_not_measured_is_not_drawn(rounds, tmp_path):
    idle = [row for row in ALL_ROWS if row.unit == "%"]
    assert plots.draw(record_of(idle, rounds), tmp_path) == []
    drawn = plots.draw(record_of(ALL_ROWS, rounds), tmp_path)
    assert len(drawn) == (5 if rounds else 0)
