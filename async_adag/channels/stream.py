"""The stream: bytes over a connected TCP socket, without waiting for them, plain or through TLS."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

IOV_MAX = 1024
_TLS_RECORD = 16 * 1024
_NO_WAIT = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)

Bytes = Any
"""Anything with a contiguous buffer of bytes: bytes, or a memoryview of format "B"."""


def prepare(connection: socket.socket, heartbeat: float) -> None:
    """Set what every connection of an edge has: no delay for small writes, and an end when nobody answers.

    Args:
        connection: of TCP.
        heartbeat: seconds without a sign of life after which the other side is given up.
    """
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = max(1, round(heartbeat / 4))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(heartbeat * 1000)))


class Stream:
    """A connected socket that never blocks. Owns it. One thread at a time.

    Attributes:
        eager: whether more may be there though `recv_into` gave less than was asked for.
        wants_write: whether something that was taken for sending has to be sent by a further call of `send`.
    """

    eager = False
    wants_write = False

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._socket.fileno()

    def peer(self) -> str:
        """The other side's address, in words."""
        try:
            host, port = self._socket.getpeername()[:2]
        except OSError:
            return "an address that is gone"
        return f"{host}:{port}"

    def send(self, buffers: Sequence[Bytes]) -> int:
        """Send as much of the buffers as goes now; how many bytes that was.

        Raises:
            OSError: the connection cannot send any more.
        """
        try:
            if len(buffers) == 1:
                return self._socket.send(buffers[0], _NO_WAIT)
            return self._socket.sendmsg(buffers[:IOV_MAX], (), _NO_WAIT)
        except BlockingIOError:
            return 0

    def recv_into(self, view: memoryview) -> int:
        """Receive what is there, at most as much as ``view`` takes; 0 when the other side sends no more.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the connection is broken.
        """
        return self._socket.recv_into(view)

    def pending(self) -> bool:
        """Whether something was received that the descriptor does not show."""
        return False

    def half_close(self) -> None:
        """Send no more: the other side finds the end behind what was sent. Harmless when it is gone."""
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_WR)  # that of TLS would have it forget its keys
        except OSError:
            pass

    def abort(self) -> None:
        """Send and receive no more, at once; the descriptor stays."""
        try:
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Close the socket; again is harmless."""
        self._socket.close()

    def close_in_child(self) -> None:
        """Close the descriptor in a forked child; the connection is the parent's, and stays."""
        fd = self._socket.detach()
        if fd >= 0:
            os.close(fd)


class TlsStream(Stream):
    """Through TLS, whose handshake is done."""

    eager = True
    _socket: ssl.SSLSocket

    def __init__(self, connection: ssl.SSLSocket) -> None:
        super().__init__(connection)
        self._record: Bytes = b""  # begun: the rest of it has to be offered again before anything else

    def send(self, buffers: Sequence[Bytes]) -> int:
        """See `Stream.send`. What is taken may lie here until the next call."""
        sent = 0
        try:
            self._push()
            for record in _records(buffers):
                self._record = record
                sent += len(record)
                self._push()
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._record = bytes(self._record)  # its owner may change it now
        self.wants_write = bool(self._record)
        return sent

    def _push(self) -> None:
        while self._record:
            self._record = self._record[self._socket.send(self._record) :]

    def recv_into(self, view: memoryview) -> int:
        """See `Stream.recv_into`."""
        try:
            return self._socket.recv_into(view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLEOFError:
            return 0

    def pending(self) -> bool:
        """See `Stream.pending`."""
        return self._socket.pending() > 0


def _records(buffers: Sequence[Bytes]) -> Iterator[Bytes]:
    """The buffers in pieces of at most a TLS record; small ones that follow one another share one."""
    small: list[Bytes] = []
    size = 0
    for buffer in buffers:
        if len(buffer) + size > _TLS_RECORD and small:
            yield b"".join(small)
            small, size = [], 0
        if len(buffer) < _TLS_RECORD:
            small.append(buffer)
            size += len(buffer)
            continue
        view = memoryview(buffer)
        for at in range(0, len(view), _TLS_RECORD):
            yield view[at : at + _TLS_RECORD]
    if small:
        yield b"".join(small)
