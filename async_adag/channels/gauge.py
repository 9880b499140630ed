"""Gauges: how far a channel is, seen from outside. They read what the ends share, and change nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass
from typing import Protocol

from async_adag.channels.direct import Direct
from async_adag.channels.memory import Mapping
from async_adag.channels.ring import RingSpec


@dataclass(frozen=True, slots=True)
class Level:
    """How far a channel was at one moment.

    Attributes:
        written: frames that were published.
        taken: how many of them each reader has taken, in the readers' order.
        sleepers: the readers that sleep until the next one, by their place in that order.
        writer_sleeps: whether the writer sleeps until there is room.
    """

    written: int
    taken: tuple[int, ...]
    sleepers: tuple[int, ...]
    writer_sleeps: bool


class Gauge(Protocol):
    """Tells how far one channel is."""

    def read(self) -> Level:
        """How far it is now. The ends go on meanwhile, so the figures may be some frames apart."""


class RingGauge:
    """Of a ring; maps its words, and leaves ``fd`` to its owner."""

    def __init__(self, spec: RingSpec, fd: int) -> None:
        self._layout = spec.layout()
        self._words = Mapping(fd, 0, spec.slots_begin()).words(self._layout.words)

    def read(self) -> Level:
        """See `Gauge`."""
        words, layout = self._words, self._layout
        return Level(
            words[layout.head],
            tuple(words[tail] for tail in layout.tails),
            tuple(reader for reader, parked in enumerate(layout.parked) if words[parked]),
            bool(words[layout.writer_parked]),
        )


class DirectGauge:
    """Of a hand-over."""

    def __init__(self, channel: Direct) -> None:
        self._channel = channel

    def read(self) -> Level:
        """See `Gauge`."""
        channel = self._channel
        waiting = [len(queue) for queue in channel.queues]
        return Level(
            channel.written,
            tuple(channel.written - count for count in waiting),
            tuple(reader for reader, parked in enumerate(channel.parked) if parked),
            channel.writer_parked,
        )


class ToldGauge:
    """Of a ring on another host: how far it was when somebody there has last told of it.

    Attributes:
        level: that.
    """

    def __init__(self, readers: int) -> None:
        self.level = Level(0, (0,) * readers, (), False)

    def read(self) -> Level:
        """See `Gauge`."""
        return self.level


def tell_levels(gauges: Dictionary[int, Gauge]) -> bytes:
    """How far these channels are now, for another host."""
    levels = {number: gauge.read() for number, gauge in list(gauges.items())}
    told = {n: (one.written, one.taken, one.sleepers, one.writer_sleeps) for n, one in levels.items()}
    return json.dumps(told).encode()


def hear_levels(told: bytes, gauges: Dictionary[int, ToldGauge]) -> None:
    """Take over what `tell_levels` told."""
    for number, (written, taken, sleepers, writer_sleeps) in json.loads(told).items():
        gauges[int(number)].level = Level(written, tuple(taken), tuple(sleepers), writer_sleeps)
