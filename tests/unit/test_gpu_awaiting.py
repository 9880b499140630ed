"""Awaiting a device: futures, lanes, and what becomes of them when the device fails or nobody waits any longer."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import pytest

from async_adag.gpu import awaiting, wakeups
from async_adag.gpu.awaiting import Completions, wait_for
from async_adag.gpu.interface import DeviceError
from tests.manual_device import ManualDevice

fds = "/proc/self/fd"


@pytest.fixture(params=["a C function", "a reaper"])
def device(request, monkeypatch):
    device = ManualDevice()
    device.can_notify = request.param == "a C function"
    # Only some tests are about the watch; in the others it would make up for a reaper that is slow to run.
    monkeypatch.setattr(awaiting, "WATCH_S", 60.0)
    monkeypatch.setattr(wakeups, "GRACE_S", 0.0)
    yield device
    assert not wakeups._retired


@pytest.fixture
def watch(device, monkeypatch):
    monkeypatch.setattr(awaiting, "WATCH_S", 0.01)


@pytest.fixture
async def completions(device):
    await asyncio.sleep(0)  # the loop has its own descriptors by now
    before = os.listdir(fds)
    completions = Completions(device)
    yield completions
    completions.close()
    await drained()
    assert os.listdir(fds) == before
    assert not {kept for kept in device.open if kept not in completions_streams(device)}
    await until(lambda: all(thread.name != "async-adag-reaper" for thread in threading.enumerate()))


def completions_streams(device):
    return [stream for stream in device.streams if getattr(stream, "users", False)]


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what makes it true knows no event loop
        await asyncio.sleep(0.001)


async def drained():
    await until(lambda: not wakeups.sweep())


def users_stream(device):
    stream = device.stream()
    stream.users = True
    return stream


async def settled():
    """What the loop had to do by now is done."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_future_is_done_when_the_stream_got_there(device, completions):
    stream = users_stream(device)
    stream.work()
    future = completions.future_for(stream)
    await settled()
    assert not future.done()
    stream.finish()
    assert await future is None


async def test_what_is_issued_later_is_not_waited_for(device, completions):
    stream = users_stream(device)
    stream.work()
    future = completions.future_for(stream)
    stream.work()
    later = completions.future_for(stream)
    stream.finish()
    await future
    await settled()
    assert not later.done()
    stream.finish()
    await later


async def test_an_idle_stream_is_done_at_once(device, completions):
    assert completions.future_for(users_stream(device)).done()
    assert not completions._busy


async def test_many_waits_of_one_stream_share_a_descriptor(device, completions):
    stream = users_stream(device)
    stream.work()
    first = completions.future_for(stream)
    descriptors = len(os.listdir(fds))
    rest = [completions.future_for(stream) for _ in range(20)]
    assert len(os.listdir(fds)) == descriptors
    stream.finish()
    await asyncio.gather(first, *rest)


async def test_a_stream_that_gets_no_further_holds_up_no_other(device, completions):
    stuck, other = users_stream(device), users_stream(device)
    stuck.work()
    other.work()
    waiting = completions.future_for(stuck)
    going = completions.future_for(other)
    other.finish()
    await going
    assert not waiting.done()
    stuck.finish()
    await waiting


async def test_lanes_and_their_events_are_used_again(device, completions):
    streams = [users_stream(device) for _ in range(5)]
    for stream in streams * 4:
        stream.work()
        future = completions.future_for(stream)
        stream.finish()
        await future
    assert len(completions._idle) == 1
    assert len(device.open) <= len(streams) + 2  # a side stream, an event


async def test_a_cancelled_future_disturbs_none_of_its_neighbours(device, completions):
    stream = users_stream(device)
    stream.work()
    first, second, third = (completions.future_for(stream) for _ in range(3))
    second.cancel()
    stream.finish()
    await asyncio.gather(first, third)
    assert second.cancelled()


