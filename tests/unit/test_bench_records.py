"""The benchmark's records: kept whole, found again, compared."""

from __future__ import annotations

import json
import subprocess

import pytest

from benchmarks import record
from benchmarks.compare import compare
from benchmarks.everything import Extent, actors_of, all_workloads
from benchmarks.histogram import PER_DECADE, Histogram, edge
from benchmarks.memory import Memory, Peaks
from benchmarks.rows import Row, of_times
from benchmarks.suite import Results, run
from benchmarks.table import failures, table

ROUND_TRIP = Row("Round trip", "1 actor, p50", "s")
RATE = Row("Throughput", "1 actor", "/s")
PIPE = Row("Round trip, against a pipe", "integer", "s", rival="pipe")
MACHINE = {"CPU": "one", "load before": "0"}


def results_of(row, **rounds):
    results = Results([row])
    for who, figures in rounds.items():
        results.figures[row, who] = figures
    return results


def record_of(row, machine=MACHINE, commit="c" * 40, **rounds):
    run = record.Circumstances(machine, {"rounds": "3"}, commit=commit)
    return json.loads(json.dumps(record.as_record(results_of(row, **rounds), run)))


def lines_of(text, label):
    (line,) = (line for line in text.splitlines() if line.strip().startswith(label))
    return line.split()


# -- histograms


def test_a_histogram_keeps_every_time_within_a_bin():
    times = [1e-6, 5e-5, 5.01e-5, 2.0]
    kept = Histogram.of(times)
    assert kept.total == 4
    for time in times:
        assert any(edge(number) <= time * (1 + 1e-9) and time < edge(number + 1) for number in kept.counts)
    assert edge(PER_DECADE) == pytest.approx(10 * edge(0))


def test_histograms_are_kept_as_json_and_added():
    kept = Histogram.of([1e-6, 1e-6, 3e-3])
    assert Histogram.from_json(json.loads(json.dumps(kept.as_json()))) == kept
    assert (kept + Histogram.of([1e-6])).counts[min(kept.counts)] == 3


def test_times_give_median_and_99th_percentile_and_their_histogram():
    p99 = Row("Round trip", "1 actor, p99", "s")
    figures = of_times([ROUND_TRIP, p99], [0.001 * n for n in range(1, 101)], share=0.5)
    assert figures.values == {ROUND_TRIP: pytest.approx(0.025), p99: pytest.approx(0.0495)}
    assert figures.histograms[ROUND_TRIP].total == 100


# -- a record


def test_a_record_has_every_round_and_the_ratios():
    (row,) = record_of(ROUND_TRIP, ray=[2.0, 4.0, 6.0], async_adag=[1.0, 2.0, 1.0], floor=[0.5])["rows"]
    assert row["rounds"] == {"ray": [2.0, 4.0, 6.0], "async_adag": [1.0, 2.0, 1.0], "floor": [0.5]}
    assert (row["gain"], row["over_floor"]) == (4.0, 2.0)
    (row,) = record_of(RATE, ray=[10.0], async_adag=[30.0])["rows"]
    assert (row["gain"], row["over_floor"]) == (3.0, None)


def test_the_floor_is_compared_with_what_parks():
    (row,) = record_of(ROUND_TRIP, async_adag=[1.0], parked=[3.0], floor=[2.0])["rows"]
    assert row["over_floor"] == 1.5
    assert row["medians"]["parked"] == 3.0


def test_a_rival_stands_in_rays_place():
    results = results_of(PIPE, pipe=[3.0], async_adag=[1.0])
    assert results.gain(PIPE) == 3.0
    assert "against a pipe (in the first column)" in table(results)
    assert lines_of(table(results), "integer") == ["integer", "3.00", "s", "1.00", "s", "3.00", "x", "-", "-", "-"]


def test_a_record_is_found_by_its_file_and_by_its_commit(tmp_path):
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=record.ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    if not head:
        pytest.skip("no git repository here")
    made = record_of(RATE, commit=head, async_adag=[1.0])
    path = record.save(made, tmp_path)
    record.save(made | {"commit": f"{head} changed", "began": "2026-01-01T00:00:00+00:00"}, tmp_path)
    assert (
        record.find(str(path), tmp_path)
        == record.find("HEAD", tmp_path)
        == record.find(head[:10], tmp_path)
        == [made]
    )


