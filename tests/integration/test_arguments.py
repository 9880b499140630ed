"""Wrong arguments, payloads and options: an error in the caller, before anything is sent."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest
from ray.dag import InputNode

import async_adag


@pytest.fixture(scope="module")
def one(workers):
    with InputNode() as x:
        dag = workers[0].note.bind(x)
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


@pytest.fixture(scope="module")
def three(workers):
    """Three positional arguments, of which the middle one is not read, and a keyword."""
    with InputNode() as x:
        dag = workers[0].join.bind(x[0], x[2], x["key"])
    compiled = async_adag.compile(dag)
    yield compiled
    compiled.teardown()


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2), {}), ((1,), {"x": 1}), ((), {"x": 1})])
async def test_a_graph_of_one_argument(one, args, kwargs):
    before = one.stats().executions
    for call in (one, one.execute_async, one.options(timeout=50)):
        with pytest.raises(TypeError, match="1 positional argument"):
            await call(*args, **kwargs)
    with pytest.raises(TypeError, match="1 positional argument"):
        one.execute(*args, **kwargs)
    assert one.stats().executions == before


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1, 2, 3), {}),
        ((1, 2), {"key": 1}),
        ((1, 2, 3, 4), {"key": 1}),
        ((1, 2, 3), {"key": 1, "more": 2}),
        ((1, 2, 3), {"other": 1}),
        ((), {"key": 1}),
    ],
)
async def test_a_graph_of_several_arguments(three, args, kwargs):
    before = three.stats().executions
    for call in (three, three.execute_async):
        with pytest.raises(TypeError, match="3 positional arguments, key="):
            await call(*args, **kwargs)
    with pytest.raises(TypeError, match="3 positional arguments, key="):
        three.execute(*args, **kwargs)
    assert three.stats().executions == before
    assert await three(1, 2, 3, key=4) == (1, 3, 4)


@pytest.mark.parametrize("name", ["self", "args", "kwargs", "timeout", "graph", "owner"])
async def test_a_part_of_any_name(worker, name):
    with InputNode() as x:
        dag = worker.echo.bind(x[name])
    async with async_adag.compile(dag) as compiled:
        argument = {name: 1}
        assert await compiled(**argument) == 1
        assert await (await compiled.execute_async(**argument)) == 1
        assert await compiled.options(timeout=50)(**argument) == 1
        assert await asyncio.to_thread(lambda: compiled.execute(**argument).get()) == 1
        assert await asyncio.to_thread(lambda: compiled.options(timeout=50).execute(**argument).get()) == 1


async def test_a_part_that_no_node_reads_is_an_argument_all_the_same(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x[0])
        assert x[1] is not None
    async with async_adag.compile(dag) as compiled:
        assert await compiled("read", "unread") == "read"
        with pytest.raises(TypeError, match="2 positional arguments"):
            await compiled("read")


class Breaks:
    def __reduce__(self):
        raise LookupError("it will not be pickled")


@pytest.mark.parametrize(("payload", "error"), [(threading.Lock, TypeError), (Breaks, LookupError)])
async def test_a_payload_that_cannot_be_pickled_raises_in_the_caller(one, worker, payload, error):
    await worker.take_notes.remote()
    with pytest.raises(error) as caught:
        await one.execute_async(payload())
    assert any("input could not be sent" in note for note in caught.value.__notes__)
    with pytest.raises(error):
        one.execute(payload())
    assert await one("after it") == "after it"
    assert await worker.take_notes.remote() == ["after it"]


async def test_one_of_several_arguments_that_cannot_be_pickled(workers):
    with InputNode() as x:
        dag = workers[2].join.bind(workers[0].echo.bind(x[0]), workers[1].echo.bind(x[1]))
    async with async_adag.compile(dag) as compiled:
        for bad in ((1, threading.Lock()), (threading.Lock(), 1)):
            with pytest.raises(TypeError, match="pickle"):
                await compiled(*bad)
            assert await compiled(1, 2) == (1, 2), "the channels are out of step"
        assert compiled.stats().executions == 2


async def test_the_input_is_serialised_at_admission(one):
    payload = [1]
    future = await one.execute_async(payload)
    payload.append(2)
    assert await future == [1]


def test_execute_async_is_a_coroutine_function(one):
    assert inspect.iscoroutinefunction(one.execute_async)
    coroutine = one(1)
    assert inspect.iscoroutine(coroutine)
    coroutine.close()


BAD_OPTIONS = {
    "max_inflight": [0, -1, 1.5, "many", None, True],
    "buffer_size": [0, -1, 1.5, "1MB", None, True],
    "submit_timeout": [-1, "soon", float("nan"), float("inf"), True],
    "get_timeout": [-0.5, "soon", float("nan"), True],
    "compile_timeout": [0, -1, None, "soon", float("nan")],
    "busy_poll": [-1, None, "always", float("nan"), True],
    "device": ["gpu", None, 1],
    "overlap": [None, 1, "yes"],
    "placement": ["", "spread", True, 0, ["apart"]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD_OPTIONS for value in BAD_OPTIONS[name]])
async def test_options_out_of_range(worker, name, value):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    with pytest.raises(ValueError, match=name):
        async_adag.compile(dag, **{name: value})
    with pytest.raises(ValueError, match=name):
        await async_adag.compile_async(dag, **{name: value})


async def test_an_unknown_option(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    with pytest.raises(TypeError, match="max_inflght"):
        async_adag.compile(dag, max_inflght=5)
    with pytest.raises(TypeError, match="max_inflght"):
        await async_adag.compile_async(dag, max_inflght=5)
    with pytest.raises(TypeError):
        async_adag.compile(dag, 5)


def test_every_option_at_once(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    with async_adag.compile(
        dag,
        max_inflight=3,
        buffer_size=4096,
        submit_timeout=5,
        get_timeout=50.0,
        compile_timeout=50,
        busy_poll=0.001,
        device="cpu",
        overlap=False,
        placement="apart",
    ) as compiled:
        assert [compiled.execute(n).get() for n in range(10)] == list(range(10))
    with async_adag.compile(dag, busy_poll="auto", device="auto", max_inflight=1) as compiled:
        assert [compiled.execute(n).get() for n in range(10)] == list(range(10))
