"""Wiring: which descriptors a process gets, and the channel ends it makes of them."""

from __future__ import annotations

import fcntl
import os
import tempfile

import pytest

from async_adag.actor.wiring import Endpoints, connect_ends, ring_spec, wire
from async_adag.channels.direct import Direct, DirectReader, DirectWriter
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.memory import PAGE
from async_adag.channels.rendezvous import RendezvousError
from async_adag.channels.ring import RingReader, RingWriter, create_ring
from async_adag.graph.plan import DRIVER, Channel

# The driver writes to both actors, one hands on to the other, which answers.
CHANNELS = (
    Channel(0, DRIVER, (0, 1), ()),
    Channel(1, 0, (1,), ()),
    Channel(2, 1, (DRIVER,), ()),
)
SPECS = {channel.number: ring_spec(channel, 4, 1 << 20) for channel in CHANNELS}


@pytest.fixture
def made():
    """The descriptors of the graph as its driver makes them: doorbells by process, rings by channel."""
    bells = {process: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for process in (DRIVER, 0, 1)}
    rings = {number: create_ring(spec) for number, spec in SPECS.items()}
    yield bells, rings
    for fd in (*bells.values(), *rings.values()):
        os.close(fd)


@pytest.fixture
def handed(made):
    """What a process is handed: descriptors of its own, as after `receive_fds`."""
    bells, rings = made

    def hand(wiring):
        files = [bells[process] for process in wiring.doorbells] + [rings[number] for number in wiring.channels]
        return list(map(os.dup, files))

    return hand


def open_fds():
    return sorted(os.listdir("/proc/self/fd"), key=int)


@pytest.mark.parametrize(
    ("process", "doorbells", "channels"),
    [(DRIVER, (DRIVER, 0, 1), (0, 2)), (0, (0, DRIVER, 1), (0, 1)), (1, (1, DRIVER, 0), (0, 1, 2))],
)
def test_a_process_gets_the_bells_of_its_peers_its_own_first_and_its_channels(process, doorbells, channels):
    wiring = wire(CHANNELS, process)
    assert (wiring.process, wiring.doorbells, wiring.channels) == (process, doorbells, channels)
    assert wiring.count() == len(doorbells) + len(channels)


def test_readers_of_one_channel_do_not_ring_each_other():
    channels = (Channel(0, DRIVER, (0, 1, 2), ()),)
    assert wire(channels, 1).doorbells == (1, DRIVER)
    assert wire(channels, DRIVER).doorbells == (DRIVER, 0, 1, 2)


def test_frames_flow_through_the_ends_of_all_processes(handed):
    ends = {
        process: connect_ends(wire(CHANNELS, process), handed(wire(CHANNELS, process)), CHANNELS, SPECS, {})
        for process in (DRIVER, 0, 1)
    }
    assert isinstance(ends[DRIVER].writers[0], RingWriter)
    assert isinstance(ends[0].readers[0], RingReader)

    def send(process, channel, value):
        writer = ends[process].writers[channel]
        writer.stage(writer.encode(value))
        writer.publish()

    for process in (0, 1):
        assert not ends[process].readers[0].arm()
    send(DRIVER, 0, "question")
    for process in (0, 1):
        assert os.eventfd_read(ends[process].doorbell.fd) == 1
        assert ends[process].readers[0].read() == "question"
    send(0, 1, "hint")
    assert ends[1].readers[1].read() == "hint"
    assert not ends[DRIVER].readers[2].arm()
    send(1, 2, "answer")
    assert os.eventfd_read(ends[DRIVER].doorbell.fd) == 1
    assert ends[DRIVER].readers[2].read() == "answer"
    for one in ends.values():
        one.close()


def test_closing_the_ends_closes_all_that_the_process_was_handed(handed):
    before = open_fds()
    for process in (DRIVER, 0, 1):
        wiring = wire(CHANNELS, process)
        ends = connect_ends(wiring, handed(wiring), CHANNELS, SPECS, {})
        assert len(open_fds()) == len(before) + wiring.count()
        ends.close()
        ends.close()
        assert open_fds() == before


def test_a_hand_over_takes_no_descriptor(handed):
    bells = [Doorbell.create(), Doorbell.create()]
    direct = Direct(4, bells[:1], bells[1])
    sides = []
    for process in (1, DRIVER):
        wiring = wire(CHANNELS, process)
        fds = handed(wiring)
        os.close(fds[-1])
        fds[-1] = -1  # where channel 2 would be
        sides.append(connect_ends(wiring, fds, CHANNELS, SPECS, {2: direct}))
    writing, reading = sides
    assert isinstance(writing.writers[2], DirectWriter)
    assert isinstance(reading.readers[2], DirectReader)
    assert isinstance(writing.readers[0], RingReader)
    value = object()
    writing.writers[2].stage(writing.writers[2].encode(value))
    writing.writers[2].publish()
    assert reading.readers[2].read() is value
    for one in (*sides, *bells):
        one.close()


def unsealed():
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SPECS[0].size())
    return fd


def short():
    fd = unsealed()
    os.ftruncate(fd, PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


def pipe():
    read, write = os.pipe()
    os.close(read)
    return write


def regular_file():
    with tempfile.TemporaryFile() as file:
        file.truncate(SPECS[0].size())
        return os.dup(file.fileno())


def event():
    return os.eventfd(0, os.EFD_NONBLOCK)


WRONG_MEMORY = [unsealed, short, pipe, regular_file, event]
WRONG_BELLS = [unsealed, pipe, regular_file]


@pytest.mark.parametrize("process", [DRIVER, 0, 1])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("wrong", WRONG_MEMORY, ids=lambda make: make.__name__)
def test_what_is_no_memory_file_of_ours_is_refused_and_all_is_closed(handed, process, last, wrong):
    before = open_fds()
    wiring = wire(CHANNELS, process)
    fds = handed(wiring)
    at = -1 if last else len(wiring.doorbells)
    os.close(fds[at])
    fds[at] = wrong()
    refused(wiring, fds)
    assert open_fds() == before


@pytest.mark.parametrize("last", [False, True], ids=["own", "peer"])
@pytest.mark.parametrize("wrong", WRONG_BELLS, ids=lambda make: make.__name__)
def test_what_is_no_doorbell_is_refused_and_all_is_closed(handed, last, wrong):
    before = open_fds()
    wiring = wire(CHANNELS, 0)
    fds = handed(wiring)
    at = len(wiring.doorbells) - 1 if last else 0
    os.close(fds[at])
    fds[at] = wrong()
    refused(wiring, fds)
    assert open_fds() == before


def refused(wiring, fds):
    ends: Endpoints | None = None
    try:
        with pytest.raises(RendezvousError):
            ends = connect_ends(wiring, fds, CHANNELS, SPECS, {})
    finally:
        if ends is not None:
            ends.close()