def test_what_is_no_record_is_said(tmp_path):
    with pytest.raises(record.NoRecord, match=r"nonsense is no file, and .* has no record"):
        record.find("nonsense", tmp_path)
    for text in ("no json", "[]", '{"format": 0}'):
        tmp_path.joinpath("other.json").write_text(text)
        with pytest.raises(record.NoRecord, match="is no record"):
            record.find(str(tmp_path / "other.json"), tmp_path)


# -- two records


def test_a_change_beyond_the_scatter_is_told_and_one_within_it_is_not():
    before = record_of(ROUND_TRIP, ray=[4.0, 4.0, 4.0], async_adag=[1.0, 1.1, 1.2], floor=[0.5, 0.5, 0.5])
    better = record_of(ROUND_TRIP, ray=[8.0, 8.0, 8.0], async_adag=[0.5, 0.6, 0.55], floor=[0.5, 0.5, 0.5])
    within = record_of(ROUND_TRIP, async_adag=[0.5, 0.6, 1.01])
    row = lines_of(compare([before], [better]), "1 actor, p50")
    assert row[3:] == ["1.10", "s", "550", "ms", "0.50", "2.00", "1.00", "better"]
    assert lines_of(compare([better], [before]), "1 actor, p50")[-1] == "worse"
    assert lines_of(compare([before], [within]), "1 actor, p50")[7:] == ["0.55", "-", "-"]
    assert "1 rows differ beyond the scatter; 0.1 would by chance alone." in compare([before], [better])


def test_more_is_better_of_a_rate():
    slow, fast = (record_of(RATE, async_adag=[rate, rate + 1]) for rate in (10.0, 20.0))
    assert lines_of(compare([slow], [fast]), "1 actor")[-1] == "better"
    assert lines_of(compare([fast], [slow]), "1 actor")[-1] == "worse"


def test_one_round_has_no_scatter():
    slow, fast = (record_of(RATE, async_adag=[rate]) for rate in (10.0, 20.0))
    assert lines_of(compare([slow], [fast]), "1 actor")[-1] == "-"


def test_rounds_of_several_records_of_a_commit_are_taken_together():
    slow, fast = (record_of(RATE, async_adag=[rate, rate + 1]) for rate in (10.0, 20.0))
    assert lines_of(compare([slow], [fast, slow]), "1 actor")[-1] == "-"


def test_rows_that_only_one_record_has_and_other_machines_are_told():
    text = compare([record_of(RATE, async_adag=[1.0])], [record_of(PIPE, {"CPU": "two"}, async_adag=[1.0])])
    assert lines_of(text, "integer")[1:] == ["-", "1.00", "s", "-", "-", "-"]
    assert "different CPU: one / two" in text


# -- rounds


class Measured:
    """A workload that is also done by a rival."""

    name = "measured"
    rows = (PIPE,)
    rival = "pipe"

    def __init__(self):
        self.turns = []

    def measure(self, backend, site):
        self.turns.append(backend.name)
        return of_times([PIPE], [1.0])

    def measure_rival(self, site):
        self.turns.append("pipe")
        raise OSError("no pipe")


class Here:
    """Where nothing is measured; what was done is noted."""

    def __init__(self):
        self.tidied = []

    def site(self):
        return self

    def briefly(self, part):
        return self

    def watch(self):
        return lambda: Memory(driver=1, actors=2, left=3)

    def tidy(self, failed):
        self.tidied.append(failed)


class Named:
    def __init__(self, name):
        self.name = name


