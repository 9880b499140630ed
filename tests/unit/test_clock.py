"""Another host's clock: by two comparisons, as exactly as these are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from async_adag.driver.clock import HostClock, compare

SECOND = 1_000_000_000


def test_a_clock_that_is_ahead_by_days():
    clock = HostClock(*[compare(1000, 10**15 + 1500, 2000)] * 2)
    assert clock.to_ours(10**15 + 1500) == 1500
    assert clock.to_ours(10**15 + 2500) == 2500
    assert clock.error == 500


def test_of_a_clock_that_goes_faster_times_are_put_in_proportion():
    first, last = compare(0, 100, 0), compare(100 * SECOND, 100 + 101 * SECOND, 100 * SECOND)
    clock = HostClock(first, last)
    assert [clock.to_ours(100 + n * 101 * SECOND // 4) for n in range(5)] == [n * 25 * SECOND for n in range(5)]
    assert clock.to_ours(100 + 102 * SECOND) == 101 * SECOND, "behind the last comparison they go equally fast"


@given(
    ahead=st.integers(0, 10**18),
    drift=st.integers(-100, 100),
    waits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=2, max_size=2),
    at=st.integers(0, 1000),
)
def test_a_time_is_as_exact_as_is_said(ahead, drift, waits, at):
    """Whatever part of a question's round trip is the way there; at any rate of the clocks up to 100 ppm."""

    def theirs(ours):
        return ours + ahead + ours * drift // 10**6

    begin, end = 5 * SECOND, 15 * SECOND
    first, last = (
        compare(when - there, theirs(when), when + back)
        for when, (there, back) in zip((begin, end), waits, strict=True)
    )
    clock = HostClock(first, last)
    moment = begin + at * (end - begin) // 1000
    assert abs(clock.to_ours(theirs(moment)) - moment) <= clock.error + 3
