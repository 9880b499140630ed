"""Installing an actor's share: a driver that has given up meanwhile is nobody's fault."""

from __future__ import annotations

import pickle
import select

import pytest

from async_adag import __version__
from async_adag.actor.install import install
from async_adag.actor.share import Share
from async_adag.actor.wiring import wire
from async_adag.channels.rendezvous import Listener
from async_adag.graph.plan import ActorPlan
from tests.threads import in_thread

PATIENCE = 100.0  # seconds; only a failing test waits


def before_it_is_let_in(listener):
    listener.close()


def unheard(listener):
    listener.accept().close()
    listener.close()  # as a driver that gives up does; while it listens, the actor knocks again


def heard(listener):
    connection = listener.accept()
    select.select([connection], [], [], PATIENCE)
    assert listener.identify(connection) == 1
    connection.close()
    listener.close()


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.mark.parametrize("give_up", [before_it_is_let_in, unheard, heard])
def test_an_actor_whose_driver_gives_up_says_why_and_raises_nothing(listener, give_up):
    """Nobody is there to take an exception: Ray would log it."""
    plan = ActorPlan(actor=1, name="Worker(abcdef)", tasks=(), constants=(), registers=0)
    share = pickle.dumps(Share(plan, wire((), 1), (), {}, limit=1, processes=2, poll_ns=0))
    installing = in_thread(install, object(), __version__, listener.address, share, PATIENCE)
    select.select([listener.socket], [], [], PATIENCE)
    give_up(listener)
    listener.close()  # an actor that was turned away unheard knocks again
    assert "driver" in installing.result(PATIENCE)
