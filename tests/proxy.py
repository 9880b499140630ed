"""A proxy between the two sides of a TCP connection, which does to it what networks do."""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass, field

PATIENCE = 100.0  # seconds; only a failing test waits


@dataclass
class Way:
    """What happens to the bytes of one direction. Bytes are counted from 0.

    Attributes:
        cut_at: both connections are closed before this byte.
        resets: whether cutting resets them, so that what is under way is lost.
        ends_at: nothing more is passed on from this byte on, and the receiver finds the end of the stream.
        flip_at: a bit of this byte is flipped: ``flip``.
        silent_at: nothing is passed on from this byte on, until `speak` is set; both connections stay open.
        piece: bytes that are passed on at once.
        delay: seconds before each piece.
        permits: where given, each piece needs one of these.
        hushed: as silent from now on, whatever has passed.
        passed: bytes that were passed on.
    """

    cut_at: int | None = None
    resets: bool = False
    ends_at: int | None = None
    flip_at: int | None = None
    flip: int = 1
    silent_at: int | None = None
    piece: int = 1 << 16
    delay: float = 0.0
    permits: threading.Semaphore | None = None
    hushed: bool = False
    passed: int = 0
    speak: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """Passes bytes on between two sockets, which become its own: ``onward`` from near to far."""

    def __init__(
        self, near: socket.socket, far: socket.socket, onward: Way | None = None, back: Way | None = None
    ) -> None:
        self.onward = onward or Way()
        self.back = back or Way()
        self._sockets = (near, far)
        self._closing = False
        self._lock = threading.Lock()
        for end in self._sockets:
            end.setblocking(True)
        self._threads = [
            threading.Thread(target=self._pass_on, args=args, daemon=True)
            for args in ((near, far, self.onward), (far, near, self.back))
        ]
        for thread in self._threads:
            thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, way: Way) -> None:
        try:
            while True:
                if way.cut_at == way.passed:
                    self._cut(way.resets)
                    return
                if way.ends_at == way.passed:
                    break
                if way.silent_at == way.passed:
                    way.speak.wait()
                    way.silent_at = None
                stops = [at - way.passed for at in (way.cut_at, way.ends_at, way.silent_at) if at is not None]
                if way.permits is not None:
                    way.permits.acquire()
                data = source.recv(min([way.piece, *(stop for stop in stops if stop > 0)]))
                if way.hushed:
                    way.speak.wait()
                if self._closing or not data:
                    break
                if way.delay:
                    time.sleep(way.delay)
                if way.flip_at is not None and 0 <= way.flip_at - way.passed < len(data):
                    at = way.flip_at - way.passed
                    data = data[:at] + bytes([data[at] ^ way.flip]) + data[at + 1 :]
                target.sendall(data)
                way.passed += len(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._cut(resets=True)

    def _cut(self, resets: bool) -> None:
        with self._lock:
            for end in self._sockets:
                if end.fileno() < 0:
                    continue
                if resets:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                try:
                    end.shutdown(socket.SHUT_RD if resets else socket.SHUT_RDWR)
                except OSError:
                    pass
                end.close()

    def cut(self) -> None:
        """Close both connections now."""
        self._cut(resets=False)

    def close(self) -> None:
        """Cut, and end the threads."""
        self._closing = True
        for way in (self.onward, self.back):
            way.silent_at = None
            way.speak.set()
            if way.permits is not None:
                way.permits.release(1000)
        self._cut(resets=False)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
