"""The landing: where the frames of another host come into a ring, and its readers' credits go back.

It stands in the process of the ring's first reader, and is the ring's writer. What it receives goes straight into
the ring's slot or block.
"""

from __future__ import annotations

import select

from async_adag.channels.codec import Failure
from async_adag.channels.connection import CLOSED, Connection, Hub
from async_adag.channels.doorbell import Doorbell
from async_adag.channels.failures import encode_failure
from async_adag.channels.ring import HOLDS, INLINE_CAPACITY, RingWriter
from async_adag.channels.stream import Stream
from async_adag.protocol.frame import FrameError, Kind
from async_adag.protocol.wire import (
    FRAME,
    HEADER_SIZE,
    PING,
    Message,
    check_frame,
    pack_credit,
    pack_release,
    unpack,
    unpack_small,
)

BUFFER = 64 * 1024
WHOLE = 4096  # a payload up to this size is waited for in the buffer
STRETCH = 1 << 20  # bytes that are received in one go before others have their turn
FAR = 256 * 1024  # bytes left of a frame, from which on the attendant sees to the rest, all of it
LOOKS = 8  # holds still in use that are looked at in one go

_REFS, _STOP = int(Kind.REFS), int(Kind.STOP)


class Landing(Connection):
    """The receiving side of a connection. Owns the ring's writing end. Made by `Network.add_landing`.

    Attributes:
        landed: frames that have come into the ring.
        credited: how many of them the other side was told that all readers have taken.
        due: how many readers have to have taken for a credit to be due.
    """

    def __init__(
        self,
        hub: Hub,
        channel: int,
        stream: Stream,
        ring: RingWriter,
        own: int | None,
        shared: bool,
        doorbell: Doorbell | None,
    ) -> None:
        super().__init__(hub, channel, stream)
        self._ring = ring
        self._own = -1 if own is None else own
        self._shared = shared
        self._doorbell = doorbell
        self._slots = ring.slots
        self._half = max(1, ring.slots // 2)
        self.landed = 0
        self.credited = 0
        self.due = self._half
        self._stopped = False
        self._buffer = memoryview(bytearray(BUFFER))
        self._begin = self._end_of = 0  # of what was received and not looked at
        self._frame: Message | None = None  # whose payload is being received
        self._room: memoryview | None = None  # where it goes; None where there was no memory
        self._no_memory: OSError | None = None
        self._filled = 0
        self._held: dict[int, int] = {}  # holds that readers have not given back, and their generations
        # Whether whoever has the loop's turn is the only reader, and finds all that has come by looking once.
        self._direct = own is not None and not shared and not stream.eager
        self._waits = False  # for other readers to take something
        self._begin_to_look(of_loop=not shared)

    # -- what comes: frames; the lock is held

    def _receive(self, ring_own: bool) -> None:
        got = -1
        if self._direct and not ring_own and self._frame is None and not self._end_of:
            got = self.stream.recv_into(self._buffer)
            if got and self._land_small(got):
                return
        try:
            self._receive_more(got, ring_own)
        finally:
            if not self.lost:
                self._choose_keeper()

    def _receive_more(self, got: int, ring_own: bool) -> None:
        """Take in ``got`` bytes that are in the buffer (-1: none were asked for), and what there is besides."""
        left, asked = STRETCH, BUFFER
        if got > 0:
            self._take_in(got, ring_own)
        while got:
            if got > 0:
                left -= got
                if (got < asked and not self.stream.eager) or (left <= 0 and not self.stream.pending()):
                    return
            if self._frame is None:
                got, asked = self._receive_messages(ring_own)
            else:
                got, asked = self._receive_payload(self._frame, ring_own)
        self._on_end()

    def _land_small(self, got: int) -> bool:
        """Land what has come, if that is one small frame: most often it is."""
        buffer, landed = self._buffer, self.landed
        room = self.credited + self._slots - landed
        small = unpack_small(buffer, got, landed, INLINE_CAPACITY)
        if small is None or room <= 0:
            return False
        self._heard = self._hub.clock()
        kind, size = small
        self._ring.hand_over(kind, buffer[HEADER_SIZE:got], size)
        self.landed = landed + 1
        if room == 1:  # the sender has no credit left
            self._pay_what_is_due()
        return True

    def _receive_messages(self, ring_own: bool) -> tuple[int, int]:
        buffer = self._buffer
        if self._begin:
            rest = self._end_of - self._begin
            buffer[:rest] = bytes(buffer[self._begin : self._end_of])
            self._begin, self._end_of = 0, rest
        asked = BUFFER - self._end_of
        got = self.stream.recv_into(buffer[self._end_of :])
        if got:
            self._take_in(got, ring_own)
        return got, asked

    def _take_in(self, got: int, ring_own: bool) -> None:
        """So many bytes more are in the buffer."""
        self._heard = self._hub.clock()
        self._end_of += got
        self._parse(ring_own)
        if self._begin == self._end_of:
            self._begin = self._end_of = 0

    def _parse(self, ring_own: bool) -> None:
        buffer, end = self._buffer, self._end_of
        while end - self._begin >= HEADER_SIZE:
            message = unpack(buffer, self._begin)
            if message.what == PING:
                self._begin += HEADER_SIZE
                continue
            if message.what != FRAME:
                raise FrameError(f"a message {message.what} where frames come")
            payload = self._begin + HEADER_SIZE
            there = min(end - payload, message.length)
            if there < message.length <= WHOLE:
                return
            check_frame(message, self.landed, self.credited, self._slots, HOLDS)
            if not self._ring.may_write():
                raise FrameError(f"no slot is free for execution {message.seq}")
            self._begin = payload + there
            if not message.buffers and message.kind != _REFS and message.length <= INLINE_CAPACITY:
                self._ring.stage((message.kind, bytes(buffer[payload : self._begin]), []))
                self._publish(message, ring_own)
                continue
            self._make_room(message.length)
            if self._room is not None:
                self._room[:there] = buffer[payload : self._begin]
            if there == message.length:
                self._land(message, ring_own)
            else:
                self._frame, self._filled = message, there
                return

    def _receive_payload(self, frame: Message, ring_own: bool) -> tuple[int, int]:
        asked = min(frame.length - self._filled, STRETCH)
        if self._room is not None:
            got = self.stream.recv_into(self._room[self._filled : self._filled + asked])
        else:
            asked = min(asked, BUFFER)
            got = self.stream.recv_into(self._buffer[:asked])
        if got:
            self._heard = self._hub.clock()
            self._filled += got
            if self._filled == frame.length:
                self._frame = None
                self._land(frame, ring_own)
        return got, asked

    def _make_room(self, length: int) -> None:
        self._no_memory = None
        try:
            self._room = self._ring.room(length)
        except OSError as error:
            self._room, self._no_memory = None, error

    def _land(self, frame: Message, ring_own: bool) -> None:
        room, self._room = self._room, None
        if room is None:
            self._land_failure(frame)
        else:
            self._ring.describe(frame.kind, frame.buffers, frame.body, frame.length, frame.hold, frame.held)
            if frame.held:
                self._held[frame.hold] = frame.held
        self._publish(frame, ring_own)

    def _land_failure(self, frame: Message) -> None:
        # In the frame's place, so that one execution fails. Small: there may be no memory for more than a slot.
        error, self._no_memory = self._no_memory, None
        assert error is not None
        failure = OSError(error.errno, str(error.strerror).encode("ascii", "replace").decode()[:200])
        self._ring.stage(self._ring.encode(Failure(encode_failure(failure, "receiving the frame"))))
        if frame.held:
            self._send_release(frame.hold, frame.held)

    def _publish(self, frame: Message, ring_own: bool) -> None:
        self._stopped = frame.kind == _STOP
        if ring_own:
            self._ring.publish()
        else:
            self._ring.publish_past(self._own)
        self.landed += 1
        if self._is_short():
            self._pay_what_is_due()

    def _choose_keeper(self) -> None:
        """Who looks after what comes next: the loop, or the attendant while a large frame is half there."""
        frame = self._frame
        far = frame is not None and (not self.of_loop or frame.length - self._filled > FAR)
        of_loop = not (self._shared or self._stopped or far)
        if of_loop is self.of_loop or self._ended:
            return
        if of_loop:
            self._ask(self._asked & ~select.EPOLLIN)
            self._hub.look_after(self)
        else:
            self._hub.look_away(self)
            self._ask(self._asked | select.EPOLLIN)

    def _on_end(self) -> None:
        if self._frame is not None or self._begin < self._end_of:
            self._lose("closed in the midst of a frame")
        elif self._stopped:
            self._end()
            self._ask(0)
            self._mute = True
            self.stream.close()
        else:
            self._lose(CLOSED)

    # -- what goes back: credits, and holds that were given back

    def pay(self) -> None:
        """This process's reader has taken a frame, and `due` is reached."""
        with self.lock:
            if not self._closing and not self.lost:
                self._pay_what_is_due()

    def look(self) -> None:
        """See to what other readers have taken and given back, where only the attendant looks at what comes."""
        if self._ring.taken() != self.credited or self._held:
            with self.lock:
                if not self._closing:
                    self._do_chores()

    def _pay_what_is_due(self) -> None:
        self._pay()
        while self._shared:
            short = self._is_short()
            if short is not self._waits:
                self._wait_for_takes(short)
            if not short or not self._ring.arm():
                break
            self._pay()  # other readers have taken something meanwhile

    def _pay(self) -> None:
        owed = self._ring.taken() - self.credited
        if owed >= self._half or (owed > 0 and self._is_short()):
            self.credited += owed
            message = pack_credit(self.credited)
            self._send([message], len(message))
        self.due = self.credited + (1 if self._is_short() else self._half)

    def _is_short(self) -> bool:
        """Whether the sender has no credit left."""
        return self.landed - self.credited >= self._slots

    def _wait_for_takes(self, waits: bool) -> None:
        """While the sender has no credit left, listen for other readers, who ring when they have taken a frame."""
        self._waits = waits
        if self._doorbell is not None:
            (self._hub.heed_bell if waits else self._hub.ignore_bell)(self, self._doorbell)

    def on_bell(self) -> None:
        """Another reader has taken something, of this landing or of another."""
        with self.lock:
            if not self._closing and not self.lost:
                self._pay_what_is_due()

    def _do_chores(self) -> None:
        if self._shared and not self._ended:
            self._pay_what_is_due()
        if self._held and not self._ended:
            self._look_at_holds()

    def _look_at_holds(self, still_in_use: int = LOOKS) -> None:
        """Tell the writer of holds that were given back; ends at so many that were not, as a look takes time."""
        told = []
        in_use = 0
        for hold, held in list(self._held.items()):
            if self._ring.has_given_back(hold, held):
                told.append(pack_release(hold, held))
                del self._held[hold]
                continue
            self._held[hold] = self._held.pop(hold)  # behind the others
            in_use += 1
            if in_use == still_in_use:
                break
        if told:
            self._send(told, sum(map(len, told)))

    def _give_back_the_rest(self) -> None:
        self._look_at_holds(len(self._held))
        in_use = set(self._held)
        self._turn(ring_own=False)
        if not self._shared:
            for hold in self._held.keys() - in_use:  # has come behind the last that was read
                self._send_release(hold, self._held[hold])

    def _send_release(self, hold: int, held: int) -> None:
        message = pack_release(hold, held)
        self._send([message], len(message))

    # -- the end

    def _lose(self, words: str) -> None:
        super()._lose(words)
        self._frame = self._room = None
        self._ring.unstage()

    def close(self) -> None:
        """Let go of the connection and of the ring's writing end; again is harmless.

        What readers gave back is told first, and what nobody has read; this process's reader has been closed.
        """
        with self.lock:
            if not self._closing and not self.lost:
                self._give_back_the_rest()
        self.shut()
        with self.lock:
            self._room = None
            if self._waits:
                self._wait_for_takes(False)
            self._ring.close()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        super().leave_to_parent()
        self._room = None
        self._ring.leave_to_parent()
