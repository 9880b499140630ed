"""Edges on which tensors go from GPU to GPU, as movers: composed from a channel's page and links, and ``gpu/``.

Loaded only by an actor whose share has such an edge.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from async_adag.actor.gpu_lanes import GpuLanes, Marked
from async_adag.actor.gpu_staging import Fetching, Placing
from async_adag.actor.moved import Movers
from async_adag.actor.records import Activity
from async_adag.channels.memory import Mapping
from async_adag.channels.tensor_headers import Header
from async_adag.gpu.arrays import current_stream, expose, library_of, wrap
from async_adag.gpu.cuda import CudaDevice, find_device
from async_adag.gpu.interface import DeviceError, Link, Stream
from async_adag.gpu.ipc import slots_for
from async_adag.gpu.ipc_receiver import IpcReceiver
from async_adag.gpu.ipc_sender import IpcSender
from async_adag.gpu.links import LinkReceiver, LinkSender
from async_adag.gpu.pool import exportable_allocations
from async_adag.graph.plan import GpuMove
from async_adag.protocol.frame import ChannelError

_lingering: list[_Outgoing | Incoming] = []
"""Ends that were closed while others still held what came by them; they are closed again later."""


class _Gate:
    """The device, as threads enter it: each at its first use, and for as long as it lives.

    Args:
        device: the device.
    """

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self._threads = threading.local()

    def streams(self, packages: set[str]) -> list[Stream]:
        """The current streams of these packages; each once."""
        if not hasattr(self._threads, "entered"):
            self._threads.entered = True
            self.device.enter()
        handles = {current_stream(package, self.device.ordinal) for package in packages}
        return [self.device.adopt(handle) for handle in sorted(handles)]

    def join(self, later: Stream, earlier: Stream) -> None:
        """Have ``later`` wait for what was issued to ``earlier``."""
        event = self.device.event()
        earlier.record(event)
        later.wait(event)
        event.close()


class _Outgoing:
    """The writer's end of an edge, as a mover. It never waits for the other ends, nor for the device."""

    on_gpu = True
    may_wait = False

    def __init__(self, edge: str, gate: _Gate, sender: IpcSender | LinkSender) -> None:
        self._edge = edge
        self._gate = gate
        self._sender = sender
        self._closed = False

    def announce(self, tensors: Sequence[Any]) -> Any:
        """See `moved.Sender`."""
        try:
            stream, *others = self._gate.streams({library_of(tensor) for tensor in tensors})
            for other in others:
                self._gate.join(stream, other)
            spans, owners = zip(*[expose(tensor, stream.handle) for tensor in tensors], strict=True)
            return self._sender.announce(spans, owners, stream)
        except DeviceError as error:
            raise _broken(self._edge, error) from error

    def check(self) -> None:
        """See `moved.Sender`."""
        try:
            self._sender.check()
        except DeviceError as error:
            raise _broken(self._edge, error) from error

    def withdraw(self) -> None:
        """See `moved.Sender`."""
        self._sender.withdraw()

    def send(self, tensors: Sequence[Any]) -> None:  # noqa: ARG002 - those that were announced
        """See `moved.Sender`."""
        try:
            self._sender.send()
        except DeviceError as error:
            raise _broken(self._edge, error) from error

    def close(self) -> None:
        """See `moved.Sender`."""
        if self._closed:
            return
        self._sender.close()
        if not isinstance(self._sender, IpcSender) or self._sender.is_free:
            self._closed = True
        elif self not in _lingering:
            _lingering.append(self)


