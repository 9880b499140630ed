"""Shapes of graphs, and what their executions take."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import async_adag


async def outcome(dag, *args, **kwargs):
    async with async_adag.compile(dag) as compiled:
        first = await compiled(*args, **kwargs)
        assert await compiled(*args, **kwargs) == first
        return first


async def test_one_node(workers):
    with InputNode() as x:
        dag = workers[0].add.bind(x)
    assert await outcome(dag, 1) == 2


async def test_fan_out_and_fan_in(workers):
    with InputNode() as x:
        spread = workers[0].echo.bind(x)
        dag = workers[2].join.bind(workers[1].add.bind(spread, 1), workers[2].add.bind(spread, 2), spread)
    assert await outcome(dag, 10) == (11, 12, 10)


async def test_the_input_goes_to_many(workers):
    with InputNode() as x:
        dag = MultiOutputNode([worker.add.bind(x, n) for n, worker in enumerate(workers)])
    assert await outcome(dag, 10) == [10, 11, 12]


async def test_several_methods_of_one_actor(workers):
    with InputNode() as x:
        first = workers[0].add.bind(x)
        away = workers[1].add.bind(first, 10)
        back = workers[0].add.bind(away, 100)
        dag = workers[0].join.bind(first, away, back)
    assert await outcome(dag, 0) == (1, 11, 111)


async def test_a_long_chain_over_few_actors(workers):
    with InputNode() as x:
        node = x
        for n in range(60):
            node = workers[n % 3].add.bind(node)
    assert await outcome(node, 0) == 60


async def test_a_wide_graph(workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[n % 3].add.bind(x, n) for n in range(60)])
    assert await outcome(dag, 0) == list(range(60))


async def test_a_diamond_of_one_actor(workers):
    with InputNode() as x:
        top = workers[0].echo.bind(x)
        dag = workers[0].join.bind(workers[0].add.bind(top, 1), workers[0].add.bind(top, 2))
    assert await outcome(dag, 0) == (1, 2)


async def test_the_nodes_of_an_actor_run_in_the_order_in_which_they_were_bound(workers):
    with InputNode() as x:
        third = workers[0].note.bind("bound first")
        second = workers[0].note.bind(workers[1].echo.bind(x))
        first = workers[0].note.bind("bound last")
        dag = MultiOutputNode([first, second, third])
    await workers[0].take_notes.remote()
    async with async_adag.compile(dag) as compiled:
        await asyncio.gather(*(compiled(n) for n in range(5)))
    expected = [note for n in range(5) for note in ("bound first", n, "bound last")]
    assert await workers[0].take_notes.remote() == expected


@pytest.fixture
def two_handles(make_actor):
    """Two handles of one actor: Ray counts what is bound by each for itself."""
    one = make_actor(name="of two handles")
    return one, ray.get_actor("of two handles")


async def notes_of(dag, actor):
    await outcome_of_one(dag, 0)
    return await actor.take_notes.remote()


async def test_nodes_with_an_argument_in_common_run_as_they_were_bound_whatever_the_handle(two_handles):
    one, two = two_handles
    with InputNode() as x:
        nodes = [handle.note.bind([n, x]) for n, handle in enumerate([one, two, two, one, two, one])]
        dag = MultiOutputNode([nodes[4], nodes[0], nodes[3]])  # two of those before are leaves
    assert await notes_of(dag, one) == [[n, 0] for n in range(6)]


async def test_other_nodes_of_several_handles_run_from_left_to_right(two_handles):
    one, two = two_handles
    with InputNode() as x:
        fifth, third, second = one.note.bind("fifth"), two.note.bind("third"), one.note.bind("second")
        first, fourth = two.note.bind("first"), two.note.bind("fourth")
        dag = MultiOutputNode([one.join.bind(x, first, second), third, fourth, fifth])
    # Within a handle they run as they were bound: the third before the first, the fifth before the second.
    assert await notes_of(dag, one) == ["third", "first", "fifth", "second", "fourth"]


async def test_arguments_come_first_whatever_the_handles(two_handles, workers):
    one, two = two_handles
    with InputNode() as x:
        node = x
        for n in range(60):
            node = (one, workers[n % 2], two)[n % 3].add.bind(node)
        dag = two.note.bind(node)
    assert await outcome(dag, 0) == 60


async def test_constants_and_keywords(workers):
    with InputNode() as x:
        dag = workers[0].join.bind(x, "constant", None, named=x, other=[1, 2])
    assert await outcome(dag, 5) == (5, "constant", None, {"named": 5, "other": [1, 2]})


class Pair(NamedTuple):
    left: object
    right: object


async def test_results_inside_containers(workers):
    with InputNode() as x:
        one, two = workers[0].add.bind(x, 1), workers[1].add.bind(x, 2)
        dag = workers[2].join.bind([one, x, "c"], (two, [one, []]), {"a": two, 1: {"b": one}}, pair=Pair(one, two))
    expected = ([1, 0, "c"], (2, [1, []]), {"a": 2, 1: {"b": 1}}, {"pair": Pair(1, 2)})
    assert await outcome(dag, 0) == expected
    assert type((await outcome(dag, 0))[3]["pair"]) is Pair


async def test_parts_of_the_input_inside_containers(workers):
    with InputNode() as x:
        dag = workers[0].join.bind([x[1], x.name], {"first": x[0]})
    assert await outcome(dag, 1, 2, name="n") == ([2, "n"], {"first": 1})


async def test_each_execution_gets_containers_of_its_own(workers):
    with InputNode() as x:
        dag = workers[0].call.bind(lambda items: items.append(items[0]) or items, [x])
    assert await outcome(dag, 1) == [1, 1]


async def test_containers_of_constants_within_are_made_anew_too(workers):
    with InputNode() as x:
        dag = workers[0].call.bind(lambda box: box[1].append(1) or box, [x, [], ({"a": []},)])
    assert await outcome(dag, 0) == [0, [1], ({"a": []},)]


class Even(NamedTuple("Even", [("number", int)])):
    """Says what it takes."""

    def __new__(cls, number):
        if number % 2:
            raise ValueError(f"{number} is not even")
        return super().__new__(cls, number)

    @classmethod
    def _make(cls, parts):
        return cls(*parts)


async def test_a_container_that_cannot_be_made_fails_its_execution_only(workers):
    with InputNode() as x:
        node = workers[1].echo.bind(x)
        dag = workers[0].join.bind(Even.__base__.__new__(Even, node))
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(ValueError, match="3 is not even") as caught:
            await compiled(3)
        assert "an argument of join on Worker" in "".join(caught.value.__notes__)
        assert await compiled(4) == (Even(4),)


async def test_a_list_that_holds_itself_is_a_constant(workers):
    endless = []
    endless.append(endless)
    with InputNode() as x:
        dag = workers[0].join.bind(x, endless)
    result = (await outcome_of_one(dag, 1))[1]
    assert result[0] is result


def holds_itself(node):
    endless = [node]
    endless.append(endless)
    return endless


def holds_itself_through_others(node):
    inner = {"node": node}
    inner["outer"] = ([inner],)
    return [1, inner]


@pytest.mark.parametrize("make", [holds_itself, holds_itself_through_others])
def test_what_holds_itself_and_a_node_is_refused(workers, make):
    with InputNode() as x:
        dag = workers[0].join.bind(1, make(workers[1].echo.bind(x)))
    with pytest.raises(async_adag.GraphError, match=r"^join on Worker\(.*holds itself and a node"):
        async_adag.compile(dag)


async def test_what_holds_itself_is_a_constant_beside_a_node_too(workers):
    endless = []
    endless.append(endless)
    with InputNode() as x:
        dag = workers[0].join.bind([x, endless])
    number, inner = (await outcome_of_one(dag, 1))[0]
    assert number == 1
    assert inner[0][0] is inner[0]


async def outcome_of_one(dag, *args):
    async with async_adag.compile(dag) as compiled:
        return await compiled(*args)


async def test_a_failure_inside_a_container_is_that_failure(workers):
    with InputNode() as x:
        dag = workers[1].join.bind({"deep": [workers[0].add.bind(x)]})
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(TypeError, match="str"):
            await compiled("text")
        assert await compiled(1) == ({"deep": [2]},)


async def test_outputs_that_repeat_a_node(workers):
    with InputNode() as x:
        one, two = workers[0].add.bind(x, 1), workers[1].add.bind(x, 2)
        dag = MultiOutputNode([one, two, one])
    assert await outcome(dag, 0) == [1, 2, 1]


async def test_outputs_that_are_parts_of_the_input(workers):
    with InputNode() as x:
        dag = MultiOutputNode([x.name, workers[0].add.bind(x[0]), x[1], x.name])
    assert await outcome(dag, 1, "unread", name="n") == ["n", 2, "unread", "n"]


async def test_an_output_that_is_the_input_is_that_very_object(workers):
    with InputNode() as x:
        dag = MultiOutputNode([x, workers[0].echo.bind(x)])
    async with async_adag.compile(dag) as compiled:
        value = [1]
        same, copy = await compiled(value)
        assert same is value
        assert copy == value
        same, copy = await asyncio.to_thread(lambda: compiled.execute(value).get())
        assert same is value


async def test_a_leaf_alone_beside_the_input_as_output(workers):
    """Nothing comes back: the graph is bounded by its channels, and closing waits for the leaf."""
    with InputNode() as x:
        workers[0].note.bind(x)
        dag = MultiOutputNode([x])
    async with async_adag.compile(dag, max_inflight=10) as compiled:
        for number in range(100):
            assert await compiled(number) == [number]
        assert compiled.stats().in_flight == 0
    assert ray.get(workers[0].take_notes.remote()) == list(range(100))


async def test_outputs_of_one(workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].add.bind(x)])
    assert await outcome(dag, 0) == [1]


async def test_a_large_constant_is_sent_once(workers):
    with InputNode() as x:
        dag = workers[0].join.bind(x, b"x" * 5_000_000)
    async with async_adag.compile(dag) as compiled:
        before = compiled.stats().bytes
        assert (await compiled(1))[0] == 1
        assert compiled.stats().bytes - before < 6_000_000, "it went both ways"


async def test_an_object_ref_as_a_constant(workers):
    ref = ray.put(5)
    with InputNode() as x:
        dag = workers[0].join.bind(x, ref)
    result = await outcome(dag, 1)
    assert result[0] == 1


async def test_the_input_by_position(workers):
    with InputNode() as x:
        dag = workers[0].join.bind(x[0], x[2])
    assert await outcome(dag, "a", "b", "c") == ("a", "c")


async def test_the_input_by_keyword(workers):
    with InputNode() as x:
        dag = workers[0].join.bind(x["left"], workers[1].add.bind(x.right))
    assert await outcome(dag, left=1, right=2) == (1, 3)


async def test_the_input_by_position_and_keyword(workers):
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].add.bind(x[0], x["by"]), workers[1].echo.bind(x["by"])])
    assert await outcome(dag, 1, by=5) == [6, 5]


async def test_num_returns(workers):
    with InputNode() as x:
        left, right = workers[0].split.bind(x)
        dag = workers[2].join.bind(workers[1].add.bind(left), right)
    assert await outcome(dag, 3) == (4, -3)


async def test_one_of_two_returns(workers):
    with InputNode() as x:
        _, right = workers[0].split.bind(x)
        dag = workers[1].echo.bind(right)
    assert await outcome(dag, 3) == -3


async def test_too_few_returns_fail_their_execution_only(workers):
    with InputNode() as x:
        left, right = workers[0].call.options(num_returns=2).bind(tuple, x)
        dag = workers[1].join.bind(left, right)
    async with async_adag.compile(dag) as compiled:
        with pytest.raises(ValueError, match="num_returns"):
            await compiled([1])
        assert await compiled([1, 2]) == (1, 2)


async def test_a_node_without_input_runs_once_in_each_execution(workers):
    with InputNode() as x:
        dag = workers[1].join.bind(x, workers[0].note.bind("ran"))
    await workers[0].take_notes.remote()
    async with async_adag.compile(dag) as compiled:
        assert await asyncio.gather(*(compiled(n) for n in range(7))) == [(n, "ran") for n in range(7)]
    assert await workers[0].take_notes.remote() == ["ran"] * 7


async def test_a_leaf_runs_though_nobody_takes_its_result(workers):
    with InputNode() as x:
        workers[0].note.bind(x)
        dag = workers[1].echo.bind(x)
    await workers[0].take_notes.remote()
    async with async_adag.compile(dag) as compiled:
        assert await asyncio.gather(*(compiled(n) for n in range(20))) == list(range(20))
    assert await workers[0].take_notes.remote() == list(range(20))


async def test_a_leaf_that_fails_harms_nobody(workers):
    with InputNode() as x:
        workers[0].call.bind(_fail, x)
        dag = workers[1].echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        assert [await compiled(n) for n in range(20)] == list(range(20))


def _fail(_):
    raise LookupError


async def test_two_graphs_from_one_dag(workers):
    with InputNode() as x:
        middle = workers[0].add.bind(x)
        dag = workers[1].add.bind(middle)
    async with async_adag.compile(dag) as one, async_adag.compile(dag) as two:
        assert await asyncio.gather(one(1), two(2), one(3)) == [3, 4, 5]


def test_stats_and_repr_and_picture(workers):
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].add.bind(x))
    with async_adag.compile(dag) as compiled:
        assert compiled.execute(1).get() == 2
        stats = compiled.stats()
        assert (stats.executions, stats.in_flight) == (1, 0)
        assert stats.bytes > 0
        assert [node.calls for node in stats.nodes] == [1, 1]
        assert "add" in stats.nodes[0].label
        with pytest.raises(AttributeError):
            stats.executions = 5
        assert repr(compiled) == "<CompiledGraph 2 actors, 2 nodes, open>"
        picture = compiled.visualize()
        assert picture == compiled.visualize()
        assert picture.index("Input") < picture.index("add") < picture.index("echo") < picture.index("Output")
        assert workers[0]._actor_id.hex()[:6] in picture
    assert "closed" in repr(compiled)
    assert compiled.stats().executions == 1
    assert compiled.visualize() == picture
