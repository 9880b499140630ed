"""Pipelines over links take exactly as long as their critical path, with overlap and in plain order."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.simulated import Simulation
from tests.gpu_edges import Pool

times = st.integers(1, 20)


@dataclass(frozen=True)
class Pipeline:
    """Seconds of virtual time.

    Attributes:
        compute: by execution and stage.
        transfer: by execution and edge, one less.
        window: how many executions may be in flight.
    """

    compute: list[list[int]]
    transfer: list[list[int]]
    window: int


@st.composite
def pipelines(draw) -> Pipeline:
    stages, executions = draw(st.integers(2, 4)), draw(st.integers(1, 8))

    def of(count: int) -> list[list[int]]:
        return draw(
            st.lists(st.lists(times, min_size=count, max_size=count), min_size=executions, max_size=executions)
        )

    return Pipeline(of(stages), of(stages - 1), draw(st.integers(1, 8)))


def critical_path(pipeline: Pipeline, *, overlap: bool) -> int:
    """The end of the last execution, from the graph whose edges are data, the order of streams, and the window."""
    stages = len(pipeline.compute[0])
    stream = [0] * stages  # when a stage's stream has done all that it was given
    edge = [0] * stages  # when an edge has carried all that it was given
    ended: list[int] = []
    for execution, (compute, transfer) in enumerate(zip(pipeline.compute, pipeline.transfer, strict=True)):
        there = ended[execution - pipeline.window] if execution >= pipeline.window else 0
        for stage in range(stages):
            stream[stage] = max(stream[stage], there) + compute[stage]
            if stage < stages - 1:
                begins = max(stream[stage], edge[stage]) if overlap else max(stream[stage : stage + 2])
                there = edge[stage] = begins + transfer[stage]
                if not overlap:
                    stream[stage] = edge[stage]
        ended.append(stream[-1])
    return ended[-1]


def makespan(pipeline: Pipeline, *, overlap: bool) -> float:
    """What the senders and receivers make of it."""
    simulation = Simulation()
    stages = len(pipeline.compute[0])
    processes = [simulation.process(number) for number in range(stages)]
    streams = [process.adopt(0) for process in processes]
    pools = [Pool(process) for process in processes]
    senders, receivers = [], [None]
    for writer, reader in itertools.pairwise(processes):
        link = simulation.link(writer, reader, latency=0.0, bandwidth=1.0)  # a byte a second
        ends = link, copy.copy(link)
        for rank, end in enumerate(ends):
            end.initialize(rank)
        senders.append(LinkSender(writer, [ends[0]], overlap=overlap))
        receivers.append(LinkReceiver(reader, ends[1], overlap=overlap))
    done = []
    for execution, (compute, transfer) in enumerate(zip(pipeline.compute, pipeline.transfer, strict=True)):
        if execution >= pipeline.window:
            while not done[execution - pipeline.window].query():
                simulation.step()
        note, reads = 0, []
        for stage, process in enumerate(processes):
            if stage:
                arrived = receivers[stage].receive(note, [transfer[stage - 1]], streams[stage])
                reads = [memory.span for memory in arrived]
            tensor = pools[stage].make(transfer[stage] if stage < stages - 1 else 1)
            process.kernel(streams[stage], reads=reads, writes=[tensor.span], seconds=compute[stage])
            if stage < stages - 1:
                note = senders[stage].announce([tensor.span], [tensor], streams[stage])
                senders[stage].send()
        done.append(processes[-1].event())
        streams[-1].record(done[-1])
    simulation.run()
    return simulation.now


@given(pipelines(), st.booleans())
@settings(max_examples=150)
def test_a_pipeline_takes_as_long_as_its_critical_path(pipeline, overlap):
    assert makespan(pipeline, overlap=overlap) == pytest.approx(critical_path(pipeline, overlap=overlap))


@given(pipelines())
@settings(max_examples=100)
def test_overlap_is_never_slower(pipeline):
    assert critical_path(pipeline, overlap=True) <= critical_path(pipeline, overlap=False)


def test_transfers_that_take_as_long_as_computing_are_hidden():
    pipeline = Pipeline([[10, 10]] * 20, [[10]] * 20, 8)
    assert makespan(pipeline, overlap=True) == 20 * 10 + 20
    assert makespan(pipeline, overlap=False) == 20 * 20 + 10
