"""Edges whose tensors do not travel in frames: a channel, which carries the rest and the headers, and a mover.

For each execution the writer publishes the frame, then its mover sends the tensors that the frame announces, to
one reader after another; a reader takes the frame, then receives them. A frame that announces none (a failure, the
word that nothing more will come, a value without tensors) is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from async_adag.actor.control import LoopState
from async_adag.actor.wiring import Endpoints
from async_adag.channels.codec import Encoded
from async_adag.channels.interface import Reader, Writer
from async_adag.channels.tensors import Header, Parcel, take_out
from async_adag.graph.plan import Move
from async_adag.protocol.frame import ChannelError

Apart = Callable[[LoopState], AbstractContextManager[Any]]
"""What the loop does around a mover's work, during which it may wait for other actors."""


class Mover(Protocol):
    """Moves the tensors of one edge, from either of its ends."""

    def send(self, tensors: Sequence[Any]) -> None:
        """Send these, contiguous and none of them empty, to every reader, in the order of the readers.

        Raises:
            ChannelError: the edge cannot go on.
        """

    def receive(self, headers: Sequence[Header]) -> list[Any]:
        """Receive what the writer sends; these describe it, none of it empty.

        Raises:
            ChannelError: the edge cannot go on.
        """


class ByCommunicator:
    """A communicator of the user's as a mover."""

    def __init__(self, move: Move) -> None:
        self._communicator = move.communicator
        self._peers = move.peers
        self._edge = move.edge

    def send(self, tensors: Sequence[Any]) -> None:
        """See `Mover`."""
        for peer in self._peers:
            for tensor in tensors:
                try:
                    self._communicator.send(tensor, peer)
                except Exception as error:
                    raise self._broken("send", error) from error

    def receive(self, headers: Sequence[Header]) -> list[Any]:
        """See `Mover`."""
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

    def __init__(self, writer: Writer, mover: Mover, apart: Apart) -> None:
        self._writer = writer
        self._mover = mover
        self._apart = apart
        self._staged: list[Any] = []
        self.may_write = writer.may_write
        self.call_up = writer.call_up

    @property
    def bytes(self) -> int:
        """Of frames: tensors are not counted."""
        return self._writer.bytes

    def encode(self, value: Any) -> Encoded:
        """See `interface.Writer`."""
        parcel, tensors = take_out(value)
        kind, body, buffers = self._writer.encode(parcel)
        return kind, _Laden(body, [tensor for tensor in tensors if 0 not in tensor.shape]), buffers

    def stage(self, encoded: Encoded) -> None:
        """See `interface.Writer`."""
        kind, (body, tensors), buffers = encoded
        self._writer.stage((kind, body, buffers))
        self._staged = tensors

    def unstage(self) -> None:
        """See `interface.Writer`."""
        self._staged = []
        self._writer.unstage()

    def publish(self) -> None:
        """See `interface.Writer`."""
        tensors, self._staged = self._staged, []
        self._writer.publish()
        if tensors:
            with self._apart(LoopState.SENDING):
                self._mover.send(tensors)

    def arm(self) -> bool:
        """See `interface.Writer`."""
        return self._writer.arm()

    def close(self) -> None:
        """See `interface.Writer`."""
        self._staged = []
        self._writer.close()

    def leave_to_parent(self) -> None:
        """See `interface.Writer`."""
        self._staged = []
        self._writer.leave_to_parent()


class MovedReader:
    """A reading end: see `interface.Reader`. Owns the channel's."""

    def __init__(self, reader: Reader, mover: Mover, edge: str, apart: Apart) -> None:
        self._reader = reader
        self._mover = mover
        self._edge = edge
        self._apart = apart
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
        tensors = iter(self._receive([header for header in value.headers if not header.is_empty()]))
        return value, [header.empty() if header.is_empty() else next(tensors) for header in value.headers]

    def _receive(self, headers: list[Header]) -> list[Any]:
        if not headers:
            return []
        with self._apart(LoopState.RECEIVING):
            return self._mover.receive(headers)

    def arm(self) -> bool:
        """See `interface.Reader`."""
        return self._reader.arm()

    def close(self) -> None:
        """See `interface.Reader`."""
        self._reader.close()

    def leave_to_parent(self) -> None:
        """See `interface.Reader`."""
        self._reader.leave_to_parent()


def move_tensors(moves: tuple[Move, ...], ends: Endpoints, apart: Apart) -> None:
    """Put movers around the ends of these channels.

    Args:
        moves: the channels.
        ends: the ends of the actor's channels.
        apart: what the loop does around a mover's work.
    """
    for move in moves:
        mover = ByCommunicator(move)
        if move.channel in ends.writers:
            ends.writers[move.channel] = MovedWriter(ends.writers[move.channel], mover, apart)
        else:
            ends.readers[move.channel] = MovedReader(ends.readers[move.channel], mover, move.edge, apart)
