"""The line: the connection between the driver and an actor on another host, beside the edges.

On one host a Unix socket does this, on which a loop says that it is ready, and goodbye. So that nothing else has
to know of hosts, each process has such a socket to itself, and a `Line` joins it with the other host's over TCP:
what is said on one side is heard on the other, and where one side hangs up, so does the other. Besides, a line
carries messages of other kinds, and signs of life. The attendant does all of it, also while loops compute.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from async_adag.channels.attendant import Attendant
from async_adag.channels.stream import Stream

TEXT, PAGE, ASKED, PING, ASK, LEVELS, CLOCK, RECORDS = range(1, 9)
"""Kinds of messages: what was said on the socket; a control page; what is asked of the loop, the page's word; a
sign of life; a question, what page and channels say now; how far channels are; a question, what the time is, and
its answer; a question for records, and pieces of the answer."""

_HEAD = struct.Struct("<IB")  # bytes behind the head, kind
LIMIT = 1 << 20  # bytes of a message
_RECEIVE = 64 * 1024
_PING = _HEAD.pack(0, PING)
LINGER = 2.0  # seconds within which what was said last has to be on its way, and the other side to hang up
CLOSED = "closed by the other side"


def _ignore(*_: object) -> None:
    pass


class Line:
    """Joins ``local`` with the other end of ``stream``. Owns both.

    Attributes:
        is_over: whether one side has hung up.

    Args:
        stream: to the other process.
        local: one end of a socket pair (``SOCK_SEQPACKET``), whose other end the rest of this process has.
        attendant: looks after the line from now on.
        heartbeat: seconds of silence after which the other side is given up.
        on_message: called with kind and content of messages other than text, on the attendant's thread.
        before_text: called ahead of each text that is sent.
    """

    def __init__(
        self,
        stream: Stream,
        local: socket.socket,
        attendant: Attendant,
        heartbeat: float,
        on_message: Callable[[int, bytes], None],
        before_text: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._local = local
        self._attendant = attendant
        self._heartbeat = heartbeat
        self._on_message = on_message
        self._before_text = before_text
        self._clock = clock
        self._lock = threading.Lock()
        self._unsent = bytearray()
        self._received = bytearray()
        self._scratch = memoryview(bytearray(_RECEIVE))
        self._heard = self._spoke = clock()
        self._parting = 0.0  # when lingering ends, once this side has hung up
        self.is_over = False
        local.setblocking(False)

    def start(self) -> None:
        """Begin; the attendant may be running already."""
        self._attendant.watch(self._local.fileno(), select.EPOLLIN, self._on_local)
        self._attendant.watch(self._stream.fileno(), select.EPOLLIN, self._on_stream)
        self._attendant.every(self._heartbeat / 4, self._tick)

    def send(self, kind: int, content: bytes = b"") -> None:
        """Send a message; from any thread."""
        with self._lock:
            self._unsent += _HEAD.pack(len(content), kind) + content
            self._flush()

    # -- from here to there

    def _on_local(self, _: int) -> None:
        try:
            text = self._local.recv(LIMIT)
        except BlockingIOError:
            return
        except OSError:
            text = b""
        if text:
            self._before_text()
            self.send(TEXT, text)
            return
        self._attendant.unwatch(self._local.fileno())
        with self._lock:
            self._parting = self._clock() + LINGER
            self._flush()

    def _flush(self) -> None:
        if self.is_over:
            return
        try:
            while self._unsent or self._stream.wants_write:
                went = self._stream.send([bytes(self._unsent[:_RECEIVE])] if self._unsent else [])
                if not went:
                    break
                del self._unsent[:went]
                self._spoke = self._clock()
            stuck = bool(self._unsent) or self._stream.wants_write
        except OSError:
            self._unsent.clear()  # the reading side finds out why
            stuck = False
        if not stuck and self._parting:
            self._stream.half_close()
        events = select.EPOLLIN | (select.EPOLLOUT if stuck else 0)
        self._attendant.watch(self._stream.fileno(), events, self._on_stream)

    # -- from there to here

    def _on_stream(self, events: int) -> None:
        if events & select.EPOLLOUT:
            with self._lock:
                self._flush()
        while not self.is_over:
            try:
                count = self._stream.recv_into(self._scratch)
            except BlockingIOError:
                return
            except OSError as error:
                self._end("" if isinstance(error, ConnectionError) else f"no answer from the other side: {error}")
                return
            if not count:
                self._end("")
                return
            self._heard = self._clock()
            self._received += self._scratch[:count]
            try:
                self._take()
            except ValueError as error:
                self._end(str(error))

    def _take(self) -> None:
        received = self._received
        while len(received) >= _HEAD.size:
            size, kind = _HEAD.unpack_from(received)
            if size > LIMIT or not TEXT <= kind <= RECORDS:
                raise ValueError(f"garbage came from the other side: a message of kind {kind}, {size} bytes")
            if len(received) < _HEAD.size + size:
                return
            content = bytes(received[_HEAD.size : _HEAD.size + size])
            del received[: _HEAD.size + size]
            if kind == TEXT:
                self._say(content)
            elif kind != PING:
                self._on_message(kind, content)

    def _say(self, text: bytes) -> None:
        try:
            self._local.send(text)
        except OSError:
            pass  # this side has hung up

    def _tick(self) -> None:
        if self.is_over:
            return
        now = self._clock()
        if self._parting and now >= self._parting:
            self._end("")
        elif not self._parting and now - self._heard > self._heartbeat:
            self._end(f"silent for {self._heartbeat:g} s")
        elif now - self._spoke >= self._heartbeat / 8:
            with self._lock:
                if not self._unsent:
                    self._unsent += _PING
                    self._flush()

    def _end(self, words: str) -> None:
        """The other side is gone, for a reason in words, or it has closed the connection (``""``)."""
        with self._lock:
            if self.is_over:
                return
            self.is_over = True
        self._on_message, self._before_text = _ignore, _ignore  # whose they are need not wait for a collection
        self._attendant.unwatch(self._stream.fileno())
        if self._local.fileno() >= 0:
            self._attendant.unwatch(self._local.fileno())
            if words and not self._parting:
                self._say(words.encode())
            self._local.close()
        self._stream.close()

    def close(self) -> None:
        """Close at once; again is harmless."""
        self._end("")

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self.is_over = True
        self._local.close()
        self._stream.close_in_child()