class Incoming:
    """A reader's end of an edge, as a mover. It never waits for the other end, nor for the device."""

    may_wait = False

    def __init__(self, edge: str, gate: _Gate, receiver: IpcReceiver | LinkReceiver) -> None:
        self._edge = edge
        self._gate = gate
        self._receiver = receiver

    def follow(self, stream: Stream) -> None:
        """Have ``stream`` wait for whatever arrives from here on."""
        assert isinstance(self._receiver, IpcReceiver)
        self._receiver.follower = stream

    @property
    def is_given_up(self) -> bool:
        """Whether the writer has ended, so that what was still under way never arrives, though streams go on."""
        return isinstance(self._receiver, IpcReceiver) and self._receiver.is_given_up

    def receive(self, headers: Sequence[Header], note: Any) -> list[Any]:
        """See `moved.Receiver`."""
        try:
            sizes = [header.nbytes() for header in headers]
            stream, *others = self._gate.streams({header.package for header in headers})
            arrived = self._receiver.receive(note, sizes, stream, others)
            ordinal = self._gate.device.ordinal
            return [
                wrap(memory, header.package, header.dtype, header.shape, ordinal, header.strides)
                for memory, header in zip(arrived, headers, strict=True)
            ]
        except Exception as error:
            raise _broken(self._edge, error) from error  # what was sent has not been received, and is in the way

    def close(self) -> None:
        """See `moved.Receiver`."""
        self._receiver.close()
        if isinstance(self._receiver, IpcReceiver) and not self._receiver.is_free and self not in _lingering:
            _lingering.append(self)


def make_gpu_movers(
    movers: Movers,
    moves: tuple[GpuMove, ...],
    pages: dict[int, Mapping],
    links: dict[int, tuple[Link, ...]],
    slots: dict[int, int],
    overlap: bool = True,
) -> None:
    """Add the movers of an actor's ends of such edges.

    Args:
        movers: what they are added to.
        moves: the edges.
        pages: those of hand-overs within the GPU, by channel.
        links: of the others, by channel, in the order of the readers; initialized. A reader has its own alone.
        slots: of the channels' rings, by channel.
        overlap: whether tensors travel while methods compute; else in the order of the methods.

    Raises:
        DeviceError: there is no device here.
    """
    device = find_device()
    gate = _Gate(device)
    marked: list[tuple[Activity, int, Marked]] = []
    for end in [_lingering.pop() for _ in range(len(_lingering))]:
        end.close()
    for move in moves:
        if move.to_host:
            movers.fetchers[move.channel] = fetching = Fetching(move.edge, gate)
            marked.append((Activity.SEND, move.channel, fetching.marked))
        if move.to_gpu:
            backlog = slots.get(move.channel, 16)
            movers.placers[move.channel] = placing = Placing(move.edge, gate, overlap=overlap, backlog=backlog)
            marked.append((Activity.RECEIVE, move.channel, placing.marked))
        if not move.by:
            continue
        number, ring = move.channel, slots[move.channel]
        page = pages[number].view if number in pages else None
        if move.reader is None:
            sender = _sender(move, gate, page, links.get(number, ()), ring, overlap)
            movers.senders[number] = _Outgoing(move.edge, gate, sender)
            marked.append((Activity.SEND, number, sender))
            if isinstance(sender, IpcSender):
                movers.checks.append(sender.check_readers)
        else:
            receiver = _receiver(move, gate, page, links.get(number, ()), ring, overlap)
            movers.receivers[number] = Incoming(move.edge, gate, receiver)
            marked.append((Activity.RECEIVE, number, receiver))
            if isinstance(receiver, IpcReceiver):
                movers.checks.append(receiver.check_writer)
    movers.lanes = GpuLanes(gate, marked)


def _sender(
    move: GpuMove, gate: _Gate, page: memoryview | None, links: tuple[Link, ...], ring: int, overlap: bool
) -> IpcSender | LinkSender:
    if page is None:
        return LinkSender(gate.device, links, overlap=overlap)
    slots = slots_for(ring, move.readers)
    pool = exportable_allocations(gate.device)
    return IpcSender(gate.device, page, move.readers, slots, pool, overlap=overlap)


def _receiver(
    move: GpuMove, gate: _Gate, page: memoryview | None, links: tuple[Link, ...], ring: int, overlap: bool
) -> IpcReceiver | LinkReceiver:
    if page is None:
        return LinkReceiver(gate.device, links[0], overlap=overlap, backlog=ring)
    assert move.reader is not None
    slots = slots_for(ring, move.readers)
    return IpcReceiver(gate.device, page, move.reader, slots, move.readers, gate.device.mappings)


def _broken(edge: str, error: Exception) -> ChannelError:
    return ChannelError(f"the edge from {edge}: {error}")
