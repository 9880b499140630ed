"""Values there and back."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
import ray
from ray.dag import InputNode

import async_adag


@dataclass
class Point:
    x: int
    y: list[int]


VALUES = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    10**40,
    1.5,
    float("inf"),
    "",
    "text",
    "\udc80",
    b"",
    b"bytes",
    bytearray(b"bytes"),
    b"x" * 3_000_000,
    (1, "two", [3.0]),
    (),
    {"a": {"b": [None]}},
    Point(1, [2]),
    Point,
    len,
]

ARRAYS = [
    np.array(5),
    np.zeros(0),
    np.arange(10),
    np.arange(300_000, dtype=np.float32),
    np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    np.arange(1000)[::7],
    np.array(["a", "bc"]),
    np.array([{"an": "object"}], dtype=object),
    np.zeros(3, dtype=[("x", "i4"), ("y", "f8")]),
]


@pytest.fixture(scope="module")
def echo(workers):
    with InputNode() as x:
        dag = workers[0].echo.bind(x)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


@pytest.fixture(scope="module")
def chain(workers):
    with InputNode() as x:
        dag = workers[2].add.bind(workers[1].add.bind(workers[0].add.bind(x)))
    compiled = async_adag.compile(dag, max_inflight=100)
    yield compiled
    compiled.teardown()


async def test_every_value_arrives_equal_and_of_its_type(echo):
    for value in VALUES:
        result = await echo(value)
        assert result == value
        assert type(result) is type(value)


async def test_every_array_arrives_equal(echo):
    for array in ARRAYS:
        result = await echo(array)
        assert result.dtype == array.dtype
        assert result.shape == array.shape
        assert np.array_equal(result, array)


async def test_functions_that_nobody_can_import(echo):
    offset = 3
    function = await echo(lambda value: value + offset)
    assert function(4) == 7


def test_the_blocking_side_gives_the_same(echo):
    for value in VALUES:
        assert echo.execute(value).get() == value


async def test_arrays_that_crossed_a_process_are_read_only(echo):
    for size in (10, 1_000_000):
        result = await echo(np.arange(size))
        assert not result.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            result[0] = 1


async def test_an_edge_within_an_actor_passes_the_object_itself(workers):
    with InputNode() as x:
        dag = workers[0].is_kept.bind(workers[0].keep.bind(x))
    async with async_adag.compile(dag) as compiled:
        assert await compiled([1, 2]) is True


async def test_a_chain_of_three_ten_thousand_times(chain):
    pending: deque[asyncio.Future] = deque()
    for number in range(10_000):
        if len(pending) == 100:
            assert await pending.popleft() == number - 100 + 3
        pending.append(await chain.execute_async(number))
    assert [await future for future in pending] == list(range(9_903, 10_003))


async def test_a_hundred_tasks_at_once(chain):
    async def caller(begin: int) -> None:
        for number in range(begin, begin + 20):
            assert await chain(number) == number + 3

    await asyncio.gather(*(caller(1000 * number) for number in range(100)))
    assert chain.stats().in_flight == 0


async def test_actors_are_told_whether_executions_come_one_at_a_time(workers, make_gate):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].hold_or_echo.bind(x))
    async with async_adag.compile(dag) as compiled:
        controls = compiled._engine.deployment.controls
        for _ in range(2):
            gate = make_gate()
            first = await compiled.execute_async(gate.path)
            assert all(control.is_alone() for control in controls)
            second = await compiled.execute_async(2)
            assert not any(control.is_alone() for control in controls)
            await asyncio.to_thread(gate.open, "open")
            assert await asyncio.gather(first, second) == ["open", 2]
            assert await compiled(3) == 3
            assert all(control.is_alone() for control in controls)


async def test_64_megabytes_there_and_back(echo):
    array = np.random.default_rng(1).integers(0, 256, 64 << 20, dtype=np.uint8)
    for _ in range(3):
        result = await echo(array)
        assert np.array_equal(result, array)
        array = result[::-1].copy()


async def test_holding_results_never_stops_the_graph(workers):
    with InputNode() as x:
        dag = workers[0].echo.bind(x)
    async with async_adag.compile(dag, max_inflight=4) as compiled:
        held = [await compiled(np.full(100_000, number)) for number in range(64)]
        assert all((array == number).all() for number, array in enumerate(held))


async def test_arrays_outlive_the_graph(workers):
    with InputNode() as x:
        dag = workers[0].echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        array = await compiled(np.arange(1_000_000))
    assert np.array_equal(array, np.arange(1_000_000))


async def test_growing_payloads(echo):
    for power in range(23):
        size = 1 << power
        assert len(await echo(b"x" * size)) == size


async def test_object_refs_travel(workers):
    with InputNode() as x:
        dag = workers[1].call.bind(_get_first, workers[0].echo.bind(x))
    async with async_adag.compile(dag) as compiled:
        ref = ray.put("stored")
        assert await compiled([ref]) == "stored"


def _get_first(refs):
    return ray.get(refs[0])


def test_main_job_in_a_few_lines(workers):
    with InputNode() as x:
        dag = workers[1].add.bind(workers[0].add.bind(x), 10)

    async def main() -> int:
        async with async_adag.compile(dag) as compiled:
            return await compiled(1)

    assert asyncio.run(main()) == 12
