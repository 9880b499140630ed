"""Edges whose tensors do not travel in frames: a channel, which carries the rest and the headers, and a mover.

For each execution the writer announces the tensors to its mover and publishes the frame, then the mover sends
them, to one reader after another; a reader takes the frame, then receives them. A frame that announces none (a
failure, the word that nothing more will come, a value without tensors) is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from async_adag.actor.control import LoopState
from async_adag.actor.records import Lanes
from async_adag.actor.staged import Fetcher, Placer, StagedReader, StagedWriter
from async_adag.actor.wiring import Endpoints
from async_adag.channels.codec import Encoded
from async_adag.channels.interface import Failure, Reader, Writer
from async_adag.channels.layouts import Known, Told
from async_adag.channels.tensor_headers import Header
from async_adag.channels.tensors import Parcel, take_out
from async_adag.graph.plan import Move
from async_adag.protocol.frame import ChannelError

Apart = Callable[[LoopState], AbstractContextManager[Any]]
"""What the loop does around a mover's work, during which it may wait for other actors."""


class Sender(Protocol):
    """Moves the tensors of one edge, at its writer.

    Attributes:
        on_gpu: whether it moves only tensors that are on a GPU.
        may_wait: whether `send` may wait for the readers.
    """

    on_gpu: bool
    may_wait: bool

    def announce(self, tensors: Sequence[Any]) -> Any:
        """Before the frame is published; what it returns goes with the frame, to `receive`.

        Args:
            tensors: those of the next execution, contiguous and none of them empty.

        Raises:
            ChannelError: the edge cannot go on.
        """

    def check(self) -> None:
        """A method has failed: see whether the edge goes on.

        Raises:
            ChannelError: it cannot, so that what was sent before may never arrive.
        """

    def withdraw(self) -> None:
        """The frame of what was announced last is not published after all."""

    def send(self, tensors: Sequence[Any]) -> None:
        """Send what was announced last to every reader, in the order of the readers.

        Raises:
            ChannelError: the edge cannot go on.
        """

    def close(self) -> None:
        """Let go of what belongs to the edge; again is harmless."""


class Receiver(Protocol):
    """Moves the tensors of one edge, at one of its readers.

    Attributes:
        may_wait: whether `receive` may wait for the writer.
    """

    may_wait: bool

    def receive(self, headers: Sequence[Header], note: Any) -> list[Any]:
        """Receive what the writer sends; the headers describe it, none of it empty, and ``note`` is what it said.

        Raises:
            ChannelError: the edge cannot go on.
        """

    def close(self) -> None:
        """Let go of what belongs to the edge; again is harmless."""


@dataclass(slots=True)
class Movers:
    """What moves the tensors of an actor's channels, by channel, or brings them elsewhere on the way.

    Attributes:
        senders: at the channels' writers.
        receivers: at readers.
        fetchers: at writers whose tensors come to the CPU's memory.
        placers: at readers whose tensors come to a GPU.
        checks: for `check_peers`.
        lanes: what records the work of the actor's GPU, if it has edges there.
    """

    senders: dict[int, Sender] = field(default_factory=dict)
    receivers: dict[int, Receiver] = field(default_factory=dict)
    fetchers: dict[int, Fetcher] = field(default_factory=dict)
    placers: dict[int, Placer] = field(default_factory=dict)
    checks: list[Callable[[], None]] = field(default_factory=list)
    lanes: Lanes | None = None

    def check_peers(self) -> None:
        """Have streams go on that wait for processes that have ended; from any thread, also after `close`."""
        for check in [*self.checks]:
            check()

    def close(self) -> None:
        """Close each."""
        for receiver in self.receivers.values():
            receiver.close()
        for sender in self.senders.values():
            sender.close()
        for fetcher in self.fetchers.values():
            fetcher.close()
        for placer in self.placers.values():
            placer.close()


class ByCommunicator:
    """A communicator of the user's as a mover, at either end."""

    on_gpu = False
    may_wait = True

    def __init__(self, move: Move) -> None:
        self._communicator = move.communicator
        self._peers = move.peers
        self._edge = move.edge

    def announce(self, tensors: Sequence[Any]) -> Any:
        """See `Sender`: the headers say it all."""

    def check(self) -> None:
        """See `Sender`: it says so when it is used."""

    def withdraw(self) -> None:
        """See `Sender`."""

    def close(self) -> None:
        """See `Sender`: the communicator is the actor's, and may carry other edges."""

    def send(self, tensors: Sequence[Any]) -> None:
        """See `Sender`."""
        for peer in self._peers:
            for tensor in tensors:
                try:
                    self._communicator.send(tensor, peer)
                except Exception as error:
                    raise self._broken("send", error) from error

    def receive(self, headers: Sequence[Header], note: Any) -> list[Any]:  # noqa: ARG002
        """See `Receiver`."""
        return [self._receive(header, *self._peers) for header in headers]

    def _receive(self, header: Header, peer: int) -> Any:
        try:
            tensor = self._communicator.recv(header.shape, header.type_here(), peer, header.allocate)
            mismatch = header.mismatch(tensor)
        except Exception as error:
            raise self._broken("recv", error) from error
        if mismatch:
            raise ChannelError(f"{self._edge}: {type(self._communicator).__name__}.recv gave {mismatch}")
        return tensor

    def _broken(self, method: str, error: Exception) -> ChannelError:
        name = type(self._communicator).__name__
        return ChannelError(f"{self._edge}: {name}.{method} raised {type(error).__name__}: {error}")


