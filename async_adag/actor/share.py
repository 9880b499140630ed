"""What the driver tells an actor of its graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from async_adag.actor.lodging import Lodging
from async_adag.actor.reach import Reach
from async_adag.actor.wiring import Wiring
from async_adag.channels.ring import RingSpec
from async_adag.graph.plan import ActorPlan, Channel


@dataclass(frozen=True, slots=True)
class Share:
    """What an actor is told: its plan, and how its channel ends are made.

    Attributes:
        plan: what it does.
        wiring: which descriptors it is handed, after those of its control page and of the board.
        channels: all channels of the graph.
        specs: the rings, by channel.
        limit: executions that may be in flight, and that an async actor may interleave.
        processes: of the graph, the driver among them.
        poll_ns: how long a wait polls before it parks, in nanoseconds; None where that is to be learned, which
            only those of one host do.
        links: of channels between two GPUs, by channel, to each reader; of a reader, the one to it.
        overlap: whether tensors travel from GPU to GPU while methods compute.
        reach: how it meets other hosts; None where it has nothing to do with any.
        lodging: what it is told of its own host; None where that is the driver's.
        cpu: on which its loop's thread is to stay, or on one of its own in that place; None leaves it alone.
    """

    plan: ActorPlan
    wiring: Wiring
    channels: tuple[Channel, ...]
    specs: dict[int, RingSpec]
    limit: int
    processes: int
    poll_ns: int | None
    links: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    overlap: bool = True
    reach: Reach | None = None
    lodging: Lodging | None = None
    cpu: int | None = None
