"""What pictures show, and the text form, for graphs written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given

from async_adag.graph.model import FromInput, FromNode, Packed, Signature
from async_adag.observe.picture import HAND_OVER, INPUT, OUTPUT, ring_transport
from async_adag.observe.words import human_size, printable
from tests.pictures import NASTY, drawn, graphs, named, picture_of

WHOLE = FromInput(None)
FORMATS = ["text", "dot", "svg"]


class Pair(NamedTuple):
    left: Any
    right: Any


def test_the_text_of_a_graph(make_graph):
    graph = make_graph(
        (0, [WHOLE]),
        (1, [FromNode(0), 1]),
        (0, [FromNode(1), FromNode(0), {"key": "value"}], 2),
        outputs=[FromNode(2, 1), FromNode(1)],
    )
    assert drawn(graph, "text", ring_transport(8, 1 << 20), HAND_OVER, ring_transport(4, 1536)) == (
        "Input\n"
        "  channel 0: input -> Actor0(000000)  [shared memory ring, 8 slots, buffers of 1 MiB]\n"
        "Actor0(000000)\n"
        "  method0(input)  #0\n"
        "    channel 1: #0 -> Actor1(000000)  [handed over within the driver's process]\n"
        "    local: #0 -> #2  [stays in the actor]\n"
        "  method2(#1, #0, key='value')  #2\n"
        "    channel 3: #2[1] -> Output  [shared memory ring, 32 slots, buffers of 1 MiB]\n"
        "Actor1(000000)\n"
        "  method1(#0, 1)  #1\n"
        "    channel 2: #1 -> Output, Actor0(000000)  [shared memory ring, 4 slots, buffers of 1.5 KiB]\n"
        "Output [#2[1], #1]"
    )


def test_arrows_join_nodes_through_the_channel_that_carries_their_values(make_graph):
    graph = make_graph(
        (0, [WHOLE]),
        (1, [FromNode(0), FromNode(0)]),
        (1, [FromNode(0), FromNode(1)]),
        outputs=[FromNode(2), FromNode(0), FromNode(0)],
    )
    arrows = [(a.origin, a.target, a.carrier.label) for a in picture_of(graph).arrows]
    assert arrows == [
        (INPUT, 0, "0: ring"),
        (0, 1, "1: ring"),
        (0, 2, "1: ring"),
        (1, 2, "local"),
        (0, OUTPUT, "1: ring"),
        (2, OUTPUT, "2: ring"),
    ]


def test_two_channels_between_two_nodes_are_two_arrows(make_graph):
    graph = make_graph(
        (0, [WHOLE], 2), (1, [FromNode(0, 0), FromNode(0, 1)]), outputs=[FromNode(0, 1), FromNode(1)]
    )
    between = [arrow for arrow in picture_of(graph).arrows if (arrow.origin, arrow.target) == (0, 1)]
    assert [str(arrow.carrier).partition("  ")[0] for arrow in between] == [
        "channel 1: #0[0] -> Actor1(000000)",
        "channel 2: #0[1] -> Output, Actor1(000000)",
    ]


def test_a_trigger_goes_to_the_first_node_of_each_actor_that_it_starts(make_graph):
    picture = picture_of(make_graph((0, [1]), (0, [2]), (1, [3]), outputs=[FromNode(1), FromNode(2)]))
    starts = [(arrow.target, arrow.carrier.values) for arrow in picture.arrows if arrow.origin == INPUT]
    assert starts == [(0, "trigger"), (2, "trigger")]


def test_an_input_that_is_an_output_stays_in_the_driver(make_graph):
    graph = make_graph((0, [WHOLE]), outputs=[FromNode(0), WHOLE])
    assert "  local: input -> Output  [stays in the driver]\n" in drawn(graph, "text")


def test_the_keys_of_the_input(make_graph):
    by_part = make_graph((0, [FromInput(1), FromInput("b'c")]), (0, [FromInput("a")]))
    assert picture_of(by_part).keys == ("[0]", "[1]", "['a']", '["b\'c"]')
    assert picture_of(make_graph((0, [WHOLE]))).keys == ()
    assert picture_of(make_graph((0, [1]))).keys == ()
    # The whole of it, in an output only.
    whole = replace(make_graph((0, [1])), signature=Signature(1), outputs=(WHOLE,))
    assert picture_of(whole).keys == ()


def test_arguments_inside_containers(make_graph):
    parts = (WHOLE, FromNode(0))
    graph = make_graph((0, [WHOLE]), (1, [1]))
    for packed, words in [
        (Packed(list, parts), "[input, #0]"),
        (Packed(tuple, parts), "(input, #0)"),
        (Packed(dict, parts, ("a", 1)), "{'a': input, 1: #0}"),
        (Packed(Pair, parts), "Pair(input, #0)"),
        (Packed(list, (Packed(tuple, parts),)), "[(input, #0)]"),
    ]:
        nodes = (graph.nodes[0], replace(graph.nodes[1], args=(packed,)))
        picture = picture_of(replace(graph, nodes=nodes))
        assert picture.calls[1].text == f"method1({words})"
        assert [(arrow.origin, arrow.target) for arrow in picture.arrows][:3] == [(INPUT, 0), (INPUT, 1), (0, 1)]


class Unspeakable:
    def __repr__(self):
        raise LookupError


def test_constants_are_cut_kept_on_one_line_and_cannot_fail(make_graph):
    graph = make_graph((0, [WHOLE, "x" * 100, Pair("a\n", 2), Unspeakable()]))
    (call,) = picture_of(graph).calls
    assert call.text == f"method0(input, 'xxxx{'x' * 32}..., Pair(left='a\\n', right=2), <Unspeakable>)"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1_000_000, "976.6 KiB"),
        ((1 << 20) - 1, "1 MiB"),
        (1 << 20, "1 MiB"),
        (3 << 30, "3 GiB"),
        (1 << 40, "1 TiB"),
        (1 << 51, "2048 TiB"),
    ],
)
def test_sizes_as_people_write_them(size, words):
    assert human_size(size) == words


@pytest.mark.parametrize("form", FORMATS)
def test_all_forms_show_actors_methods_transports_sizes_and_keys(make_graph, form):
    graph = make_graph((0, [FromInput("key")]), (1, [FromNode(0)]), (0, [FromNode(0), FromNode(1)]))
    drawing = drawn(graph, form, ring_transport(7, 1 << 21), HAND_OVER)
    words = ["Input", "['key']", "Output", "Actor0(000000)", "Actor1(000000)", "method0", "method1", "method2"]
    words += ["7 slots, buffers of 2 MiB", "32 slots, buffers of 1 MiB", "stays in the actor"]
    words += ["handed over within the driver's process"]
    assert [word for word in words if word not in drawing] == []


@pytest.mark.parametrize("form", FORMATS)
@given(graph=graphs())
def test_a_picture_is_the_same_each_time_and_printable(form, graph):
    drawing = drawn(graph, form)
    assert drawing == drawn(graph, form)
    assert drawing.replace("\n", "").isprintable()


@given(graph=graphs())
def test_each_value_that_a_node_takes_has_an_arrow(graph):
    arrows = {(arrow.origin, arrow.target) for arrow in picture_of(graph).arrows}
    for node in graph.nodes:
        for source in node.sources():
            if isinstance(source, FromNode):
                assert (source.node, node.number) in arrows
            elif isinstance(source, FromInput):
                assert (INPUT, node.number) in arrows
    assert {origin for origin, target in arrows if target == OUTPUT} == {output.node for output in graph.outputs}


@pytest.mark.parametrize("name", NASTY)
def test_a_name_takes_one_line_of_text_whatever_it_is(make_graph, name):
    graph = named(make_graph((0, [WHOLE])), name, name)
    lines = drawn(graph, "text").split("\n")
    assert lines[2:4] == [f"{printable(name)}(000000)", f"  {printable(name)}(input)  #0"]


def test_an_unknown_format_is_refused_with_a_list(make_graph):
    with pytest.raises(ValueError, match=r"format must be one of 'text', 'dot', 'svg', not 'png'"):
        drawn(make_graph((0, [WHOLE])), "png")


@pytest.mark.parametrize("form", FORMATS)
def test_a_communicator_that_carries_tensors_is_named(make_graph, form):
    graph = make_graph((0, [WHOLE]), (1, [FromNode(0)]))
    drawing = drawn(graph, form, ring_transport(8, 1 << 20), ring_transport(8, 1 << 20, "Mine"))
    assert "tensors by Mine, the rest by shared memory ring, 8 slots, buffers of 1 MiB" in drawing
    assert form == "text" or "1: communicator" in drawing
