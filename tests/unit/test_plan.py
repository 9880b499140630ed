"""Plans: which channels there are, and what each actor does, for graphs written by hand."""

from __future__ import annotations

from async_adag.actor.calls import registers_done
from async_adag.graph.model import Const, FromInput, FromNode
from async_adag.graph.plan import DRIVER, Output, Read, Write, input_key
from async_adag.graph.planner import plan_graph

WHOLE = FromInput(None)


def edges(plan):
    """The channels as (writer, readers, values)."""
    return [(channel.writer, channel.readers, channel.values) for channel in plan.channels]


def test_one_actor_reads_the_input_and_writes_the_output(make_graph):
    plan = plan_graph(make_graph((0, [WHOLE])))
    assert edges(plan) == [(DRIVER, (0,), (WHOLE,)), (0, (DRIVER,), (FromNode(0),))]
    assert plan.outputs == (Output(1, None),)
    (task,) = plan.actors[0].tasks
    assert task.reads == (Read(0, task.args),)
    assert task.writes == (Write(1, task.results),)


def test_a_chain_hands_each_result_to_the_next_actor_only(make_graph):
    plan = plan_graph(make_graph((0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(1)])))
    assert edges(plan) == [
        (DRIVER, (0,), (WHOLE,)),
        (0, (1,), (FromNode(0),)),
        (1, (2,), (FromNode(1),)),
        (2, (DRIVER,), (FromNode(2),)),
    ]


def test_a_fan_out_writes_its_value_once(make_graph):
    graph = make_graph(
        (0, [WHOLE]),
        (1, [FromNode(0)]),
        (2, [FromNode(0)]),
        outputs=[FromNode(0), FromNode(1), FromNode(2)],
    )
    plan = plan_graph(graph)
    assert edges(plan)[1] == (0, (DRIVER, 1, 2), (FromNode(0),))
    assert plan.outputs == (Output(1, None), Output(2, None), Output(3, None))


def test_the_input_fans_out_through_one_channel(make_graph):
    plan = plan_graph(make_graph((0, [WHOLE]), (1, [WHOLE]), outputs=[FromNode(0), FromNode(1)]))
    assert edges(plan)[0] == (DRIVER, (0, 1), (WHOLE,))
    assert plan.inputs() == [plan.channels[0]]


def test_parts_of_the_input_go_only_where_they_are_read(make_graph):
    graph = make_graph(
        (0, [FromInput(0), FromInput("b")]),
        (1, [FromInput(1), FromInput(0)]),
        outputs=[FromNode(0), FromNode(1)],
    )
    inputs = plan_graph(graph).inputs()
    assert {channel.readers: channel.values for channel in inputs} == {
        (0, 1): (FromInput(0),),
        (1,): (FromInput(1),),
        (0,): (FromInput("b"),),
    }


def test_parts_read_by_the_same_actor_share_a_frame_positions_first(make_graph):
    graph = make_graph((0, [FromInput("b"), FromInput(1), FromInput("a"), FromInput(0)]))
    (channel,) = plan_graph(graph).inputs()
    assert channel.values == (FromInput(0), FromInput(1), FromInput("a"), FromInput("b"))
    assert [input_key(value) for value in channel.values] == [0, 1, "a", "b"]


def test_what_stays_in_an_actor_takes_no_channel(make_graph):
    plan = plan_graph(make_graph((0, [WHOLE]), (0, [FromNode(0)]), (0, [FromNode(0), FromNode(1)])))
    assert len(plan.channels) == 2
    first, second, third = plan.actors[0].tasks
    assert second.args == first.results
    assert third.args == first.results + second.results


def test_a_value_that_two_nodes_of_an_actor_read_is_read_once(make_graph):
    plan = plan_graph(make_graph((0, [WHOLE]), (1, [FromNode(0)]), (1, [FromNode(0), FromNode(1)])))
    assert plan.actors[1].reads() == [1]
    first, second = plan.actors[1].tasks
    assert second.args[0] == first.args[0]


def test_several_results_for_the_same_readers_share_a_frame(make_graph):
    graph = make_graph(
        (0, [WHOLE], 3),
        (1, [FromNode(0, 0), FromNode(0, 1)]),
        outputs=[FromNode(1), FromNode(0, 2)],
    )
    plan = plan_graph(graph)
    assert (0, (1,), (FromNode(0, 0), FromNode(0, 1))) in edges(plan)
    assert (0, (DRIVER,), (FromNode(0, 2),)) in edges(plan)
    assert len(plan.actors[0].tasks[0].results) == 3


def test_an_output_says_where_in_its_frame_it_is(make_graph):
    plan = plan_graph(make_graph((0, [WHOLE], 2), outputs=[FromNode(0, 1), FromNode(0, 0)]))
    assert plan.outputs == (Output(1, 1), Output(1, 0))


def test_an_output_may_be_named_twice(make_graph):
    plan = plan_graph(make_graph((0, [WHOLE]), outputs=[FromNode(0), FromNode(0)]))
    assert plan.outputs == (Output(1, None), Output(1, None))
    assert len(plan.channels) == 2


