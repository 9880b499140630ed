"""A ring between two processes that meet at the rendezvous and park at their doorbells."""

from __future__ import annotations

import importlib.util
import os
import select
from pathlib import Path

import numpy as np
import pytest

from async_adag.actor.wiring import connect_ends, wire
from async_adag.channels.interface import STOP
from async_adag.channels.parking import Parking, SentinelFired
from async_adag.channels.processes import peer_pidfd
from async_adag.channels.rendezvous import Listener, receive_text, send_fds
from async_adag.channels.ring import create_ring
from async_adag.graph.plan import DRIVER

# The script is loaded as a module too: both sides have to agree on the plan.
_spec = importlib.util.spec_from_file_location("peer", Path(__file__).with_name("peer.py"))
peer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(peer)

FRAMES = 20_000


class Meeting:
    """The driver's side: its ends, and the process at the other end."""

    def __init__(self, start_script):
        listener = Listener()
        name, token = listener.address.name[1:], listener.address.token.hex()
        self.process = start_script("peer.py", name, token)
        self.connection = self.let_in(listener)
        listener.close()
        bells = {process: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for process in (DRIVER, peer.PEER)}
        rings = {number: create_ring(spec) for number, spec in peer.SPECS.items()}

        def fds(process):
            wiring = wire(peer.CHANNELS, process)
            return [bells[one] for one in wiring.doorbells] + [rings[number] for number in wiring.channels]

        send_fds(self.connection, fds(peer.PEER))
        self.ends = connect_ends(wire(peer.CHANNELS, DRIVER), fds(DRIVER), peer.CHANNELS, peer.SPECS, {})
        self.writer, self.reader = self.ends.writers[0], self.ends.readers[1]
        self.pidfd = peer_pidfd(self.connection)
        self.parking = Parking(self.ends.doorbell, [self.pidfd])

    def let_in(self, listener):
        readable, _, _ = select.select([listener.socket], [], [], peer.PATIENCE)
        assert readable, "the other process did not come"
        connection = listener.accept()
        assert select.select([connection], [], [], peer.PATIENCE)[0]
        assert listener.identify(connection) == peer.PEER
        return connection

    def send(self, value):
        while not self.writer.may_write():
            self.parking.wait(self.writer.may_write, self.writer.arm)
        self.writer.stage(self.writer.encode(value))
        self.writer.publish()

    def receive(self):
        while not self.reader.may_read():
            self.parking.wait(self.reader.may_read, self.reader.arm)
        return self.reader.read()

    def stop(self):
        """Stop the other process; how often it parked."""
        self.send(STOP)
        assert self.receive() is STOP
        assert self.process.wait(peer.PATIENCE) == 0
        self.connection.setblocking(False)
        return int(receive_text(self.connection))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.parking.close()
        self.ends.close()
        os.close(self.pidfd)
        self.connection.close()


@pytest.fixture
def meeting(start_script):
    meeting = Meeting(start_script)
    yield meeting
    meeting.close()


def test_twenty_thousand_frames_each_way_and_nobody_oversleeps(meeting):
    # Bursts of one frame up to more than the rings hold, so that either side waits for frames and for slots.
    sent = received = 0
    burst = 1
    while received < FRAMES:
        for _ in range(min(burst, FRAMES - sent)):
            meeting.send(sent)
            sent += 1
        while received < sent:
            assert meeting.receive() == received + 1
            received += 1
        burst = burst % (2 * peer.SLOTS - 1) + 1
    assert meeting.parking.parked > 0
    assert meeting.stop() > 0


def test_arrays_cross_and_are_held_on_both_sides(meeting):
    held = []
    for number in range(200):
        meeting.send(np.full(50_000 + 1000 * (number % 7), number))
        held.append(meeting.receive())
    for number, array in enumerate(held):
        assert len(array) == 50_000 + 1000 * (number % 7)
        assert (array == number).all()
    meeting.stop()


def test_classes_of_this_process_cross(meeting):
    class Local:
        def __init__(self, x):
            self.x = x

    meeting.send([Local(3), lambda: 4])
    instance, function = meeting.receive()
    assert (instance.x, function()) == (3, 4)
    meeting.stop()


def test_the_death_of_the_other_process_ends_the_wait(meeting):
    meeting.send(1)
    assert meeting.receive() == 2
    meeting.process.kill()
    with pytest.raises(SentinelFired) as caught:
        meeting.receive()
    assert caught.value.fd == meeting.pidfd


def test_what_a_dead_writer_had_published_can_still_be_read(meeting):
    array = np.arange(100_000)
    for value in (1, array, 3):
        meeting.send(value)
    assert meeting.receive() == 2
    while not meeting.reader.may_read():
        meeting.parking.wait(meeting.reader.may_read, meeting.reader.arm)
    meeting.process.kill()
    meeting.process.wait()
    assert np.array_equal(meeting.receive(), array)
