"""A graph at work, as the driver holds it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from async_adag.actor.control import Control
from async_adag.actor.wiring import Endpoints
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.gauge import Gauge
from async_adag.channels.pollers import Board
from async_adag.channels.ring import RingSpec
from async_adag.driver.abroad import Abroad
from async_adag.driver.supervision import Supervision
from async_adag.graph.plan import Plan
from async_adag.observe.picture import HAND_OVER, Transport, ring_transport, tcp_transport
from async_adag.protocol.placement import Seats

seats = Seats()
"""Of all graphs of this process."""


@dataclass(slots=True)
class Deployment:
    """A graph at work, as the driver holds it. Owns all of it.

    Attributes:
        plan: its plan.
        ends: the driver's channel ends.
        controls: the actors' control pages, by actor.
        bells: every actor's doorbell, by actor.
        supervision: watches the actors.
        specs: the rings, by channel; a channel without one is a hand-over.
        gauges: how far each channel is, by channel.
        movers: by channel, what carries its tensors, in words.
        own_loop: the event loop on which nodes of the driver's own actor run, if there is one.
        gpu_results: the `gpu_results.GpuResults`, if results stay on the driver's GPU.
        abroad: what joins it with other hosts, if there are any.
        board: who of its processes polls; None where the driver is not to learn when, as one of its own threads
            runs nodes, or as there are other hosts.
        seats: the CPUs that its loops were given, by actor; empty where the system places them.
    """

    plan: Plan
    ends: Endpoints
    controls: list[Control]
    bells: list[Doorbell]
    supervision: Supervision
    specs: dict[int, RingSpec]
    gauges: dict[int, Gauge]
    movers: dict[int, str]
    own_loop: asyncio.AbstractEventLoop | None
    gpu_results: Any = None
    abroad: Abroad | None = None
    board: Board | None = None
    seats: list[int] = field(default_factory=list)

    def transport(self, channel: int) -> Transport:
        """What moves a channel's frames."""
        spec = self.specs.get(channel)
        if spec is None:
            return HAND_OVER
        transport = ring_transport(spec.slots, spec.keep, self.movers.get(channel, ""))
        return tcp_transport(transport) if self.plan.channels[channel].remote else transport

    def end_loops(self) -> None:
        """Ask every loop to end after its present method."""
        for control, bell in zip(self.controls, self.bells, strict=True):
            if bell.fd >= 0:
                control.end()
                bell.ring()

    def refresh(self) -> None:
        """Have pages and gauges say what is so now, those of other hosts too. Waits for a moment."""
        if self.abroad is not None:
            self.abroad.refresh()

    def is_away(self, actor: int) -> bool:
        """Whether an actor lives on another host than the driver."""
        return self.abroad is not None and self.abroad.is_away(actor)

    def computing(self) -> list[str]:
        """What is computing now, or has a communicator at work, in words."""
        self.refresh()
        snapshots = [control.snapshot() for control in self.controls]
        return [str(snapshot) for snapshot in snapshots if snapshot.is_busy()]

    def close(self) -> None:
        """Let go of everything; the loops have ended or were asked to."""
        if self.gpu_results is not None:
            self.gpu_results.close()
        self.ends.close()
        self._let_go()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self.ends.leave_to_parent()
        if self.abroad is not None:
            self.abroad.leave_to_parent()
            self.abroad = None
        self._let_go()

    def _let_go(self) -> None:
        seats.give_back(self.seats)
        self.gauges.clear()
        for bell in self.bells:
            bell.close()
        self.supervision.close()
        if self.abroad is not None:
            self.abroad.close()
        for control in self.controls:
            control.close()
        if self.board is not None:
            self.board.close()