async def test_a_failing_device_fails_what_is_awaited_though_nothing_rings(device, completions, watch):
    streams = [users_stream(device) for _ in range(2)]
    for stream in streams:
        stream.work()
    futures = [completions.future_for(stream) for stream in streams for _ in range(2)]
    device.fail("cudaErrorIllegalAddress")
    for future in futures:
        with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
            await future
    with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
        completions.future_for(streams[0])


async def test_a_failure_that_nobody_awaits_logs_nothing(device, completions, watch):
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    stream = users_stream(device)
    stream.work()
    failed = asyncio.Event()
    future = completions.future_for(stream)
    future.add_done_callback(lambda _: failed.set())
    device.fail("gone")
    await failed.wait()
    del future
    gc.collect()
    assert told == []


async def test_a_ring_that_is_lost_is_made_up_for(device, completions, watch):
    if not device.can_notify:
        pytest.skip("a reaper loses none")
    stream = users_stream(device)
    stream.work()
    future = completions.future_for(stream)
    device.skips = True
    stream.finish()
    await future
    device.fail("as skipping announces")  # so that nothing is left to wait for its ring


async def test_closing_fails_what_is_awaited_and_leaves_the_descriptor_until_it_has_rung(device, completions):
    stream = users_stream(device)
    stream.work()
    future = completions.future_for(stream)
    watched = completions._busy[stream.handle]
    completions.close()
    with pytest.raises(DeviceError, match="closed"):
        await future
    assert os.readlink(f"{fds}/{watched.lane.fd}") == "anon_inode:[eventfd]"
    assert not asyncio.get_running_loop().remove_reader(watched.lane.fd)
    assert wakeups.sweep()
    stream.finish()
    with pytest.raises(DeviceError, match="closed"):
        completions.future_for(stream)


async def test_the_loop_looks_after_what_was_left_at_closing(device, completions, watch):
    stream = users_stream(device)
    stream.work()
    completions.future_for(stream)
    completions.close()
    stream.finish()
    await until(lambda: not wakeups._retired)  # no call of ours: the timer of the loop does it


async def test_a_device_that_fails_after_closing_keeps_nothing_open(device, completions):
    stream = users_stream(device)
    stream.work()
    completions.future_for(stream)
    completions.close()
    device.fail("gone")
    await drained()


async def test_closing_again_is_harmless(completions):
    completions.close()
    completions.close()


# Looking, before the device is to ring.


class Looks:
    """A poller by hand: whether waits poll, and what they have told."""

    def __init__(self):
        self.rest = 0
        self.nanoseconds = 60_000_000_000
        self.told = []

    def budget(self, now):
        return self.nanoseconds

    def waited(self, took, polled, hit):
        assert took > 0
        self.told.append((polled == took if hit else polled, hit))


@pytest.fixture
def looks():
    return Looks()


@pytest.fixture
async def looking(device, looks, monkeypatch):
    monkeypatch.setattr(awaiting, "STEP_NS", 0)
    completions = Completions(device, poller=looks)
    yield completions
    completions.close()
    await drained()
    assert not {kept for kept in device.open if kept not in completions_streams(device)}


async def test_who_looks_needs_no_ring(device, looks, looking):
    stream = users_stream(device)
    stream.work()
    future = looking.future_for(stream)
    await settled()
    assert not future.done()
    assert looking._busy[stream.handle].lane.pending == 0
    stream.finish()
    await future
    assert looks.told == [(True, True)]
    assert not looking._busy
    assert len(looking._idle) == 1


async def test_who_has_looked_long_enough_is_rung(device, looks, looking):
    looks.nanoseconds = 1
    stream = users_stream(device)
    stream.work()
    future = looking.future_for(stream)
    await settled()
    assert looking._busy[stream.handle].lane.pending == 1
    stream.finish()
    await future
    assert looks.told == [(1, False)]


async def test_who_is_not_to_look_tells_how_long_it_took(device, looks, looking):
    looks.nanoseconds = 0
    stream = users_stream(device)
    stream.work()
    future = looking.future_for(stream)
    assert looking._busy[stream.handle].lane.pending == 1
    stream.finish()
    await future
    assert looks.told == [(0, False)]


