"""Several outputs as one future: what `asyncio.gather` of their futures gives."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_adag.driver.event_loop import settle_here
from async_adag.driver.joint import parts_of

outcomes = st.lists(st.integers() | st.builds(ValueError, st.integers()), min_size=1, max_size=5)


def settle(sink, outcome):
    if isinstance(outcome, Exception):
        settle_here(sink, None, outcome)
    else:
        settle_here(sink, outcome, None)


@given(outcomes=outcomes, data=st.data())
def test_they_end_as_gathered_futures_do(outcomes, data):
    order = data.draw(st.permutations(range(len(outcomes))))

    async def main():
        loop = asyncio.get_running_loop()
        whole = loop.create_future()
        futures = [loop.create_future() for _ in outcomes]
        gathered = asyncio.gather(*futures)
        for sinks in (parts_of(whole, len(outcomes)), futures):
            for place in order:
                settle(sinks[place], outcomes[place])
        await asyncio.wait([gathered, whole])
        assert whole.exception() is gathered.exception()
        if whole.exception() is None:
            assert whole.result() == gathered.result()

    asyncio.run(main())


async def test_nothing_is_there_before_the_last_value_is():
    whole = asyncio.get_running_loop().create_future()
    first, last = parts_of(whole, 2)
    settle(last, "b")
    assert not whole.done()
    assert not first.done()
    settle(first, "a")
    assert await whole == ["a", "b"]


async def test_an_error_does_not_wait_for_the_others():
    whole = asyncio.get_running_loop().create_future()
    first, last = parts_of(whole, 2)
    settle(last, ValueError("soon"))
    assert first.done()
    settle(first, "late")
    with pytest.raises(ValueError, match="soon"):
        await whole


async def test_parts_of_what_was_cancelled_are_dropped():
    whole = asyncio.get_running_loop().create_future()
    first, last = parts_of(whole, 2)
    settle(first, "a")
    whole.cancel()
    settle(last, "b")
    assert whole.cancelled()


async def test_an_error_that_nobody_awaits_is_not_logged(caplog):
    (only,) = parts_of(asyncio.get_running_loop().create_future(), 1)
    settle(only, ValueError("unseen"))
    del only
    assert not caplog.records