class _Laden(NamedTuple):
    """In place of a frame's body: the body, and the tensors that go with the frame."""

    body: Any
    tensors: list[Any]


class MovedWriter:
    """The writing end: see `interface.Writer`. Owns the channel's."""

    def __init__(self, writer: Writer, mover: Sender, apart: Apart) -> None:
        self._writer = writer
        self._mover = mover
        self._apart = apart
        self._told = Told()
        self._staged: list[Any] = []
        self.may_write = writer.may_write
        self.call_up = writer.call_up

    @property
    def bytes(self) -> int:
        """Of frames: tensors are not counted."""
        return self._writer.bytes

    def encode(self, value: Any) -> Encoded:
        """See `interface.Writer`."""
        if type(value) is Failure:
            self._mover.check()
        parcel, tensors = take_out(value, on_gpu=self._mover.on_gpu)
        tensors = [tensor for tensor in tensors if 0 not in tensor.shape]
        if tensors:
            parcel = parcel._replace(note=self._mover.announce(tensors))
        if type(parcel) is Parcel:
            parcel = self._told.shorten(parcel)
        try:
            kind, body, buffers = self._writer.encode(parcel)
        except BaseException:
            self._withdraw(tensors)
            raise
        return kind, _Laden(body, tensors), buffers

    def stage(self, encoded: Encoded) -> None:
        """See `interface.Writer`."""
        kind, (body, tensors), buffers = encoded
        self._staged = tensors  # first: if there is no room for the frame, they are withdrawn
        self._writer.stage((kind, body, buffers))

    def unstage(self) -> None:
        """See `interface.Writer`."""
        self._withdraw(self._staged)
        self._staged = []
        self._writer.unstage()

    def _withdraw(self, tensors: list[Any]) -> None:
        self._told.withdrawn()
        if tensors:
            self._mover.withdraw()

    def publish(self) -> None:
        """See `interface.Writer`."""
        tensors, self._staged = self._staged, []
        self._writer.publish()
        self._told.published()
        if tensors and self._mover.may_wait:
            with self._apart(LoopState.SENDING):
                self._mover.send(tensors)
        elif tensors:
            self._mover.send(tensors)

    def arm(self) -> bool:
        """See `interface.Writer`."""
        return self._writer.arm()

    def close(self) -> None:
        """See `interface.Writer`."""
        self._staged = []
        self._mover.close()
        self._writer.close()

    def leave_to_parent(self) -> None:
        """See `interface.Writer`."""
        self._staged = []
        self._writer.leave_to_parent()


class MovedReader:
    """A reading end: see `interface.Reader`. Owns the channel's."""

    def __init__(self, reader: Reader, mover: Receiver, edge: str, apart: Apart) -> None:
        self._reader = reader
        self._mover = mover
        self._edge = edge
        self._apart = apart
        self._known = Known()
        self.may_read = reader.may_read

    @property
    def bytes(self) -> int:
        """Of frames: tensors are not counted."""
        return self._reader.bytes

    def read(self) -> Any:
        """See `interface.Reader`."""
        value, tensors = self._take()
        return value.unpack(tensors) if type(value) is Parcel else value

    def taken(self) -> int:
        """See `interface.Reader`."""
        return self._reader.taken()

    def discard(self) -> None:
        """See `interface.Reader`."""
        self._take()

    def _take(self) -> tuple[Any, list[Any]]:
        """The next frame's value, and the tensors that go with it."""
        try:
            value = self._reader.read()
        except ChannelError:
            raise
        except Exception as error:
            # What its tensors are is not known, so they cannot be received, and the writer waits for that.
            raise ChannelError(f"{self._edge}: a frame cannot be read: {type(error).__name__}: {error}") from error
        if type(value) is not Parcel:
            return value, []
        value = self._known.complete(value)
        tensors = iter(self._receive([header for header in value.headers if not header.is_empty()], value.note))
        return value, [header.empty() if header.is_empty() else next(tensors) for header in value.headers]

    def _receive(self, headers: list[Header], note: Any) -> list[Any]:
        if not headers:
            return []
        if not self._mover.may_wait:
            return self._mover.receive(headers, note)
        with self._apart(LoopState.RECEIVING):
            return self._mover.receive(headers, note)

    def arm(self) -> bool:
        """See `interface.Reader`."""
        return self._reader.arm()

    def close(self) -> None:
        """See `interface.Reader`."""
        self._mover.close()
        self._reader.close()

    def leave_to_parent(self) -> None:
        """See `interface.Reader`."""
        self._reader.leave_to_parent()


def move_tensors(movers: Movers, ends: Endpoints, apart: Apart) -> None:
    """Put movers around the ends of these channels.

    Args:
        movers: what moves their tensors.
        ends: the ends of the actor's channels; from here on they own the movers.
        apart: what the loop does around a mover's work.
    """
    for channel, sender in movers.senders.items():
        ends.writers[channel] = MovedWriter(ends.writers[channel], sender, apart)
    for channel, receiver in movers.receivers.items():
        edge = f"the edge from {ends.edges.get(channel, '')}"
        ends.readers[channel] = MovedReader(ends.readers[channel], receiver, edge, apart)
    for channel, fetcher in movers.fetchers.items():
        ends.writers[channel] = StagedWriter(ends.writers[channel], fetcher)
    for channel, placer in movers.placers.items():
        ends.readers[channel] = StagedReader(ends.readers[channel], placer)
