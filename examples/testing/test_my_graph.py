"""Tests of a graph of one's own: `python -m pytest examples/testing`.

Needs: pip install pytest pytest-asyncio pytest-timeout uvloop
"""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import pytest
import ray
from my_graph import Speller
from ray.dag import InputNode

import async_adag

WRONG = "A functoin is an objcet."
ADVICE = {"functoin": ["function", "functions"], "objcet": ["object", "objects"]}


async def test_result(graph: async_adag.CompiledGraph) -> None:
    assert await graph(WRONG) == ADVICE
    assert await graph("A function is an object.") == {}


async def test_many_in_flight_keep_their_order(graph: async_adag.CompiledGraph) -> None:
    texts = [f"functoin {'zq' * number}" for number in range(1, 100)]
    answers = [answer async for answer in graph.map(texts)]
    assert [set(answer) for answer in answers] == [set(text.split()) for text in texts]


async def test_an_error_arrives_as_itself_and_the_graph_goes_on(graph: async_adag.CompiledGraph) -> None:
    good, bad = await graph.execute_async(WRONG), await graph.execute_async("")
    with pytest.raises(ValueError, match="there is no text"):
        await bad
    assert await good == ADVICE
    assert await graph(WRONG) == ADVICE


async def test_a_result_that_is_cancelled_harms_no_other(graph: async_adag.CompiledGraph) -> None:
    futures = [await graph.execute_async(WRONG) for _ in range(10)]
    assert futures[3].cancel()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(outcomes.pop(3), asyncio.CancelledError)
    assert outcomes == [ADVICE] * 9


@ray.remote(num_cpus=0)
class Gate:
    """Stands for something slow. A file opens it, so that no test sleeps for a time that may be too short."""

    def __init__(self, opened: Path) -> None:
        self.opened = opened

    def pass_on(self, text: str) -> str:
        while not self.opened.exists():
            time.sleep(0.01)
        return text


async def test_a_deadline_that_is_missed(speller: Speller, tmp_path: Path) -> None:
    gate = Gate.remote(tmp_path / "opened")
    with InputNode() as text:
        dag = speller.checker.wrong.bind(gate.pass_on.bind(text))
    async with async_adag.compile(dag) as graph:
        with pytest.raises(async_adag.ExecutionTimeout):
            await graph.options(timeout=0.1)(WRONG)
        (tmp_path / "opened").touch()
        assert await graph(WRONG) == ["functoin", "objcet"]


async def test_closing_waits_for_what_is_in_flight(speller: Speller) -> None:
    async with async_adag.compile(speller.dag()) as graph:
        futures = [await graph.execute_async(WRONG) for _ in range(10)]
    assert [future.result() for future in futures] == [ADVICE] * 10
    with pytest.raises(async_adag.GraphClosed):
        await graph(WRONG)


@pytest.mark.usefixtures("cluster")
async def test_an_actor_that_dies_breaks_the_graph() -> None:
    speller = Speller.start({"word"})
    async with async_adag.compile(speller.dag()) as graph:
        assert await graph("wrod") == {"wrod": ["word"]}
        ray.kill(speller.checker)  # which may answer for a moment more
        with pytest.raises(async_adag.GraphBroken, match="Checker"):
            _ = [answer async for answer in graph.map(itertools.repeat("wrod"))]


def test_the_blocking_side(speller: Speller) -> None:
    with async_adag.compile(speller.dag()) as graph:
        assert graph.execute(WRONG).get(timeout=30) == ADVICE
