"""What the driver makes of channels that cannot go on."""

from __future__ import annotations

import asyncio

import pytest

from async_adag import GraphBroken
from async_adag.protocol.frame import ChannelError


class Failing:
    """A reading end whose frame comes, and cannot be read."""

    def __init__(self, reader, words):
        self._reader = reader
        self._words = words

    def read(self):
        raise ChannelError(self._words)

    def __getattr__(self, name):
        return getattr(self._reader, name)


@pytest.mark.parametrize("words", ["the edge from node 0: out of memory", ""])
async def test_a_channel_that_cannot_go_on_breaks_the_graph(make_stage, words):
    """Though no frame is spoiled: what its edge was to bring along did not come, and is in the way."""
    stage = make_stage(2)
    futures = [await stage.compiled.execute_async(number) for number in range(2)]
    results = stage.engine.arrivals._results
    place, reader, may_read = results[0]
    results[0] = place, Failing(reader, words), may_read
    for part in stage.parts:
        part.answer(7)
    for outcome in await asyncio.gather(*futures[1], futures[0][0], return_exceptions=True):
        assert isinstance(outcome, GraphBroken)
        assert words in str(outcome)
    with pytest.raises(GraphBroken):
        await stage.compiled(3)
