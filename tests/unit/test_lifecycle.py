"""The life of a graph: the table, all of it."""

from __future__ import annotations

import itertools

import pytest

from async_adag.protocol.lifecycle import Lifecycle, State

ALLOWED = {
    (State.OPEN, State.DRAINING),
    (State.OPEN, State.CLOSED),
    (State.OPEN, State.BROKEN),
    (State.DRAINING, State.CLOSED),
    (State.DRAINING, State.BROKEN),
}
WAYS_TO = {
    State.OPEN: [],
    State.DRAINING: [State.DRAINING],
    State.CLOSED: [State.CLOSED],
    State.BROKEN: [State.BROKEN],
}


@pytest.mark.parametrize(("start", "to"), list(itertools.product(State, State)))
def test_it_moves_along_the_table_only(start, to):
    life = Lifecycle()
    for state in WAYS_TO[start]:
        assert life.move(state)
    assert life.state is start
    assert life.move(to) == ((start, to) in ALLOWED)
    assert life.state is (to if (start, to) in ALLOWED else start)


def test_it_begins_open():
    assert Lifecycle().state is State.OPEN


@pytest.mark.parametrize("end", [State.CLOSED, State.BROKEN])
def test_nothing_follows_the_end(end):
    life = Lifecycle()
    life.move(end)
    assert not any(life.move(state) for state in State)
    assert life.state is end
