"""Refs: which limit ends a wait for them, and what getting one does to a graph that nobody else holds."""

from __future__ import annotations

import threading
import time

import pytest

from async_adag.driver.graph import CompiledGraph
from async_adag.errors import ExecutionTimeout
from tests.threads import in_thread


def answer_all(stage, value):
    for part in stage.parts:
        part.answer(value)


def test_a_missed_deadline_ends_the_wait_for_several_outputs(make_stage):
    stage = make_stage()
    refs = stage.compiled.options(timeout=0.05).execute(1)
    stage.parts[0].answer(7)
    with pytest.raises(ExecutionTimeout, match=r"execution 0 missed its deadline of 0\.05 s"):
        refs.get()
    stage.parts[1].answer(8)
    assert refs[0].get() == 7
    for get in (refs.get, refs[1].get):  # for good, though it has come now
        with pytest.raises(ExecutionTimeout, match=r"execution 0 missed its deadline of 0\.05 s"):
            get()
    refs = stage.compiled.execute(2)
    answer_all(stage, 9)
    assert refs.get() == [9, 9]


def test_a_deadline_of_several_outputs_that_is_met(make_stage):
    stage = make_stage()
    refs = stage.compiled.options(timeout=100).execute(1)
    answer_all(stage, 7)
    assert refs.get() == [7, 7]


@pytest.mark.parametrize("parts", [1, 2])
def test_the_graphs_get_timeout_holds_beside_a_later_deadline(make_stage, parts):
    stage = make_stage(parts, get_timeout=0.05)
    refs = stage.compiled.options(timeout=100).execute(1)
    with pytest.raises(ExecutionTimeout, match="execution 0 has not arrived within"):
        refs.get()
    answer_all(stage, 7)
    assert refs.get() == ([7, 7] if parts == 2 else 7)


@pytest.mark.parametrize("timeout", [1e7, threading.TIMEOUT_MAX, 1e12])
def test_a_timeout_longer_than_the_system_counts(make_stage, timeout):
    stage = make_stage(1)
    ref = stage.compiled.execute(1)
    got = in_thread(ref.get, timeout)
    parking = stage.engine.blocking._parking
    while not parking.parked and not got.done():
        time.sleep(0)
    stage.parts[0].answer(7)
    assert got.result(30) == 7


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), True])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_timeout_that_is_none_is_refused_though_the_result_is_there(make_stage, parts, timeout):
    stage = make_stage(parts)
    refs = stage.compiled.execute(1)
    answer_all(stage, 7)
    for _ in range(2):  # the second time it has been taken in
        with pytest.raises(ValueError, match=r"timeout .*seconds"):
            refs.get(timeout)
        assert refs.get() == ([7, 7] if parts == 2 else 7)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_ref_is_the_last_to_hold_its_graph_and_other_results_have_arrived_too(make_stage, kept):
    stage = make_stage(1)
    refs = [stage.compiled.execute(number) for number in range(3)]
    for number in range(3):
        stage.parts[0].answer(number)
    ref, finalizer = refs[kept], stage.compiled._finalizer
    del refs, stage.compiled
    assert finalizer.alive
    assert ref.get() == kept
    assert not finalizer.alive
    stage.compiled = CompiledGraph(stage.engine)  # for the stage's end
