"""Options: defaults, ranges, and messages that name the option."""

from __future__ import annotations

import dataclasses
import inspect
import math
import pickle

import numpy as np
import pytest

from async_adag.options import (
    BUFFER_SIZE_LIMIT,
    MAX_INFLIGHT_LIMIT,
    SECONDS_LIMIT,
    Options,
    check_timeout,
    options_from,
)

GOOD = [
    ("max_inflight", 1),
    ("max_inflight", MAX_INFLIGHT_LIMIT),
    ("buffer_size", 1),
    ("buffer_size", BUFFER_SIZE_LIMIT),
    ("submit_timeout", None),
    ("submit_timeout", 0),
    ("submit_timeout", 2.5),
    ("get_timeout", None),
    ("get_timeout", 0),
    ("get_timeout", 3),
    ("compile_timeout", 0.001),
    ("busy_poll", "auto"),
    ("busy_poll", 0),
    ("busy_poll", 0.0001),
    ("busy_poll", SECONDS_LIMIT),
    ("heartbeat_timeout", SECONDS_LIMIT),
    ("device", "auto"),
    ("device", "cpu"),
    ("overlap", True),
    ("overlap", False),
    ("placement", None),
    ("placement", "together"),
    ("placement", "apart"),
]
GIANT = 10**400  # larger than any float
SECONDS = ["submit_timeout", "get_timeout", "compile_timeout", "busy_poll", "heartbeat_timeout"]
BAD = [
    *[(name, GIANT) for name in ("max_inflight", "buffer_size", *SECONDS)],
    *[(name, value) for name in ("busy_poll", "heartbeat_timeout") for value in (1e300, SECONDS_LIMIT + 0.5)],
    *[("max_inflight", value) for value in (0, -1, MAX_INFLIGHT_LIMIT + 1, 1.0, "8", True, None)],
    *[("buffer_size", value) for value in (0, -1, BUFFER_SIZE_LIMIT + 1, 1e6, "1M", False, None)],
    *[("submit_timeout", value) for value in (-0.1, "1", math.nan, math.inf, True, [1])],
    *[("get_timeout", value) for value in (-1, "1", math.nan, math.inf, False)],
    *[("compile_timeout", value) for value in (0, -1, None, math.inf, "30", True)],
    *[("busy_poll", value) for value in (-1, None, "always", math.nan, True)],
    *[("device", value) for value in ("cuda", None, 0, "CPU")],
    *[("overlap", value) for value in (1, 0, None, "yes")],
    *[("placement", value) for value in ("", "spread", True, 0, ["apart"])],
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_what_is_in_range_is_kept(name, value):
    assert getattr(options_from({name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), BAD)
def test_what_is_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*") as caught:
        options_from({name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Options)])
def test_an_array_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} must be .*not array"):
        options_from({name: np.array([1, 2])})


@pytest.mark.parametrize("name", ["max_inflight", *SECONDS])
def test_a_number_too_long_to_be_shown_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} must be .*not a value of type int"):
        options_from({name: 10**5000})


def test_the_longest_busy_polling_is_said():
    with pytest.raises(ValueError, match='at least 0 and at most 86400, or "auto"'):
        options_from({"busy_poll": 1e300})


def test_an_option_that_does_not_exist_is_a_type_error_that_lists_those_that_do():
    with pytest.raises(TypeError, match="no option 'max_in_flight'") as caught:
        options_from({"max_in_flight": 3})
    for field in dataclasses.fields(Options):
        assert field.name in str(caught.value)


def test_every_option_is_keyword_only():
    parameters = inspect.signature(Options).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


def test_they_cannot_be_changed_afterwards():
    options = options_from({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.max_inflight = 1


def test_the_defaults_keep_their_promises():
    options = options_from({})
    assert options.max_inflight >= 10
    assert options.submit_timeout is None
    assert options.compile_timeout == 30
    assert options.busy_poll == "auto"
    assert options.device == "auto"
    assert options.overlap is True


def test_they_travel():
    options = options_from({"max_inflight": 7, "busy_poll": 0.5})
    assert pickle.loads(pickle.dumps(options)) == options


def test_busy_polling_for_a_time_is_told_in_nanoseconds():
    assert options_from({"busy_poll": 0}).poll_ns == 0
    assert options_from({"busy_poll": 0.25}).poll_ns == 250_000_000
    assert options_from({}).poll_ns is None


@pytest.mark.parametrize("value", [None, 0, 0.5, 10, 1e300])
def test_a_good_timeout_passes(value):
    check_timeout(value)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, GIANT, -GIANT, "1", True])
def test_a_bad_timeout_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^timeout must be"):
        check_timeout(value)