async def test_waits_that_rest_are_rung_and_tell_nothing(device, looks, looking):
    looks.rest = 2
    stream = users_stream(device)
    for _ in range(2):
        stream.work()
        future = looking.future_for(stream)
        assert looking._busy[stream.handle].lane.pending == 1
        stream.finish()
        await future
    assert looks.rest == 0
    assert looks.told == []


@pytest.mark.parametrize("same", [True, False], ids=["the same stream", "another"])
async def test_a_second_wait_ends_the_looking_of_the_first(device, looks, looking, same):
    stream = users_stream(device)
    other = stream if same else users_stream(device)
    stream.work()
    first = looking.future_for(stream)
    await settled()
    other.work()
    second = looking.future_for(other)
    assert sum(watched.lane.pending for watched in looking._busy.values()) == 2
    stream.finish()
    await first
    assert not second.done()
    other.finish()
    await second
    assert looks.told == []
    other.work()
    third = looking.future_for(other)
    await settled()
    other.finish()
    await third
    assert looks.told == [(True, True)]


async def test_a_device_that_fails_while_it_is_looked_at(device, looks, looking):
    stream = users_stream(device)
    stream.work()
    future = looking.future_for(stream)
    await settled()
    device.fail("cudaErrorIllegalAddress")
    with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
        await future
    assert not looking._busy
    with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
        looking.future_for(stream)


async def test_a_device_that_fails_as_it_is_to_ring(device, looks, looking, monkeypatch):
    looks.nanoseconds = 0
    stream = users_stream(device)
    stream.work()

    def fails(*_):
        raise DeviceError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(wakeups.Lane, "ring", fails)
        with pytest.raises(DeviceError, match="gone"):
            looking.future_for(stream)
    stream.finish()
    assert not looking._busy


async def test_closing_while_it_is_looked_for(device, looks, looking):
    stream = users_stream(device)
    stream.work()
    future = looking.future_for(stream)
    await settled()
    looking.close()
    with pytest.raises(DeviceError, match="closed"):
        await future
    assert not wakeups._retired
    stream.finish()


async def test_a_look_that_an_interrupt_has_ended_is_made_up_for(device, looks, looking, watch):
    looks.nanoseconds = 1
    stream = users_stream(device)
    stream.work()
    future = looking.future_for(stream)
    looking._poll += 1  # as if the callback had not been called
    await until(lambda: looking._busy[stream.handle].lane.pending)
    stream.finish()
    await future


async def test_a_descriptor_short_is_an_error_and_leaves_nothing(device, completions, monkeypatch):
    def none_left(*_):
        raise OSError(24, "Too many open files")

    stream = users_stream(device)
    stream.work()
    with monkeypatch.context() as patch:
        patch.setattr(os, "eventfd", none_left)
        with pytest.raises(OSError, match="Too many"):
            completions.future_for(stream)
    future = completions.future_for(stream)
    stream.finish()
    await future


async def test_waiting_for_streams_leaves_nothing_behind(device):
    streams = [users_stream(device) for _ in range(2)]
    for stream in streams:
        stream.work()
    before = os.listdir(fds)
    tasks = [asyncio.create_task(wait_for(device, streams)) for _ in range(3)]
    await settled()
    assert len(os.listdir(fds)) == len(before) + 2
    streams[0].finish()
    await settled()
    assert not any(task.done() for task in tasks)
    streams[1].finish()
    await asyncio.gather(*tasks)
    assert os.listdir(fds) == before
    assert not awaiting._shared.get(asyncio.get_running_loop())


async def test_giving_up_a_wait_for_streams_lets_go_once_the_device_has_rung(device, watch):
    stream = users_stream(device)
    stream.work()
    before = os.listdir(fds)
    task = asyncio.create_task(wait_for(device, [stream]))
    await settled()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(fds) != before
    stream.finish()
    await until(lambda: not wakeups._retired)
    assert os.listdir(fds) == before
