"""The connection of an edge: what is to be sent on it, what has come, and whether the other side still lives.

Two threads look after it: the loop of its process, when it waits, and the attendant, when there is more to do than
the loop has time for. One lock keeps them apart, which nobody holds for longer than it takes to copy a frame.

What the kernel does not take at once is copied, so that its owner may go on and change it, and the attendant sends
it. A network that is as fast as that copy gets a large frame without it: so long is waited for the kernel.
"""

from __future__ import annotations

import errno
import math
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from async_adag.channels.attendant import Attendant
from async_adag.channels.backlog import CHUNK, Backlog, Chunks
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.limits import explain
from async_adag.channels.stream import Bytes, Stream
from async_adag.protocol.frame import ChannelError
from async_adag.protocol.wire import PING_BYTES

LINGER = 2.0  # seconds in which what was sent has to arrive after closing
FAST = 4e9  # bytes that are copied in a second, about
WAIT_FROM = 256 * 1024  # bytes left of a frame, from which on waiting for the kernel may be worth it
CLOSED = "closed by the other side"
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_HUNG_UP = getattr(select, "EPOLLRDHUP", 0)


class Hub(Protocol):
    """What a connection needs of the network that it is part of."""

    attendant: Attendant
    heartbeat: float
    chunks: Chunks
    clock: Callable[[], float]

    def look_after(self, connection: Connection) -> None:
        """Have the loop look after it, from now on."""

    def look_away(self, connection: Connection) -> None:
        """Have the loop leave it alone, from now on."""

    def heed_bell(self, connection: Connection, doorbell: Doorbell) -> None:
        """Call its `Connection.on_bell` when this doorbell rings, from now on."""

    def ignore_bell(self, connection: Connection, doorbell: Doorbell) -> None:
        """Do so no longer."""

    def on_loss(self, connection: Connection) -> None:
        """It is of no use any more, as its ``lost`` says."""


