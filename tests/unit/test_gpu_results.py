"""Results that stay on the driver's GPU: futures, on whichever loop, of a device that is run by hand."""

from __future__ import annotations

import asyncio

import pytest

from async_adag.actor import gpu_edges
from async_adag.actor.wiring import Endpoints
from async_adag.channels.doorbell import Doorbell
from async_adag.driver import gpu_results
from async_adag.driver.event_loop import settle_here
from async_adag.driver.gpu_results import GpuResults
from async_adag.errors import GraphBroken
from async_adag.gpu import wakeups
from tests.manual_device import ManualDevice
from tests.threads import in_thread


class End:
    """A reading end, of which only this is asked."""

    is_given_up = False


@pytest.fixture
def device(monkeypatch):
    device = ManualDevice()
    for module in (gpu_results, gpu_edges):
        monkeypatch.setattr(module, "find_device", lambda: device)
    monkeypatch.setattr(wakeups, "GRACE_S", 0.0)
    return device


@pytest.fixture
def end():
    return End()


@pytest.fixture
def results(device, end):
    bell = Doorbell.create()
    results = GpuResults((), Endpoints(bell), {})
    results._incoming.append(end)
    yield results
    results._incoming.clear()
    results.close()
    bell.close()


def settled_by(results, value):
    future = asyncio.get_running_loop().create_future()
    results.settle(future, value, settle_here)
    return future


async def test_a_future_is_settled_when_the_device_is_there(results):
    results._stream.work()
    future = settled_by(results, "whole")
    await asyncio.sleep(0)
    assert not future.done()
    results._stream.finish()
    assert await future == "whole"


@pytest.mark.parametrize("closed", [False, True])
async def test_what_nothing_waits_for_any_more_is_no_result(results, end, closed):
    """The stream went on as the writer had ended, not as the tensor was there."""
    results._stream.work()
    future = settled_by(results, "whatever lay there")
    end.is_given_up = True
    if closed:
        results.close()
    results._stream.finish()
    with pytest.raises(GraphBroken, match="died before its result was known to be whole"):
        await future
    late = settled_by(results, "whatever lay there")
    with pytest.raises(GraphBroken, match="died"):
        await late


@pytest.mark.parametrize("from_thread", [False, True])
async def test_a_device_that_has_failed_fails_what_is_to_be_awaited(results, device, from_thread):
    device.fail("illegal address")
    future = asyncio.get_running_loop().create_future()
    if from_thread:
        await asyncio.wrap_future(in_thread(results.settle, future, 7, settle_here))
    else:
        results.settle(future, 7, settle_here)
    with pytest.raises(GraphBroken, match="a result cannot be awaited: illegal address"):
        await future
    device.failure = ""


async def test_without_descriptors_too(results, monkeypatch):
    def none_left(*_):
        raise OSError("too many open files")

    monkeypatch.setattr(gpu_results.Completions, "future_for", none_left)
    with pytest.raises(GraphBroken, match="too many open files"):
        await settled_by(results, 7)


def test_a_loop_that_stands_still_keeps_what_it_awaits_while_another_awaits_too(results):
    one, two = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def begin(value):
        return settled_by(results, value)

    async def end(future):
        return await future

    results._stream.work()
    first = one.run_until_complete(begin(1))
    second = two.run_until_complete(begin(2))
    results._stream.finish()
    assert two.run_until_complete(end(second)) == 2
    assert one.run_until_complete(end(first)) == 1
    two.run_until_complete(asyncio.sleep(0))
    results.close()
    one.close()
    two.close()
