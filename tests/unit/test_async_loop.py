"""The loop of an async actor, in this process, whose input's tensors a mover brings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

import numpy as np
import pytest

from async_adag.actor.async_loop import AsyncLoop
from async_adag.actor.control import Control, control_size
from async_adag.actor.moved import MovedWriter, Movers
from async_adag.actor.wiring import Endpoints
from async_adag.channels.direct import Direct, DirectReader, DirectWriter
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.interface import STOP
from async_adag.channels.memory import create_file
from async_adag.graph.model import FromInput, FromNode
from async_adag.graph.plan import ActorPlan
from async_adag.graph.planner import plan_graph
from async_adag.protocol.frame import ChannelError

SLOTS = 8


class Mover:
    """Carries tensors from a writer to a reader, and notes on which thread it is closed."""

    on_gpu = False
    may_wait = False

    def __init__(self):
        self.sent = {}
        self.closed_on = None
        self.broken_at = -1

    def announce(self, tensors):
        self.sent[len(self.sent)] = list(tensors)
        return len(self.sent) - 1

    def check(self):
        pass

    def withdraw(self):
        raise AssertionError

    def send(self, tensors):
        pass

    def receive(self, headers, note):
        if note == self.broken_at:
            raise ChannelError("the edge from here: the device has failed")
        assert [header.shape for header in headers] == [tensor.shape for tensor in self.sent[note]]
        return self.sent.pop(note)

    def close(self):
        self.closed_on = threading.current_thread()


class Adder:
    """An actor whose executions end in another order than they begin."""

    def __init__(self):
        self.entered = []
        self.may_end = asyncio.Event()

    async def method0(self, value):
        self.entered.append(int(value[0]))
        if value[0] % 2 == 0:
            await self.may_end.wait()
        return value + 1


class Site:
    """The loop, and the driver's side of it."""

    def __init__(self, actor: ActorPlan, into: int, out: int):
        self.mover = Mover()
        self.adder = Adder()
        self.actor_bell, self.driver_bell = Doorbell.create(), Doorbell.create()
        there = Direct(SLOTS, [self.actor_bell], self.driver_bell)
        back = Direct(SLOTS, [self.driver_bell], self.actor_bell)
        self.writer = MovedWriter(DirectWriter(there), self.mover, lambda _: contextlib.nullcontext())
        self.reader = DirectReader(back, 0)
        memory = create_file("control", control_size(actor))
        control = Control(memory, actor)
        os.close(memory)
        ends = Endpoints(
            self.actor_bell,
            {into: DirectReader(there, 0)},
            {out: DirectWriter(back)},
            edges={into: "here to there", out: "there to here"},
        )
        loop = asyncio.get_running_loop()
        self.ended = loop.create_future()
        self.loop = AsyncLoop(
            self.adder,
            actor,
            ends,
            Movers(receivers={into: self.mover}),
            control,
            [],
            SLOTS,
            loop,
            pytest.fail,
            self.ended.set_result,
        )
        self.loop.start()

    def send(self, value):
        self.writer.stage(self.writer.encode(value))
        self.writer.publish()

    async def until(self, condition):
        while not condition():  # noqa: ASYNC110 - what makes it true knows no event loop
            await asyncio.sleep(0)

    def close(self):
        self.actor_bell.close()
        self.driver_bell.close()


@pytest.fixture
def plan(make_graph):
    return plan_graph(make_graph((0, [FromInput(None)]), outputs=[FromNode(0)]))


@contextlib.contextmanager
def site_of(plan):
    (actor,), (into,), (out,) = plan.actors, plan.inputs(), plan.results()
    site = Site(actor, into.number, out.number)
    try:
        yield site
    finally:
        site.close()


async def test_tensors_come_to_their_executions_whichever_ends_first(plan):
    with site_of(plan) as site:
        for number in range(4):
            site.send(np.full(3 + number, number))
        await site.until(lambda: len(site.adder.entered) == 4)
        assert site.adder.entered == [0, 1, 2, 3]
        assert not site.reader.may_read()
        site.adder.may_end.set()
        for number in range(4):
            await site.until(site.reader.may_read)
            np.testing.assert_array_equal(site.reader.read(), np.full(3 + number, number + 1))
        assert site.mover.sent == {}
        site.send(STOP)
        assert await site.ended == ""
        assert site.mover.closed_on is not threading.current_thread(), "it may wait for the device"


async def test_an_edge_that_cannot_go_on_ends_the_loop_and_says_so(plan):
    with site_of(plan) as site:
        site.mover.broken_at = 1
        for number in range(2):
            site.send(np.full(3, number))
        assert await site.ended == "the edge from here: the device has failed"
        assert site.mover.closed_on is not None
