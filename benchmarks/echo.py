"""The other process of a peer (peers.py): sends back whatever it gets, until it is killed."""

from __future__ import annotations

import sys


def echo_by_pipe(fd: int) -> None:
    from multiprocessing.connection import Connection

    connection = Connection(fd)
    while True:
        connection.send(connection.recv())


def echo_by_zmq(address: str) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.REP)
    socket.bind(address)
    while True:
        socket.send_pyobj(socket.recv_pyobj())


if __name__ == "__main__":
    kind, where = sys.argv[1:]
    if kind == "pipe":
        echo_by_pipe(int(where))
    else:
        echo_by_zmq(where)