def test_backends_and_rival_take_turns_and_a_failure_spoils_nothing():
    results, workload, here = Results([PIPE]), Measured(), Here()
    run(results, [workload], [Named("ray"), Named("async_adag")], None, here, 3, lambda _: None)
    expected = [["ray", "async_adag", "pipe"], ["async_adag", "pipe", "ray"], ["pipe", "ray", "async_adag"]]
    assert workload.turns == [turn for round_ in expected for turn in round_]
    assert len(results.figures[PIPE, "async_adag"]) == 3
    assert results.failures == {(PIPE, "pipe", "OSError: no pipe"): 3}
    assert here.tidied == [turn == "pipe" for turn in workload.turns]  # whoever fails may have left dead actors
    assert results.memory["measured", "ray"] == Memory(driver=1, actors=2, left=3)


class Floored(Measured):
    """What a floor does as well; nobody's rival."""

    def floor(self, floor, site):
        self.turns.append(floor)
        return of_times([PIPE], [0.5])


def test_who_parks_is_measured_beside_a_floor_and_nowhere_else():
    for workload, floor, expected in (
        (Floored(), "floor", ["async_adag", "pipe", "floor", "busy_poll=0"]),
        (Floored(), None, ["async_adag", "pipe"]),
        (Measured(), "floor", ["async_adag", "pipe"]),
    ):
        results = Results([PIPE])
        parked = Named("busy_poll=0")
        run(results, [workload], [Named("async_adag")], floor, Here(), 1, lambda _: None, parked=parked)
        assert workload.turns == expected
        assert ((PIPE, "parked") in results.figures) == ("busy_poll=0" in expected)


def test_a_failed_row_is_told_beside_the_others():
    results = results_of(PIPE, async_adag=[1.0])
    results.rows.append(RATE)
    results.fail(Measured(), "pipe", "OSError: no pipe")
    assert lines_of(table(results), "integer") == ["integer", "failed", "1.00", "s", "-", "-", "-", "-"]
    assert failures(results) == [
        "failed 1 times, pipe: Round trip, against a pipe: integer: OSError: no pipe",
    ]
    made = record.as_record(results, record.Circumstances(MACHINE, {}))
    assert [row["failures"] for row in made["rows"]] == [
        [{"who": "pipe", "reason": "OSError: no pipe", "times": 1}],
        [],
    ]


class Killer:
    """A workload in which the whole run ends."""

    name = "killer"
    rows = (RATE,)

    def measure(self, backend, site):
        raise KeyboardInterrupt


def test_a_run_that_is_killed_leaves_the_rows_before_and_says_where_it_was(tmp_path):
    results = Results([PIPE, RATE])
    run_of_it = record.Circumstances(MACHINE, {})

    def keep():
        record.save(record.as_record(results, run_of_it), tmp_path)

    with pytest.raises(KeyboardInterrupt):
        run(results, [Measured(), Killer()], [Named("async_adag")], None, Here(), 2, lambda _: None, keep)
    (path,) = tmp_path.iterdir()
    left = record.load(path)
    assert left["under_way"] == "round 1 of 2: killer: async_adag"
    assert [row["rounds"] for row in left["rows"]] == [{"async_adag": [1.0]}, {}]
    assert "A: the run of" in compare([left], [left])

    results.rows.clear()
    run(results, [Measured()], [Named("async_adag")], None, Here(), 1, lambda _: None, keep)
    assert record.load(path)["under_way"] == ""


def test_memory_is_watched_in_every_process():
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            peaks = Peaks([child.pid, 2**22 + 1])  # the last is nobody
            size = 64 << 20
            held = bytearray(size)
            del held
            seen = peaks.read()
        finally:
            child.kill()
    assert seen.driver > size
    assert 0 < seen.actors < size
    again = Peaks([]).read()
    assert again.driver < seen.driver
    assert (again | seen).driver == seen.driver


@pytest.mark.parametrize("thorough", [False, True])
def test_rows_and_names_of_all_workloads_are_different(thorough):
    workloads = all_workloads(Extent(thorough, actors=64, deaths=True))
    assert len({workload.name for workload in workloads}) == len(workloads)
    rows = [(row.section, row.label) for workload in workloads for row in workload.rows]
    assert len(set(rows)) == len(rows)


def test_no_workload_has_more_actors_than_it_may():
    for limit in (8, 16, 64):
        sizes = {actors_of(workload) for workload in all_workloads(Extent(True, limit, False))}
        assert max(sizes) == limit
