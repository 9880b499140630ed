"""A compiled graph without Ray: the driver's side is all real, and the test plays the actors.

Rings, doorbells and control pages are those of a deployment; each actor is a child process that does nothing,
which can be killed, and a `Part`, by which the test reads what that actor is sent and writes what it answers.
"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import Any

from async_adag.actor.control import Control, LoopState, control_size
from async_adag.actor.joining import GOODBYE
from async_adag.actor.wiring import Endpoints, connect_ends, ring_spec, wire
from async_adag.channels.codec import Failure
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.failures import encode_failure
from async_adag.channels.gauge import Gauge, RingGauge
from async_adag.channels.interface import STOP
from async_adag.channels.memory import create_file
from async_adag.channels.rendezvous import send_text
from async_adag.channels.ring import create_ring
from async_adag.driver.deployment import Deployment
from async_adag.driver.engine import Engine
from async_adag.driver.graph import CompiledGraph
from async_adag.driver.supervision import Supervision
from async_adag.graph.plan import DRIVER
from async_adag.graph.planner import plan_graph
from async_adag.options import Options


class Part:
    """An actor, played by the test: one node, which takes the input.

    Attributes:
        inbox: what it was sent and has not answered.
        history: all that it was sent.
    """

    def __init__(self, number: int, ends: Endpoints, control: Control, connection: socket.socket) -> None:
        self.number = number
        self.ends = ends
        self.control = control
        self.connection = connection
        (self.reader,) = ends.readers.values()
        (self.writer,) = ends.writers.values()
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.inbox: list[Any] = []
        self.history: list[Any] = []
        self.control.set_state(LoopState.WAITING)

    def take(self) -> list[Any]:
        """Read what has been sent; all that was and has not been answered yet."""
        while self.reader.may_read():
            self.inbox.append(self.reader.read())
            self.history.append(self.inbox[-1])
        return self.inbox

    def answer(self, value: Any) -> None:
        """Answer the oldest execution."""
        self.take()
        self.inbox.pop(0)
        self._write(value)

    def fail(self, error: Exception) -> None:
        """Answer the oldest execution with an error, as if its method had raised it."""
        self.answer(Failure(encode_failure(error, f"part {self.number}")))

    def _write(self, value: Any) -> None:
        assert self.writer.may_write()
        self.writer.stage(self.writer.encode(value))
        self.writer.publish()

    def should_end(self) -> bool:
        """Whether the driver has told the loop to end, by its control page or by STOP."""
        return self.control.should_end() or STOP in self.take()

    def leave(self, text: str = GOODBYE) -> None:
        """As a loop that ends."""
        if self.connection.fileno() >= 0:
            send_text(self.connection, text)
            self.connection.close()

    def die(self) -> None:
        """Be killed; returns when the process is gone."""
        self.take()
        self.process.kill()
        self.process.wait()
        self.connection.close()  # as the kernel would
        self.ends.close()

    def close(self) -> None:
        """Take the part off the stage."""
        self.leave()
        self.ends.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


class _Deployment(Deployment):
    """One whose actors leave as soon as they are told to."""

    parts: list[Part]

    def end_loops(self) -> None:
        super().end_loops()
        for part in self.parts:
            part.leave()


class Stage:
    """A graph whose actors are `Part`s.

    Attributes:
        compiled: what users hold.
        engine: what is behind it.
        parts: the actors, in their order.
    """

    def __init__(self, graph: Any, **options: Any) -> None:
        plan, chosen = plan_graph(graph), Options(**options)
        slots = max(2, chosen.max_inflight)
        specs = {channel.number: ring_spec(channel, slots, chosen.buffer_size) for channel in plan.channels}
        bells = {number: Doorbell.create().fd for number in (DRIVER, *(actor.actor for actor in plan.actors))}
        rings = {number: create_ring(spec) for number, spec in specs.items()}

        def ends_of(process: int) -> Endpoints:
            wiring = wire(plan.channels, process)
            fds = [os.dup(bells[peer]) for peer in wiring.doorbells]
            fds += [os.dup(rings[channel]) for channel in wiring.channels]
            return connect_ends(wiring, fds, plan.channels, specs, {})

        supervision = Supervision()
        self.parts: list[Part] = []
        controls = []
        for actor in plan.actors:
            page = create_file("async-adag-control", control_size(actor))
            controls.append(Control(page, actor))
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            part = Part(actor.actor, ends_of(actor.actor), Control(page, actor), its)
            os.close(page)
            supervision.watch(actor.actor, os.pidfd_open(part.process.pid), ours)
            self.parts.append(part)
        ends = ends_of(DRIVER)
        rung = [Doorbell(os.dup(bells[actor.actor])) for actor in plan.actors]
        gauges: dict[int, Gauge] = {number: RingGauge(specs[number], fd) for number, fd in rings.items()}
        for fd in (*bells.values(), *rings.values()):
            os.close(fd)
        deployment = _Deployment(plan, ends, controls, rung, supervision, specs, gauges, {}, None)
        deployment.parts = self.parts
        self.engine = Engine(plan, deployment, chosen)
        self.compiled = CompiledGraph(self.engine)

    def close(self) -> None:
        """Tear the graph down; again is harmless."""
        self.compiled.teardown()
        for part in self.parts:
            part.close()
        self.parts.clear()
