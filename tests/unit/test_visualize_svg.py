"""The SVG form: well-formed, self-contained, and nothing lies on anything else."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given

from async_adag.graph.model import FromInput, FromNode
from async_adag.observe.layout import CHARACTER, LABEL_GAP, SMALL, lay_out, text_width
from async_adag.observe.picture import HAND_OVER, INPUT, OUTPUT
from tests.pictures import NASTY, drawn, graphs, named, picture_of

WHOLE = FromInput(None)
SVG = "{http://www.w3.org/2000/svg}"


def read(svg):
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    return root


def groups(root, kind):
    """The titles of all groups of a kind, each with its texts."""
    found = root.iterfind(f".//{SVG}g[@class='{kind}']")
    return [(g.find(f"{SVG}title").text, [text.text for text in g.iter(f"{SVG}text")]) for g in found]


def test_the_svg_of_a_graph(make_graph):
    graph = make_graph((0, [FromInput("a")]), (1, [FromNode(0)]), (0, [FromNode(0), FromNode(1)]))
    root = read(drawn(graph, "svg", HAND_OVER))
    assert groups(root, "lane") == [(name, [name]) for name in ("driver", "Actor0(000000)", "Actor1(000000)")]
    assert groups(root, "node") == [
        ("Input ['a']", ["Input", "['a']"]),
        ("method0(input['a'])  #0 on Actor0(000000)", ["method0 #0"]),
        ("method1(#0)  #1 on Actor1(000000)", ["method1 #1"]),
        ("method2(#0, #1)  #2 on Actor0(000000)", ["method2 #2"]),
        ("Output #2", ["Output"]),
    ]
    ring = "[shared memory ring, 32 slots, buffers of 1 MiB]"
    assert groups(root, "arrow") == [
        ("channel 0: input['a'] -> Actor0(000000)  [handed over within the driver's process]", ["0: hand-over"]),
        (f"channel 1: #0 -> Actor1(000000)  {ring}", ["1: ring"]),
        ("local: #0 -> #2  [stays in the actor]", ["local"]),
        (f"channel 2: #1 -> Actor0(000000)  {ring}", ["2: ring"]),
        (f"channel 3: #2 -> Output  {ring}", ["3: ring"]),
    ]
    dashes = [path.get("stroke-dasharray") for path in root.iter(f"{SVG}path") if path.get("stroke")]
    assert dashes[:5] == ["2 3", None, "6 4", None, None]
    assert [caption for caption, _ in groups(root, "legend")] == [
        "hand-over: handed over within the driver's process",
        "ring: shared memory ring, 32 slots, buffers of 1 MiB",
        "local: stays in the actor",
    ]


def test_columns_follow_the_data_and_lanes_the_actors(make_graph):
    graph = make_graph((0, [WHOLE]), (1, [WHOLE]), (0, [WHOLE]), (1, [FromNode(0)]), (2, [FromNode(3)]))
    places = {box.number: (box.lane, box.column) for box in lay_out(picture_of(graph)).boxes}
    assert places == {INPUT: (0, 0), 0: (1, 1), 1: (2, 1), 2: (1, 2), 3: (2, 2), 4: (3, 3), OUTPUT: (0, 4)}


def test_it_stands_alone_and_reaches_into_no_page(make_graph):
    svg = drawn(make_graph((0, [WHOLE]), (1, [FromNode(0)])), "svg")
    for element in read(svg).iter():
        assert element.tag in {SVG + name for name in ("svg", "g", "title", "rect", "path", "text")}
        assert not {"id", "style", "href"} & set(element.attrib)
    assert "url(" not in svg


def test_it_paints_its_paper_so_it_can_be_read_on_any_page(make_graph):
    root = read(drawn(make_graph((0, [WHOLE])), "svg"))
    paper = root.find(f"{SVG}rect")
    assert (paper.get("width"), paper.get("height")) == (root.get("width"), root.get("height"))
    behind = luminance(paper.get("fill"))
    inks = {e.get("fill") for e in root.iter(f"{SVG}text")} - {None} | {root.get("fill")}
    lanes = [luminance(e.get("fill")) for e in root.iterfind(f".//{SVG}g[@class='lane']/{SVG}rect")]
    for ink in inks:
        for paint in (behind, *lanes):
            # The contrast that the W3C asks of text: https://www.w3.org/TR/WCAG21/#contrast-minimum
            assert (paint + 0.05) / (luminance(ink) + 0.05) >= 4.5, ink


def luminance(color):
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", NASTY)
def test_odd_names_stay_text(make_graph, name):
    graph = named(make_graph((0, [WHOLE])), name, name)
    picture, root = picture_of(graph), read(drawn(graph, "svg"))
    assert groups(root, "lane")[1] == (picture.actors[0], [picture.actors[0]])
    assert groups(root, "node")[1][1] == [f"{picture.calls[0].method} #0"]


@given(graph=graphs())
def test_any_names_are_whole_in_the_titles(graph):
    picture, root = picture_of(graph), read(drawn(graph, "svg"))
    assert [title for title, _ in groups(root, "lane")] == ["driver", *picture.actors]
    nodes = [title for title, _ in groups(root, "node")]
    assert nodes[1:-1] == [f"{c.text}  #{c.number} on {picture.actors[c.actor]}" for c in picture.calls]
    assert [title for title, _ in groups(root, "arrow")] == [str(arrow.carrier) for arrow in picture.arrows]


def rectangles(root):
    """The boxes of the nodes: left, top, right, bottom."""
    for rect in root.iterfind(f".//{SVG}g[@class='node']/{SVG}rect"):
        x, y, width, height = (int(rect.get(name)) for name in ("x", "y", "width", "height"))
        yield x, y, x + width, y + height


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@given(graph=graphs())
def test_boxes_and_labels_do_not_overlap_and_lie_on_the_paper(graph):
    root = read(drawn(graph, "svg"))
    taken = list(rectangles(root))
    for label in root.iterfind(f".//{SVG}g[@class='arrow']/{SVG}text"):
        x, y = int(label.get("x")), int(label.get("y"))
        taken.append((x - text_width(label.text, SMALL), y - 9, x, y + 2))
    for text in root.iterfind(f".//{SVG}g[@class='lane']/{SVG}text"):
        x, y = int(text.get("x")), int(text.get("y"))
        taken.append((x, y - 10, x + text_width(text.text, CHARACTER), y + 3))
    assert not [pair for pair in itertools.combinations(taken, 2) if overlap(*pair)]
    width, height = int(root.get("width")), int(root.get("height"))
    assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in taken)


@given(graph=graphs())
def test_texts_fit_into_their_boxes(graph):
    root = read(drawn(graph, "svg"))
    for group, (left, top, right, bottom) in zip(
        root.iterfind(f".//{SVG}g[@class='node']"), rectangles(root), strict=True
    ):
        for text in group.iter(f"{SVG}text"):
            half = text_width(text.text, CHARACTER) / 2
            assert left <= int(text.get("x")) - half <= int(text.get("x")) + half <= right
            assert top <= int(text.get("y")) - 10 <= int(text.get("y")) + 3 <= bottom


@given(graph=graphs())
def test_arrows_go_from_box_to_box_and_lie_on_no_other_arrow_or_box(graph):
    picture, root = picture_of(graph), read(drawn(graph, "svg"))
    boxes = list(rectangles(root))
    numbers = [INPUT, *range(len(picture.calls)), OUTPUT]
    box = dict(zip(numbers, boxes, strict=True))
    stretches = []
    paths = [g.find(f"{SVG}path").get("d") for g in root.iterfind(f".//{SVG}g[@class='arrow']")]
    for arrow, path in zip(picture.arrows, paths, strict=True):
        points = [(int(x), int(y)) for x, y in re.findall(r"[ML](\d+) (\d+)", path)]
        origin, target = box[arrow.origin], box[arrow.target]
        assert points[0][0] == origin[2]
        assert origin[1] < points[0][1] < origin[3]
        assert points[-1][0] == target[0]
        assert target[1] < points[-1][1] < target[3]
        assert points[-1][0] - points[-2][0] > LABEL_GAP + text_width(arrow.carrier.label, SMALL)
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            assert x1 == x2 or y1 == y2
            stretches.append((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    for stretch in stretches:
        assert not any(overlap(stretch, one) for one in boxes)
    for one, other in itertools.combinations(stretches, 2):
        assert not collinear(one, other), (one, other)


def collinear(one, other):
    """Whether two stretches share more than a point."""
    for a, b in ((0, 1), (1, 0)):
        along = one[b] == one[b + 2] == other[b] == other[b + 2]
        if along and min(one[a + 2], other[a + 2]) > max(one[a], other[a]):
            return True
    return False


def test_a_long_name_is_cut_in_its_box_and_whole_in_its_title(make_graph):
    name = "retrieve_" * 20
    root = read(drawn(named(make_graph((0, [WHOLE])), name, name), "svg"))
    (title, (text,)) = groups(root, "node")[1]
    assert text == f"{name[:29]}..."
    assert title == f"{name}(input)  #0 on {name}(000000)"
    (title, (text,)) = groups(root, "lane")[1]
    assert (title, text) == (f"{name}(000000)", f"{name[:29]}...")


def test_of_many_keys_the_input_shows_a_few(make_graph):
    def input_box(count):
        root = read(drawn(make_graph((0, [FromInput(n) for n in range(count)])), "svg"))
        return groups(root, "node")[0]

    assert input_box(6) == ("Input [0] [1] [2] [3] [4] [5]", ["Input", "[0]", "[1]", "[2]", "[3]", "[4]", "[5]"])
    assert input_box(8) == (
        "Input [0] [1] [2] [3] [4] [5] [6] [7]",
        ["Input", "[0]", "[1]", "[2]", "[3]", "[4]", "and 3 more"],
    )


def test_wide_characters_have_room(make_graph):
    def width(name):
        (_, (left, _, right, _), _) = rectangles(read(drawn(named(make_graph((0, [WHOLE])), "A", name), "svg")))
        return right - left

    assert width("演员演员演员") - width("abcdef") == pytest.approx(6 * CHARACTER, abs=2)