class Connection:
    """One side of an edge's connection. Owns ``stream``.

    Attributes:
        channel: the channel's number.
        lost: why it is of no use any more; "" while all is well.
        of_loop: whether the loop looks after what comes; the hub's to set.
    """

    def __init__(self, hub: Hub, channel: int, stream: Stream) -> None:
        self.channel = channel
        self.stream = stream
        self.lost = ""
        self.of_loop = False
        self.lock = threading.Lock()
        self._hub = hub
        self._backlog = Backlog(hub.chunks)
        # The other side may meet others still, for as long as whoever compiles allows it. Where nothing
        # gets there, the kernel finds that nothing of this side's is acknowledged.
        self._heard = math.inf
        self._spoke = hub.clock()
        self._mute = False  # nothing can be sent any more
        self._ended = False  # nothing will come any more
        self._told = False  # that it was lost
        self._closing = False
        self._closed = False
        self._until = 0.0  # when lingering ends
        self._asked = 0  # the events that the attendant watches

    def _begin_to_look(self, of_loop: bool) -> None:
        """Look at what comes; last thing when it is made, as others may from now on."""
        with self.lock:
            self._ask(_HUNG_UP if of_loop else _HUNG_UP | _IN)  # an end is noticed at once, whatever the loop does
            if of_loop:
                self._hub.look_after(self)

    # -- what its owner does

    def turn(self, ring_own: bool) -> bool:
        """Take in what has come, and do what is due; whether something has come. Never blocks."""
        with self.lock:
            came = self._turn(ring_own)
        if self.lost:
            self._tell()
        return came

    def can_wait(self) -> bool:
        """Whether a turn of it can wait until nothing has come on others."""
        return False

    def _turn(self, ring_own: bool) -> bool:
        if self._closing or self._ended or self.lost:
            return False
        came = False
        try:
            self._receive(ring_own)
            came = True
            self._do_chores()
        except BlockingIOError:
            self._do_chores()
        except ChannelError as error:
            self._lose(f"garbage: {error}")
        except OSError as error:
            self._lose(self._in_words(error))
        return came

    def _receive(self, ring_own: bool) -> None:
        """Take in what has come; the lock is held. May raise BlockingIOError when nothing is there."""
        raise NotImplementedError

    def _do_chores(self) -> None:
        """What is due besides; the lock is held."""

    # -- sending; the lock is held

    def _send(self, parts: list[Bytes], size: int) -> None:
        """Send ``parts``, of ``size`` bytes together; what the kernel does not take is copied, and sent later."""
        if self._mute:
            return
        try:
            if not self._backlog.size:
                went = self.stream.send(parts)
                if went:
                    self._spoke = self._hub.clock()
                if went == size:
                    if self.stream.wants_write:
                        self._ask(self._asked | _OUT)
                    return
                self._send_rest(deque(parts), size, went)
            else:
                self._send_rest(deque(parts), size, 0)
        except OSError as error:
            self._cannot_send(error)
        except MemoryError:  # a part of a frame may have gone out, and the rest never will
            self._cannot_send(OSError(errno.ENOMEM, "no memory for what is still to be sent"))

    def _send_rest(self, parts: deque[Bytes], size: int, went: int) -> None:
        # Copied by the chunk, and sent as it goes: the connection is never idle meanwhile.
        backlog = self._backlog
        left = size - went
        _drop(parts, went)
        if left >= WAIT_FROM and not backlog:
            left = self._send_while_fast(parts, left)
        while left:
            room = CHUNK
            while parts and room > 0:
                part = parts.popleft()
                end = backlog.put(part, 0)
                if end < len(part):
                    parts.appendleft(memoryview(part)[end:])
                room -= end
                left -= end
            self._flush()
            while left and not backlog:
                went = self.stream.send(list(parts))
                if not went:
                    break
                left -= went
                _drop(parts, went)
        if self._is_stuck():
            self._ask(self._asked | _OUT)

    def _send_while_fast(self, parts: deque[Bytes], left: int) -> int:
        """Send for about as long as copying would take; how many bytes are left then."""
        now = time.perf_counter()
        deadline = now + left / FAST
        poll = select.poll()
        poll.register(self.stream.fileno(), select.POLLOUT)
        while left and now < deadline and poll.poll((deadline - now) * 1000):
            went = self.stream.send(list(parts))
            left -= went
            _drop(parts, went)
            now = time.perf_counter()
        self._spoke = self._hub.clock()
        return left

    def _is_stuck(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._backlog) or self.stream.wants_write

    def _flush(self) -> None:
        went = self.stream.send(self._backlog.pieces())
        if went:
            self._spoke = self._hub.clock()
            self._backlog.sent(went)

    def _cannot_send(self, error: OSError) -> None:
        self._mute = True
        self._backlog.clear()
        if self._asked & _OUT:
            self._ask(self._asked & ~_OUT)

    # -- what the attendant does

    def _ask(self, events: int) -> None:
        """Have the attendant watch for these."""
        if events == self._asked:
            return
        self._asked = events
        if events:
            self._hub.attendant.watch(self.stream.fileno(), events, self.attend)
        else:
            self._hub.attendant.unwatch(self.stream.fileno())

    def attend(self, events: int) -> None:
        """What the attendant does when something is there."""
        with self.lock:
            if self._closed:
                return
            if events & (_OUT | select.EPOLLERR | select.EPOLLHUP) and self._is_stuck():
                try:
                    self._flush()
                except OSError as error:
                    self._cannot_send(error)
            if not self._is_stuck() and self._asked & _OUT:
                self._ask(self._asked & ~_OUT)
            if self._closing:
                self._linger()
            elif events & ~_OUT:
                self._turn(ring_own=True)
        if self.lost:
            self._tell()

    def on_bell(self) -> None:
        """What the attendant does when a doorbell has rung that the hub was asked to heed."""

    def tick(self) -> None:
        """What the attendant does every quarter of a heartbeat: hear and give signs of life."""
        # Waits for whoever is at it: a loop that is at it again and again would have it never give a sign of life.
        with self.lock:
            if self._closing:
                if not self._closed:
                    self._linger()
                return
            self._turn(ring_own=True)
            if self.lost or self._ended:
                return
            heartbeat, now = self._hub.heartbeat, self._hub.clock()
            if now - self._heard > heartbeat:
                self._lose(f"silent for {heartbeat:g} s")
            elif now - self._spoke >= heartbeat / 8 and not self._is_stuck():
                self._send([PING_BYTES], len(PING_BYTES))
        if self.lost:
            self._tell()

    # -- the end

    def _in_words(self, error: OSError) -> str:
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            return CLOSED
        if error.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH):
            return f"no answer from the other side: {error.strerror}"
        return explain(error)

    def _lose(self, words: str) -> None:
        if not self.lost:
            self.lost = words
            self._mute = self._ended = True
            self._backlog.clear()

    def _tell(self) -> None:
        """Tell of the loss, once; without the lock."""
        with self.lock:
            told, self._told = self._told, True
            if told or self._closing:
                return
            self._hub.look_away(self)
            self._ask(0)
            self.stream.abort()
        self._hub.on_loss(self)

    def _end(self) -> None:
        """The other side sends no more, as it should."""
        self._ended = True
        self._hub.look_away(self)
        self._ask(self._asked & _OUT)

    def events(self) -> int:
        """What it waits for while it lingers, as events of `select.poll`."""
        return select.POLLIN | (select.POLLOUT if self._is_stuck() else 0)

    def close(self) -> None:
        """Let go; again is harmless."""
        raise NotImplementedError

    def shut(self) -> None:
        """Close at once."""
        with self.lock:
            self._shut()

    def _shut(self) -> None:
        if not self._closed:
            self._closing = self._closed = self._mute = self._ended = True
            self._hub.look_away(self)
            self._ask(0)
            self._backlog.clear()
            self.stream.close()

    def linger(self) -> None:
        """Close when all that was sent has arrived, or `LINGER` seconds have passed."""
        with self.lock:
            if self._closing:
                return
            self._closing = True
            self._until = self._hub.clock() + LINGER
            self._hub.look_away(self)
            self._linger()
            if not self._closed:
                self._ask(self._asked | _IN)

    def _linger(self) -> None:
        # Closing with unread bytes there would reset the connection, and destroy what is still on its way. So the
        # other side is to close first: it does when it has read to the end.
        if self.lost or self._mute or self._hub.clock() >= self._until:
            self._shut()
            return
        if self._is_stuck():
            return
        self.stream.half_close()
        scratch = memoryview(bytearray(4096))
        try:
            while self.stream.recv_into(scratch):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        self._shut()

    def is_closed(self) -> bool:
        """Whether nothing of it is left."""
        return self._closed

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self.lock = threading.Lock()
        self._closing = self._closed = self._mute = self._ended = True
        self.stream.close_in_child()


def _drop(parts: deque[Bytes], count: int) -> None:
    """Take the first ``count`` bytes away."""
    while count:
        part = parts.popleft()
        if count < len(part):
            parts.appendleft(memoryview(part)[count:])
            return
        count -= len(part)
