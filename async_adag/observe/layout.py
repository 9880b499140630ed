"""Where everything lies in a drawing of a graph: a lane for the driver and one for each actor, columns by depth.

A node stands right of all that it takes values from, and of the node that its actor runs before it, so no two
share a place. Arrows run in the open: up and down between columns, each at an x of its own, and past a box in
their way on a track above the boxes of the lane that they go to. Arrows come in at multiples of `PORT` from the
middle of a lane and go out at a half more, so none lies on another. Labels stand on the last stretch, right of all
that goes up or down. All numbers are whole pixels.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from async_adag.observe.picture import INPUT, OUTPUT, Arrow, Picture
from async_adag.observe.words import shorten

PORT = 16  # between arrows at the side of a box
LINE = 16  # between lines of text in a box
TRACK = 10  # between parallel arrows elsewhere
PAD = 14
LABEL_GAP = 12  # between a label and the box that its arrow goes to: the arrow's head lies there
CHARACTER = 7.3  # the width in the 12-pixel monospaced font
SMALL = 6.1  # and in the 10-pixel one, of labels
LONGEST = 32  # characters of a name; all of it is in the title
MOST_KEYS = 6


@dataclass(slots=True)
class Box:
    """The input, a node, or the output."""

    number: int
    lane: int
    column: int
    lines: list[str]
    title: str
    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0

    @property
    def middle(self) -> int:
        """The y of its middle."""
        return self.y + self.height // 2


@dataclass(slots=True)
class Lane:
    """A row: the driver, or an actor."""

    name: str
    note: str = ""
    y: int = 0
    height: int = 0


@dataclass(slots=True)
class Route:
    """An arrow's way: from box to box, level or upright at each step."""

    arrow: Arrow
    points: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole drawing, without its margins and legend."""

    lanes: list[Lane]
    boxes: list[Box]
    routes: list[Route]
    width: int
    height: int


def text_width(text: str, character: float = CHARACTER) -> int:
    """Pixels that a text takes in a monospaced font."""
    return math.ceil(character * sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text))


def lay_out(picture: Picture) -> Layout:
    """Find a place for everything. Deterministic."""
    return _Layout(picture).result()


class _Layout:
    def __init__(self, picture: Picture) -> None:
        self.arrows = picture.arrows
        notes = picture.times.actors if picture.times is not None else [""] * len(picture.actors)
        lanes = zip(picture.actors, notes, strict=True)
        self.lanes = [Lane("driver"), *(Lane(shorten(name, LONGEST), note) for name, note in lanes)]
        self.boxes = {box.number: box for box in _place(picture)}
        # The order at a side of a box: from top to bottom as the other ends lie.
        order = {n: (box.lane, box.column) for n, box in self.boxes.items()}
        self.outgoing = self._by_box("origin", sorted(self.arrows, key=lambda arrow: order[arrow.target]))
        self.incoming = self._by_box("target", sorted(self.arrows, key=lambda arrow: order[arrow.origin]))
        self.tracks: dict[Arrow, int] = {}  # of the arrows that need one: which of their lane's
        self.slots: dict[tuple[Arrow, int], int] = {}  # of an arrow in a gap right of a column: which x

    def result(self) -> Layout:
        depth = [self._assign_tracks(lane) for lane in range(len(self.lanes))]
        crowds = self._assign_slots()
        height = self._set_heights(depth)
        width = self._set_widths(crowds)
        routes = [Route(arrow, self._points(arrow)) for arrow in self.arrows]
        return Layout(self.lanes, list(self.boxes.values()), routes, width, height)

    def _by_box(self, end: str, arrows: list[Arrow]) -> dict[int, list[Arrow]]:
        found: dict[int, list[Arrow]] = {number: [] for number in self.boxes}
        for arrow in arrows:
            found[getattr(arrow, end)].append(arrow)
        return found

    def _ends(self, arrow: Arrow) -> tuple[Box, Box]:
        return self.boxes[arrow.origin], self.boxes[arrow.target]

    def _blocked(self, arrow: Arrow) -> bool:
        """Whether a box of its target's lane stands in the way."""
        a, b = self._ends(arrow)
        return any(box.lane == b.lane and a.column < box.column < b.column for box in self.boxes.values())

    def _straight(self, arrow: Arrow) -> bool:
        a, b = self._ends(arrow)
        return a.lane == b.lane and not self._blocked(arrow)

    def _assign_tracks(self, lane: int) -> int:
        """Give each blocked arrow into this lane a track that is free all the way; how many tracks there are."""
        ends: list[int] = []  # by track: the gap where its latest arrow leaves it
        for arrow in self.arrows:  # in the order of their targets, hence from left to right
            a, b = self._ends(arrow)
            if b.lane == lane and self._blocked(arrow):
                track = next((n for n, end in enumerate(ends) if end < a.column), len(ends))
                self.tracks[arrow] = track
                ends[track : track + 1] = [b.column - 1]
        return len(ends)

    def _assign_slots(self) -> list[int]:
        """Give each arrow an x of its own in each gap where it goes up or down; how many there are in each gap."""
        gaps: list[list[tuple[int, Arrow]]] = [[] for _ in range(self.boxes[OUTPUT].column)]
        for arrow in self.arrows:
            a, b = self._ends(arrow)
            if not self._straight(arrow):
                # Those that go farthest turn first, so that arrows out of one box do not cross.
                gaps[a.column].append((-abs(a.lane - b.lane), arrow))
            if arrow in self.tracks:
                gaps[b.column - 1].append((1, arrow))
        for gap, crowd in enumerate(gaps):
            crowd.sort(key=lambda one: one[0])
            self.slots |= {(arrow, gap): slot for slot, (_, arrow) in enumerate(crowd)}
        return [len(crowd) for crowd in gaps]

    def _set_heights(self, depth: list[int]) -> int:
        y = 0
        for number, lane in enumerate(self.lanes):
            mine = [box for box in self.boxes.values() if box.lane == number]
            crowd = max(len(side[box.number]) for box in mine for side in (self.incoming, self.outgoing))
            height = max(PORT * (crowd + 1), max(LINE * len(box.lines) + LINE for box in mine))
            lane.y, lane.height = y, 2 * PAD + depth[number] * TRACK + height
            for box in mine:
                box.y, box.height = y + PAD + depth[number] * TRACK, height
            y += lane.height + PAD // 2
        return y - PAD // 2

    def _set_widths(self, crowds: list[int]) -> int:
        x = 2 * PAD + max(text_width(text) for lane in self.lanes for text in (lane.name, lane.note))
        for column in range(self.boxes[OUTPUT].column + 1):
            mine = [box for box in self.boxes.values() if box.column == column]
            labels = [arrow.carrier.label for box in mine for arrow in self.incoming[box.number]]
            if column:
                x += TRACK * (crowds[column - 1] + 1)
            x += max((text_width(label, SMALL) + LABEL_GAP + 4 for label in labels), default=0)
            width = 2 * PAD + max(text_width(line) for box in mine for line in box.lines)
            for box in mine:
                box.x, box.width = x, width
            x += width
        return x + PAD

    def _points(self, arrow: Arrow) -> list[tuple[int, int]]:
        a, b = self._ends(arrow)
        into, out = self.incoming[b.number], self.outgoing[a.number]
        end = b.middle + PORT * (into.index(arrow) - len(into) // 2)
        start = a.middle + PORT * (out.index(arrow) - len(out) // 2) + PORT // 2
        if self._straight(arrow):
            return [(a.x + a.width, end), (b.x, end)]
        x = self._x(arrow, a.column)
        points = [(a.x + a.width, start), (x, start)]
        if arrow in self.tracks:
            y = b.y - TRACK * (1 + self.tracks[arrow])
            last = self._x(arrow, b.column - 1)
            points += [(x, y), (last, y), (last, end)]
        else:
            points.append((x, end))
        return [*points, (b.x, end)]

    def _x(self, arrow: Arrow, column: int) -> int:
        """Where an arrow goes up or down in the gap right of a column."""
        gap = next(box.x + box.width for box in self.boxes.values() if box.column == column)
        return gap + TRACK * (1 + self.slots[arrow, column])


def _place(picture: Picture) -> list[Box]:
    """The boxes in their lanes and columns."""
    keys = list(picture.keys)
    if len(keys) > MOST_KEYS:
        keys[MOST_KEYS - 1 :] = [f"and {len(keys) - MOST_KEYS + 1} more"]
    boxes = {INPUT: Box(INPUT, 0, 0, ["Input", *keys], " ".join(["Input", *picture.keys]))}
    last = dict.fromkeys(range(len(picture.actors)), 0)  # by actor: the column of its latest node
    for call in picture.calls:
        origins = [boxes[arrow.origin].column for arrow in picture.arrows if arrow.target == call.number]
        last[call.actor] = column = 1 + max([last[call.actor], *origins])
        title = f"{call.text}  #{call.number} on {picture.actors[call.actor]}"
        lines = [f"{call.method} #{call.number}"]
        if picture.times is not None:
            lines.append(picture.times.calls[call.number][0])
        boxes[call.number] = Box(call.number, 1 + call.actor, column, lines, title)
    boxes[OUTPUT] = Box(OUTPUT, 0, 1 + max(last.values()), ["Output"], f"Output {picture.output}")
    for box in boxes.values():
        box.lines = [shorten(line, LONGEST) for line in box.lines]
    return list(boxes.values())
