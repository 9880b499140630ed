"""Abroad: the driver's dealings with actors on other hosts, and with edges between hosts.

While a graph is compiled, they come in through the gate; the driver tells who of them listens where. Later the
attendant looks after the lines to them.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterable
from functools import partial

from async_adag.actor.control import Control
from async_adag.actor.joining import report_losses
from async_adag.actor.lodging import HOSTING, KNOCK, Lodging
from async_adag.actor.reach import ADDRESS, PEERS, Reach, SocketAddress
from async_adag.actor.wiring import Wiring, wire
from async_adag.channels.attendant import Attendant
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.gauge import ToldGauge
from async_adag.channels.network import Network
from async_adag.channels.rendezvous import new_address, send_text
from async_adag.channels.ring import RingSpec
from async_adag.channels.stream import Stream
from async_adag.driver.clock import Comparison, HostClock
from async_adag.driver.remote_actor import RemoteActor
from async_adag.graph.model import Host
from async_adag.graph.plan import DRIVER, Plan
from async_adag.graph.planner import host_of
from async_adag.options import Options
from async_adag.protocol.handshake import SECRET_BYTES, Purpose

PATIENCE = 0.1  # seconds that all of them have to say what they do now
TRACED = 1.0  # seconds that they have to begin to record
GATHERED = 10.0  # seconds that they have to send what they have recorded
AGAIN = 1.0  # seconds until they are asked again, where one had nothing to say
AT_ONCE = 500  # peers that are told in one message


class Abroad:
    """See the module. Owns the gate, the attendant and the lines.

    Args:
        plan: of a graph with several hosts.
        options: the options.
        here: the processes that are this one: the driver, and its own actor if that is in the graph.

    Attributes:
        gauges: of the channels on other hosts, by number: how far they were when `refresh` last had an answer.
    """

    def __init__(self, plan: Plan, options: Options, here: Iterable[int]) -> None:
        assert plan.graph.driver_host is not None
        self._plan = plan
        self._here = frozenset(here)
        self._wirings = {actor.actor: wire(plan.channels, actor.actor) for actor in plan.actors}
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._options = options
        self._actors: dict[int, RemoteActor] = {}
        self._tellers: list[socket.socket] = []  # where losses are told
        self._addresses: dict[int, SocketAddress] = {}
        self._introduced = False
        self.gauges = {c.number: ToldGauge(len(c.readers)) for c in plan.channels if not self.is_here(c.number)}
        self._again = 0.0  # when actors may be asked again what they do
        own = [wire(plan.channels, process) for process in self._here]
        self._missing = {channel for wiring in own for channel in (*wiring.outgoing, *wiring.incoming)}
        self.streams: dict[int, Stream] = {}  # of this process's edges, by channel
        self.outbox: list[tuple[int, str]] = []  # what is to be said to which actor
        self._lodgings = {host: new_address() for host in set(plan.graph.hosts) - {plan.graph.driver_host}}
        self.attendant = Attendant("async_adag driver, network")
        self.attendant.start()
        try:
            self.gate = self.reach(DRIVER).open_gate()
        except BaseException:
            self.attendant.close()
            raise

    def is_away(self, actor: int) -> bool:
        """Whether an actor lives on another host than the driver."""
        return host_of(self._plan.graph, actor) != self._plan.graph.driver_host

    def has_reach(self, actor: int) -> bool:
        """Whether an actor has to do with other hosts than its own."""
        wiring = self._wirings[actor]
        return self.is_away(actor) or bool(wiring.outgoing or wiring.incoming)

    def reach(self, process: int) -> Reach:
        """What a process needs to meet others on other hosts."""
        host = host_of(self._plan.graph, process)
        assert host is not None
        driver = self.address_of(DRIVER) if process != DRIVER and self.is_away(process) else None
        return Reach(host.address, self._options.tcp_ports, self._secret, self._options.heartbeat_timeout, driver)

    def lodging(self, actor: int, specs: dict[int, RingSpec]) -> Lodging | None:
        """What an actor is told of its own host; None where that is the driver's."""
        host = self._plan.graph.hosts[actor]
        if host not in self._lodgings:
            return None
        steward, *others = self._members(host)
        if actor != steward:
            return Lodging(self._lodgings[host])
        return Lodging(
            self._lodgings[host],
            tuple(self._wirings[other] for other in others),
            {number: spec for number, spec in specs.items() if self._lives(number, host)},
        )

    def is_here(self, channel: int) -> bool:
        """Whether the ring of a channel lies on the driver's host."""
        return self._lives(channel, self._plan.graph.driver_host)

    def _lives(self, channel: int, host: Host | None) -> bool:
        return host_of(self._plan.graph, self._plan.channels[channel].filler) == host

    def _members(self, host: Host) -> list[int]:
        return [actor for actor, its in enumerate(self._plan.graph.hosts) if its == host]

    # -- while the graph is compiled

    def step(self) -> list[tuple[int, Stream]]:
        """Go on with connections; those of actors that have come in, each the caller's."""
        arrived = []
        for purpose, stream in self.gate.step():
            if purpose.role == "control":
                arrived.append((purpose.number, stream))
            elif purpose.number in self._missing or purpose.number in self.streams:
                before = self.streams.pop(purpose.number, None)
                if before is not None:
                    before.close()
                self._missing.discard(purpose.number)
                self.streams[purpose.number] = stream
            else:
                stream.close()
        return arrived

    def welcome(self, actor: int, stream: Stream, page: Control, bell: int) -> socket.socket:
        """Join with an actor that has come in; a socket by which to talk to it.

        Args:
            actor: its number.
            stream: its connection.
            page: its control page, as the driver sees it.
            bell: the doorbell that is rung for it, which stays the caller's.
        """
        before = self._actors.pop(actor, None)
        if before is not None:
            before.close()  # Ray has restarted it
        remote = RemoteActor(
            stream, self.attendant, self._options.heartbeat_timeout, page, Doorbell(os.dup(bell)), self.gauges
        )
        self._actors[actor] = remote
        return remote.connection

    def hear(self, actor: int, text: str) -> bool:
        """An actor has said something; whether it was for this."""
        if text == HOSTING:
            self.outbox += [(guest, KNOCK) for guest in self._members(self._plan.graph.hosts[actor])[1:]]
        elif text.startswith(ADDRESS):
            host, port = json.loads(text[len(ADDRESS) :])
            self._addresses[actor] = host, port
            self._introduce()
        else:
            return False
        return True

    def _introduce(self) -> None:
        """Once all are known that others connect to, tell those others."""
        fillers = {c.number: c.filler for c in self._plan.channels if c.remote}
        if self._introduced or not {*fillers.values()} - self._here <= self._addresses.keys():
            return
        self._introduced = True
        addresses = {channel: self.address_of(filler) for channel, filler in fillers.items()}
        for process, wiring in self._wirings.items():
            if process not in self._here and wiring.outgoing:
                for at in range(0, len(wiring.outgoing), AT_ONCE):
                    peers = {channel: addresses[channel] for channel in wiring.outgoing[at : at + AT_ONCE]}
                    self.outbox.append((process, PEERS + json.dumps(peers)))
        for process in self._here:
            for channel in wire(self._plan.channels, process).outgoing:
                self.gate.dial(addresses[channel], Purpose("edge", channel))

    def address_of(self, process: int) -> SocketAddress:
        """Where others reach a process that receives."""
        return self.gate.address if process in self._here else self._addresses[process]

    def is_connected(self) -> bool:
        """Whether all edges of this process are connected."""
        return not self._missing

    def unreachable(self, actor: int, connected: bool) -> str:
        """What may keep an actor that is late from coming in, or from others, as the end of a sentence."""
        if self.is_away(actor) and not connected:
            host, port = self.gate.address
            refused = (
                f"; the last connection that was refused came {self.gate.refused}" if self.gate.refused else ""
            )
            return f". Or its node cannot reach the driver at {host}:{port} (a firewall? see tcp_ports){refused}"
        trying = "; ".join(dict.fromkeys(self.gate.trying().values()))
        return f". Or nodes cannot reach one another (see tcp_ports){f': {trying}' if trying else ''}"

    def failure(self) -> str:
        """Why an edge of this process cannot be connected, in words; "" where there is no reason."""
        return "; ".join(words for _, words in self.gate.failures)

    def take_streams(self, wiring: Wiring) -> dict[int, Stream]:
        """The connections of a process that is this one, by channel; the caller's from here on."""
        return {n: self.streams.pop(n) for n in (*wiring.outgoing, *wiring.incoming)}

    def make_network(self) -> tuple[Network, socket.socket]:
        """A network for edges of this process, and a socket on which it is told of those that are lost."""
        network = Network(self.attendant, self._options.heartbeat_timeout)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._tellers.append(ours)
        report_losses(network, partial(send_text, ours))
        return network, theirs

    # -- later

    def refresh(self) -> None:
        """Have the control pages of actors on other hosts say what they say now, for those that answer at once."""
        now = time.monotonic()
        if now < self._again:
            return  # somebody did not answer: others are not to wait for that again and again
        answers = [actor.ask() for actor in list(self._actors.values())]
        for answer in answers:
            if not answer.wait(max(0.0, now + PATIENCE - time.monotonic())):
                self._again = time.monotonic() + AGAIN

    def begin_trace(self) -> None:
        """The pages ask for records: have actors on other hosts told, and compare clocks with theirs. Waits."""
        deadline = time.monotonic() + TRACED
        for actor in self._actors.values():
            actor.begin_trace()
        for actor in self._actors.values():
            actor.await_clock(deadline)

    def end_trace(self) -> dict[int, tuple[bytes, HostClock]]:
        """The records of actors on other hosts, and their hosts' clocks, by actor; of those that answer. Waits.

        Those of one host have one clock, so that what they do stays in order: whoever compared it best counts.
        """
        deadline = time.monotonic() + GATHERED
        for actor in self._actors.values():
            actor.ask_for_records()
        begun: dict[Host, list[Comparison]] = {}
        ended: dict[Host, list[Comparison]] = {}
        for number, actor in self._actors.items():
            host = self._plan.graph.hosts[number]
            for found, comparison in zip((begun, ended), actor.await_records(deadline), strict=True):
                if comparison is not None:
                    found.setdefault(host, []).append(comparison)
        told = {}
        for number, actor in self._actors.items():
            host = self._plan.graph.hosts[number]
            best = [min(found[host], key=lambda one: one.error) for found in (begun, ended) if host in found]
            if actor.records is not None and best:
                told[number] = actor.records, HostClock(best[0], best[-1])
        return told

    # -- the end

    def close_gate(self) -> None:
        """Let nobody in any more."""
        self.gate.close()

    def close(self) -> None:
        """Let go of everything; again is harmless."""
        self.gate.close()
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()
        for actor in self._actors.values():
            actor.close()
        for teller in self._tellers:
            teller.close()
        self.attendant.finish()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        for actor in self._actors.values():
            actor.leave_to_parent()
        for teller in self._tellers:
            teller.close()
        self.attendant.leave_to_parent()
