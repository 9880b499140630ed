"""Sampling a process, and whether samples are flat."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from async_adag.channels.memory import create_file
from tests.soak.sampling import FIGURES, Sample, figures_of, peaks, take_samples
from tests.soak.verdict import ABSOLUTE, ENOUGH, MEGABYTE, find, table

SELF = Path("/proc/self")


def samples_of(figure, values, process="driver"):
    other = dict.fromkeys(FIGURES, 100)
    return [Sample(process, float(n), n, **(other | {figure: value})) for n, value in enumerate(values)]


def not_flat(samples):
    return [finding.figure for finding in find(samples) if not finding.flat]


@pytest.mark.parametrize("figure", FIGURES)
def test_growth_past_the_allowance_is_not_flat(figure):
    step = ABSOLUTE[figure] / 10 + 1
    assert not_flat(samples_of(figure, [step * n for n in range(30)])) == [figure]


@pytest.mark.parametrize("figure", FIGURES)
def test_within_the_allowance_is_flat(figure):
    assert not_flat(samples_of(figure, [ABSOLUTE[figure] / 20 * n for n in range(30)])) == []


def test_memory_at_most_and_at_last():
    samples = [*samples_of("pss", [10, 30, 20]), *samples_of("pss", [5], "an actor")]
    assert peaks(samples) == {"driver": (30, 20), "an actor": (5, 5)}
    assert peaks([]) == {}


def test_warming_up_is_not_judged():
    assert not_flat(samples_of("fds", [10, 200, 700, *[1000] * 6])) == []


def test_less_is_flat():
    assert not_flat(samples_of("rss", [900 * MEGABYTE] * 20 + [100 * MEGABYTE] * 10)) == []


def test_a_single_peak_is_no_growth():
    assert not_flat(samples_of("fds", [10] * 20 + [10, 10, 500, 10, 10, 10, 10, 10, 10, 10])) == []


def test_large_memory_may_vary_by_a_share_of_itself():
    gigabyte = 1024 * MEGABYTE
    assert not_flat(samples_of("rss", [gigabyte] * 20 + [1.04 * gigabyte] * 10)) == []
    assert not_flat(samples_of("rss", [gigabyte] * 20 + [1.06 * gigabyte] * 10)) == ["rss"]


def test_counts_may_not():
    assert not_flat(samples_of("mappings", [10_000] * 20 + [10_100] * 10)) == ["mappings"]


def test_each_process_is_judged_by_itself():
    samples = samples_of("fds", [10] * 20) + samples_of("fds", range(0, 200, 10), process="actor")
    assert [(f.process, f.figure) for f in find(samples) if not f.flat] == [("actor", "fds")]


def test_too_few_samples_say_nothing():
    assert find(samples_of("fds", range(ENOUGH - 1))) == []
    assert len(find(samples_of("fds", range(ENOUGH)))) == len(FIGURES)


def test_the_table_marks_what_is_not_flat():
    text = table(find(samples_of("fds", range(0, 300, 10))))
    assert [line.split()[0] for line in text.splitlines() if "NOT FLAT" in line] == ["fds"]
    assert "driver" in text


HOLD = """
import json, mmap, os, tempfile, threading
from pathlib import Path
from tests.soak.sampling import figures_of

def figures():
    return figures_of(Path("/proc/self"))

figures()
before = figures()
file = tempfile.TemporaryFile()
file.truncate(mmap.PAGESIZE)
with_fd = figures()
mapping = mmap.mmap(file.fileno(), mmap.PAGESIZE)
with_mapping = figures()
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
with_thread = figures()
stop.set()
print(json.dumps([before, with_fd, with_mapping, with_thread]))
"""


def test_descriptors_threads_and_mappings_are_counted():
    """In a process where nothing else goes on."""
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", HOLD], cwd=root, check=True, capture_output=True).stdout
    before, with_fd, with_mapping, with_thread = json.loads(output)
    assert with_fd["fds"] - before["fds"] == 1
    assert with_mapping["mappings"] - with_fd["mappings"] == 1
    assert with_thread["threads"] - with_mapping["threads"] == 1
    assert before["threads"] == 1
    assert before["rss"] >= before["pss"] > 0


def test_a_memory_file_counts_once_with_what_is_behind_it():
    gc.collect()  # what other tests left
    before = figures_of(SELF)["memory_files"]
    fd = create_file("async-adag", 1 << 30)
    again = os.dup(fd)
    os.posix_fallocate(fd, 0, 3 * MEGABYTE)
    during = figures_of(SELF)["memory_files"]
    os.close(fd)
    os.close(again)
    assert during - before == 3 * MEGABYTE
    assert figures_of(SELF)["memory_files"] == before


def test_a_process_that_has_ended_gives_no_sample():
    child = os.spawnv(os.P_NOWAIT, "/bin/true", ["true"])
    os.waitpid(child, 0)
    samples = take_samples({"me": os.getpid(), "gone": child}, began=0.0, executions=5)
    assert [(sample.process, sample.executions) for sample in samples] == [("me", 5)]
