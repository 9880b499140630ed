"""Reach: how a process of a graph finds those on other hosts that it has edges with.

Whoever is to receive listens, whoever writes connects. The driver is told of all addresses, and tells each process
those that it needs; before that nobody connects, and when all is connected nobody listens any more.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import time
from dataclasses import dataclass, field

from async_adag.actor.wiring import Wiring
from async_adag.channels.gate import Gate
from async_adag.channels.rendezvous import HungUp, receive_text, send_text
from async_adag.channels.stream import Stream
from async_adag.channels.tls import ray_tls
from async_adag.protocol.handshake import Purpose

ADDRESS = "address "
"""How the text begins in which a process tells where it listens."""
PEERS = "peers "
"""How the text begins in which the driver tells where others do, by channel."""

REFUSED = 0.5  # seconds after which who refuses has given up
STEP = 0.1  # seconds after which a gate is to be looked at again, news or not

SocketAddress = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a process needs to meet others on other hosts. Secret: it travels through Ray's own calls only.

    Attributes:
        host: the address of its own node, which it binds to.
        ports: those it may listen on, the first and the last; None for any.
        secret: of the graph, by which its processes know one another.
        heartbeat: seconds of silence after which a connection is given up.
        driver: where the driver listens, for those on other hosts than its own.
    """

    host: str
    ports: tuple[int, int] | None
    secret: bytes = field(repr=False)
    heartbeat: float
    driver: SocketAddress | None = None

    def open_gate(self) -> Gate:
        """Where this process's connections come in and go out.

        Raises:
            OSError: no port is free, or the node's address cannot be bound to.
        """
        return Gate(self.host, self.ports, self.secret, self.heartbeat, ray_tls())


def reach_driver(gate: Gate, reach: Reach, number: int, deadline: float) -> Stream:
    """Connect to the driver, as actor ``number``.

    Raises:
        HungUp: it cannot be reached before the deadline (`time.monotonic`), or refuses for a while: it listens
            before it calls an actor, and no longer when it has given up.
    """
    assert reach.driver is not None
    purpose = Purpose("control", number)
    gate.dial(reach.driver, purpose)
    refused = 0.0
    while time.monotonic() < deadline:
        for _, stream in gate.step(STEP):
            return stream
        if os.strerror(errno.ECONNREFUSED) not in gate.trying().get(purpose, ""):
            refused = 0.0
        elif not refused:
            refused = time.monotonic()
        elif time.monotonic() - refused > REFUSED:
            raise HungUp(f"the graph's driver no longer listens at {_at(reach.driver)}")
        if gate.failures:
            raise HungUp(f"the graph's driver cannot be reached at {_at(reach.driver)}: {gate.failures[0][1]}")
    raise HungUp(f"the graph's driver cannot be reached at {_at(reach.driver)} in time")


def meet_edges(gate: Gate, wiring: Wiring, connection: socket.socket, deadline: float) -> dict[int, Stream]:
    """Tell the driver where this process listens, and connect with the other ends of its edges.

    Args:
        gate: of this process.
        wiring: of this process.
        connection: to the driver, which does not block.
        deadline: `time.monotonic`.

    Returns:
        The connections, by channel.

    Raises:
        HungUp: the driver has hung up, or others did not connect before the deadline.
    """
    send_text(connection, ADDRESS + json.dumps(gate.address))
    missing = {*wiring.outgoing, *wiring.incoming}
    met: dict[int, Stream] = {}
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(gate, select.POLLIN)
    try:
        while missing:
            left = deadline - time.monotonic()
            if left <= 0 or gate.failures:
                words = "; ".join(words for _, words in gate.failures) or "not all connected in time"
                raise HungUp(f"edges to other hosts: {words}")
            ready = {fd for fd, _ in poll.poll(min(left, STEP) * 1000)}
            if connection.fileno() in ready:
                for channel, address in _peers(connection).items():
                    gate.dial(address, Purpose("edge", channel))
            for purpose, stream in gate.step():
                if purpose.role != "edge" or purpose.number not in (missing | met.keys()):
                    stream.close()
                    continue
                if purpose.number in met:  # it was lost as it came through, and made again
                    met[purpose.number].close()
                missing.discard(purpose.number)
                met[purpose.number] = stream
    except BaseException:
        for stream in met.values():
            stream.close()
        raise
    return met


def _peers(connection: socket.socket) -> dict[int, SocketAddress]:
    text = receive_text(connection)
    if text is None:
        return {}
    if not text.startswith(PEERS):
        raise HungUp(text or "the graph's driver hung up")
    return {int(channel): (host, port) for channel, (host, port) in json.loads(text[len(PEERS) :]).items()}


def _at(address: SocketAddress) -> str:
    return f"{address[0]}:{address[1]}"
