"""The driver and an actor on another host, as each has the other: what is theirs is let go of."""

from __future__ import annotations

import os

import pytest

from async_adag.actor.control import Control, control_size
from async_adag.actor.remote_driver import RemoteDriver
from async_adag.channels.attendant import Attendant
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.memory import create_file
from async_adag.channels.stream import Stream
from async_adag.driver.remote_actor import RemoteActor
from async_adag.graph.model import FromInput
from async_adag.graph.planner import plan_graph
from tests.belongings import take_stock
from tests.graphs import build_graph
from tests.limits import undo, use_up_descriptors
from tests.tcp import HEARTBEAT, connected


def page():
    (actor,) = plan_graph(build_graph((0, [FromInput(None)]))).actors
    fd = create_file("async-adag-control", control_size(actor))
    try:
        return Control(fd, actor)
    finally:
        os.close(fd)


@pytest.fixture
def attendant():
    made = Attendant()
    yield made
    made.close()


def as_the_driver_has_it(stream, attendant, page):
    return RemoteActor(stream, attendant, HEARTBEAT, page, Doorbell.create(), {})


def as_the_actor_has_it(stream, attendant, _):
    return RemoteDriver(stream, attendant, HEARTBEAT)


@pytest.mark.parametrize(("far", "own"), [(as_the_driver_has_it, 1), (as_the_actor_has_it, 0)])
def test_where_no_descriptor_is_left_nothing_is(attendant, far, own):
    """``own`` descriptors are made for it; the pair of sockets is one too many."""
    control = page()
    before = take_stock()
    near, other = connected()
    other.close()
    stream = Stream(near)
    use_up_descriptors(leave=own)
    try:
        with pytest.raises(OSError, match="Too many open files"):
            far(stream, attendant, control)
    finally:
        undo()
    assert take_stock().fds == before.fds
