"""The other process of a TCP test: answers every frame until it is told to stop.

Run with the port of the test's gate, and the secret. It dials two edges: 0, on which it reads, and 1, on which it
writes.
"""

from __future__ import annotations

import sys

from async_adag.channels.interface import STOP
from tests.tcp import Ends, dial


def main(port: str, secret: str) -> None:
    """Meet the test, and answer until STOP."""
    streams = dial(("127.0.0.1", int(port)), bytes.fromhex(secret), (0, 1))
    ends = Ends(sending=(1, streams[1]), receiving=(0, streams[0]))
    while True:
        value = ends.read()
        if value is STOP:
            break
        ends.write(value + 1 if isinstance(value, int) else value)
    ends.write(STOP)
    ends.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