def test_a_result_that_nobody_wants_is_not_sent(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [WHOLE]), outputs=[FromNode(0)])
    assert plan_graph(graph).actors[1].writes() == []


def test_constants_fill_the_first_registers(make_graph):
    plan = plan_graph(make_graph((0, [5, WHOLE, {"key": "six"}])))
    actor = plan.actors[0]
    assert actor.constants == (5, "six")
    (task,) = actor.tasks
    assert task.args[0] == 0
    assert task.kwargs == (("key", 1),)
    assert task.args[1] >= 2


def test_equal_constants_stay_apart(make_graph):
    shared = [1]
    plan = plan_graph(make_graph((0, [WHOLE, shared, [1], shared])))
    assert [constant is shared for constant in plan.actors[0].constants] == [True, False, True]


def test_registers_of_an_actor_do_not_overlap(make_graph):
    graph = make_graph(
        (0, [FromInput(0), 1, FromInput(1)], 2),
        (0, [FromNode(0, 0), 2]),
        (0, [FromNode(0, 1), FromNode(1), FromInput(1)]),
    )
    actor = plan_graph(graph).actors[0]
    named = {r for task in actor.tasks for r in (*task.results, *task.args)}
    named |= {r for task in actor.tasks for read in task.reads for r in read.registers}
    assert named == set(range(actor.registers))
    assert actor.registers == 2 + 2 + 2 + 1 + 1


def test_an_actor_that_would_read_nothing_gets_a_trigger(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [7]), outputs=[FromNode(0), FromNode(1)])
    plan = plan_graph(graph)
    assert (DRIVER, (1,), ()) in edges(plan)
    assert plan.actors[1].tasks[0].reads[0].registers == ()


def test_one_trigger_serves_all_that_need_one(make_graph):
    graph = make_graph((0, [WHOLE]), (1, []), (2, [None]), outputs=[FromNode(0), FromNode(1), FromNode(2)])
    triggers = [edge for edge in edges(plan_graph(graph)) if not edge[2]]
    assert triggers == [(DRIVER, (1, 2), ())]


def test_an_actor_whose_first_node_takes_constants_still_begins_with_a_read(make_graph):
    # Its later node reads the input: one frame of the driver is enough to start it, but it has to come first.
    graph = make_graph((0, [1]), (0, [WHOLE, FromNode(0)]))
    actor = plan_graph(graph).actors[0]
    assert actor.tasks[0].reads


def test_the_same_graph_gives_the_same_plan(make_graph):
    def graph():
        return make_graph(
            (0, [FromInput("b"), FromInput("a")], 2),
            (1, [FromNode(0, 1), 3]),
            (2, [FromNode(0, 0), FromInput("c")]),
            outputs=[FromNode(2), FromNode(1)],
        )

    assert plan_graph(graph()) == plan_graph(graph())


def test_the_drivers_channels_are_its_inputs_and_its_results(make_graph):
    plan = plan_graph(make_graph((0, [WHOLE]), (1, [FromNode(0)]), outputs=[FromNode(0), FromNode(1)]))
    assert [channel.number for channel in plan.inputs()] == [0]
    assert [channel.number for channel in plan.results()] == [1, 2]
    assert all(channel.number == number for number, channel in enumerate(plan.channels))


def test_tasks_and_actors_are_named_in_words(make_graph):
    graph = make_graph((0, [WHOLE]))
    actor = plan_graph(graph).actors[0]
    assert actor.name == "Actor0(000000)"
    assert actor.tasks[0].label == "method0 on Actor0(000000)" == graph.label(0)


def test_every_channel_says_from_which_nodes_to_which_it_goes(make_graph):
    graph = make_graph(
        (0, [WHOLE], 2),
        (1, [FromNode(0, 0), FromNode(0, 1)]),
        (2, [FromNode(0, 0), 5]),
        (3, [6]),
        outputs=[FromNode(0, 0), FromNode(1), FromNode(2), FromNode(3)],
    )
    names = [graph.label(number) for number in range(4)]
    assert [channel.edge for channel in plan_graph(graph).channels] == [
        f"the driver to {names[0]}",
        f"the driver to {graph.actors[3]}",  # a trigger
        f"{names[0]} to {names[1]}, {names[2]}, the driver",
        f"{names[0]} to {names[1]}",
        f"{names[1]} to the driver",
        f"{names[2]} to the driver",
        f"{names[3]} to the driver",
    ]


def test_what_an_actor_has_read_is_done_with_its_last_frame_that_needs_it(make_graph):
    """The input is needed twice on actor 0, and what actor 1 gave once."""
    graph = make_graph(
        (0, [WHOLE, Const("c")]),
        (1, [FromNode(0)]),
        (0, [WHOLE, FromNode(1)]),
        outputs=[FromNode(0), FromNode(2)],
    )
    actor = plan_graph(graph).actors[0]
    first, second = actor.tasks
    (given,), (other,) = first.reads[0].registers, second.reads[0].registers
    done = registers_done(actor)
    assert set(done[0][-1]) == set(first.results)
    assert set(done[1][-1]) == {given, other, *second.results}
    assert [len(of_task) for of_task in done] == [len(task.writes) for task in actor.tasks]
