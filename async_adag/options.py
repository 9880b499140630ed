"""The options of `async_adag.compile`, checked at once."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Any, Literal

MAX_INFLIGHT_LIMIT = 65_536
BUFFER_SIZE_LIMIT = 1 << 40
SECONDS_LIMIT = 86_400  # of what is counted in nanoseconds, or by a socket: neither takes just any number


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every option that ``compile`` takes. Sizes are in bytes, times in seconds.

    Attributes:
        max_inflight: executions that may be in flight at once: admitted, and not all outputs arrived yet.
        buffer_size: memory that each payload block keeps warm between uses; payloads may be of any size.
        submit_timeout: how long a blocking ``execute`` waits for a free place (None: for ever, 0: not at all).
        get_timeout: how long ``ref.get()`` waits when told nothing (None: for ever). ``await`` ignores it.
        compile_timeout: how long ``compile`` waits for the actors to answer.
        busy_poll: how long a wait looks for news before it sleeps: seconds, a day at most, 0 for never, or "auto"
            to have each process learn where that pays, while there is a core for it.
        device: "auto", or "cpu" to run GPU edges over the CPU communicator.
        overlap: whether GPU communication may overlap with compute.
        heartbeat_timeout: how long another host may be silent, with an edge to it, before it is given up; a day at
            most.
        tcp_ports: the first and the last port on which processes listen for edges from other hosts, while a graph
            is compiled (None: any that is free).
        placement: whether the threads of the loops of synchronous actors stay on CPUs: "together" on one, "apart"
            on as many as there are, None: the system places them.
    """

    max_inflight: int = 32
    buffer_size: int = 1 << 20
    submit_timeout: float | None = None
    get_timeout: float | None = None
    compile_timeout: float = 30.0
    busy_poll: float | Literal["auto"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    overlap: bool = True
    heartbeat_timeout: float = 5.0
    tcp_ports: tuple[int, int] | None = None
    placement: Literal["together", "apart"] | None = None

    def __post_init__(self) -> None:
        _integer("max_inflight", self.max_inflight, 1, MAX_INFLIGHT_LIMIT)
        _integer("buffer_size", self.buffer_size, 1, BUFFER_SIZE_LIMIT)
        _seconds("submit_timeout", self.submit_timeout, none="wait for ever")
        _seconds("get_timeout", self.get_timeout, none="wait for ever")
        _seconds("compile_timeout", self.compile_timeout, positive=True)
        if not _is_one_of(self.busy_poll, "auto"):
            _seconds("busy_poll", self.busy_poll, most=SECONDS_LIMIT, other='"auto"')
        if not _is_one_of(self.device, "auto", "cpu"):
            raise ValueError(f'device must be "auto" or "cpu", not {_shown(self.device)}')
        if not isinstance(self.overlap, bool):
            raise ValueError(f"overlap must be True or False, not {_shown(self.overlap)}")
        _seconds("heartbeat_timeout", self.heartbeat_timeout, positive=True, most=SECONDS_LIMIT)
        _ports("tcp_ports", self.tcp_ports)
        if self.placement is not None and not _is_one_of(self.placement, "together", "apart"):
            raise ValueError(f'placement must be "together", "apart" or None, not {_shown(self.placement)}')

    @property
    def poll_ns(self) -> int | None:
        """How long a wait polls before it parks, in nanoseconds; None where that is to be learned."""
        return None if self.busy_poll == "auto" else int(self.busy_poll * 1e9)


def options_from(given: dict[str, Any]) -> Options:
    """Build the options from keyword arguments.

    Raises:
        TypeError: an option that does not exist; names it and lists those that do.
        ValueError: an option out of range; names it.
    """
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            raise TypeError(f"compile() has no option {name!r}; the options are {', '.join(known)}")
    return Options(**given)


def _is_one_of(value: object, *words: str) -> bool:
    return isinstance(value, str) and value in words  # arrays compare with words too, to more than one truth


def _shown(value: object) -> str:
    """A value that is refused, in words, whatever it is."""
    try:
        return repr(value)
    except Exception:  # an integer of too many digits, for one
        return f"a value of type {type(value).__name__} that cannot be shown"


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, not {_shown(value)}")


def _seconds(
    name: str,
    value: object,
    *,
    none: str | None = None,
    positive: bool = False,
    most: float = sys.float_info.max,
    other: str | None = None,
) -> None:
    if value is None and none is not None:
        return
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    # Not by math.isfinite, which cannot take integers that are too large for a float.
    if not numeric or not 0 <= value <= most or (positive and value == 0):  # type: ignore[operator]
        low = "more than 0" if positive else "at least 0"
        high = "" if most == sys.float_info.max else f" and at most {most:g}"
        also = f", or None to {none}" if none else f", or {other}" if other else ""
        raise ValueError(f"{name} must be a number of seconds, {low}{high}{also}; not {_shown(value)}")


def _ports(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, tuple) and len(value) == 2:
        low, high = value
        if type(low) is int and type(high) is int and 1 <= low <= high <= 65_535:
            return
    raise ValueError(
        f"{name} must be the first and the last port of a range, such as (20000, 20099), or None for any; "
        f"not {_shown(value)}"
    )


def check_timeout(value: float | None) -> None:
    """Check a ``timeout`` argument of a call: None, or at least 0 seconds.

    Raises:
        ValueError: names the argument.
    """
    _seconds("timeout", value, none="wait for ever")
