"""The loop of a synchronous actor, in this process: when it calls up who reads its results."""

from __future__ import annotations

import os

import pytest

from async_adag.actor import loop
from async_adag.actor.control import Control, control_size
from async_adag.actor.loop import ThreadLoop
from async_adag.actor.moved import Movers
from async_adag.actor.turn import Turn
from async_adag.actor.wiring import Endpoints
from async_adag.channels.direct import Direct, DirectReader, DirectWriter
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.interface import STOP
from async_adag.channels.memory import create_file
from async_adag.channels.parking import Parking
from async_adag.graph.model import FromInput, FromNode
from async_adag.graph.planner import plan_graph


class Echo:
    """An actor; the test steps in while its method runs."""

    def __init__(self):
        self.meanwhile = lambda: None

    def method0(self, value):
        self.meanwhile()
        return value


class Site:
    """The loop of one actor, and the driver's side of it."""

    def __init__(self, plan):
        (actor,) = plan.actors
        self.events = []
        self.echo = Echo()
        self.actor_bell, self.driver_bell = Doorbell.create(), Doorbell.create()
        there = Direct(2, [self.actor_bell], self.driver_bell)
        back = Direct(2, [self.driver_bell], self.actor_bell)
        self.writer, self.reader = DirectWriter(there), DirectReader(back, 0)
        (into,), (out,) = plan.inputs(), plan.results()
        answering = DirectWriter(back)
        answering.call_up = lambda: self.events.append("called up")
        self.echo.meanwhile = lambda: self.events.append("ran")
        memory = create_file("control", control_size(actor))
        self.control = Control(memory, actor)
        os.close(memory)
        ends = Endpoints(self.actor_bell, {into.number: DirectReader(there, 0)}, {out.number: answering})
        self.broken = []
        self.loop = ThreadLoop(
            self.echo, actor, ends, Movers(), self.control, [], None, Turn(), pytest.fail, self.broken.append
        )
        self.loop.start()
        self.parking = Parking(self.driver_bell, [])

    def trip(self, value):
        """Send a value; the answer, and what happened until it came."""
        self.events.clear()
        self.writer.stage(self.writer.encode(value))
        self.writer.publish()
        while not self.reader.may_read():
            self.parking.wait(self.reader.may_read, self.reader.arm)
        answer = self.reader.read()
        return answer, self.events.copy()

    def close(self):
        self.trip(STOP)
        self.loop._runner.join()
        assert self.broken == [""]
        self.parking.close()
        self.actor_bell.close()
        self.driver_bell.close()


@pytest.fixture
def site(make_graph):
    made = Site(plan_graph(make_graph((0, [FromInput(None)], 1), outputs=[FromNode(0)])))
    yield made
    made.close()


def test_readers_are_called_up_before_a_brief_method_where_executions_come_one_at_a_time(site, monkeypatch):
    monkeypatch.setattr(loop, "BRIEF_NS", 10**12)
    site.control.set_alone(True)
    for number in range(3):
        assert site.trip(number) == (number, ["called up", "ran"])
    site.control.set_alone(False)
    assert site.trip(3) == (3, ["ran"])


def test_readers_are_not_called_up_ahead_of_a_method_that_took_long_the_last_time(site, monkeypatch):
    monkeypatch.setattr(loop, "BRIEF_NS", 1)  # from the second call on, anything is long
    site.control.set_alone(True)
    assert site.trip("a") == ("a", ["called up", "ran"])
    assert site.trip("b") == ("b", ["ran"])
