"""The other process of a ring test: answers every frame until it is told to stop.

Run with the address of the driver's listener; told by it what to do.
"""

from __future__ import annotations

import sys

from async_adag.actor.wiring import connect_ends, ring_spec, wire
from async_adag.channels.interface import STOP
from async_adag.channels.parking import Parking
from async_adag.channels.processes import peer_pidfd
from async_adag.channels.rendezvous import Address, connect, receive_fds, send_text
from async_adag.graph.plan import DRIVER, Channel

PEER = 0
CHANNELS = (Channel(0, DRIVER, (PEER,), ()), Channel(1, PEER, (DRIVER,), ()))
SLOTS = 16
SPECS = {channel.number: ring_spec(channel, SLOTS, 1 << 20) for channel in CHANNELS}
PATIENCE = 100.0  # seconds


def answer(value: object) -> object:
    """What comes back for a value."""
    return value + 1 if isinstance(value, int) else value


def main(name: str, token: str) -> None:
    """Meet the driver, and answer until STOP."""
    connection = connect(Address("\0" + name, bytes.fromhex(token)), PEER, PATIENCE)
    connection.settimeout(PATIENCE)
    wiring = wire(CHANNELS, PEER)
    ends = connect_ends(wiring, receive_fds(connection, wiring.count()), CHANNELS, SPECS, {})
    reader, writer = ends.readers[0], ends.writers[1]
    parking = Parking(ends.doorbell, [peer_pidfd(connection)])
    value: object = None
    while value is not STOP:
        while not reader.may_read():
            parking.wait(reader.may_read, reader.arm)
        value = reader.read()
        while not writer.may_write():
            parking.wait(writer.may_write, writer.arm)
        writer.stage(writer.encode(value if value is STOP else answer(value)))
        writer.publish()
    send_text(connection, str(parking.parked))
    ends.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
