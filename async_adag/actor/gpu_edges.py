"""Edges on which tensors go from GPU to GPU, as movers: composed from a channel's page and links, and ``gpu/``.

Loaded only by an actor whose share has such an edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from async_adag.actor.moved import Mover
from async_adag.channels.memory import Mapping
from async_adag.channels.tensors import Header
from async_adag.gpu.arrays import current_stream, span_of, wrap
from async_adag.gpu.cuda import find_device
from async_adag.gpu.interface import Device, DeviceError, Link, Stream
from async_adag.gpu.ipc import IpcReceiver, IpcSender
from async_adag.gpu.linked import LinkReceiver, LinkSender
from async_adag.gpu.transfer import Receiver, Sender
from async_adag.graph.plan import GpuMove
from async_adag.protocol.frame import ChannelError


class ByDevice:
    """One end of an edge from GPU to GPU as a mover. It never waits for the other end, nor for the device."""

    on_gpu = True
    may_wait = False

    def __init__(self, edge: str, device: Device, end: Sender | Receiver) -> None:
        self._edge = edge
        self._device = device
        self._end: Any = end
        self._has_entered = False

    def announce(self, tensors: Sequence[Any]) -> Any:
        """See `moved.Mover`."""
        packages = {"torch" if hasattr(tensor, "is_cuda") else "cupy" for tensor in tensors}
        try:
            stream, *others = self._streams(packages)
            for other in others:
                self._join(stream, other)
            return self._end.announce([span_of(tensor) for tensor in tensors], tensors, stream)
        except DeviceError as error:
            raise self._broken(error) from error

    def withdraw(self) -> None:
        """See `moved.Mover`."""
        self._end.withdraw()

    def send(self, tensors: Sequence[Any]) -> None:  # noqa: ARG002
        """See `moved.Mover`."""
        try:
            self._end.send()
        except DeviceError as error:
            raise self._broken(error) from error

    def receive(self, headers: Sequence[Header], note: Any) -> list[Any]:
        """See `moved.Mover`."""
        try:
            sizes = [header.nbytes() for header in headers]
            stream, *others = self._streams({header.package for header in headers})
            arrived = self._end.receive(note, sizes, stream)
            for other in others:
                self._join(other, stream)
            return [
                wrap(memory, header.package, header.dtype, header.shape)
                for memory, header in zip(arrived, headers, strict=True)
            ]
        except (DeviceError, ImportError) as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """See `moved.Mover`."""
        self._end.close()

    def _streams(self, packages: set[str]) -> list[Stream]:
        """The current streams of these packages; one of each."""
        if not self._has_entered:
            self._device.enter()
            self._has_entered = True
        streams = [current_stream(package, self._device) for package in sorted(packages)]
        return list({stream.handle: stream for stream in streams}.values())

    def _join(self, later: Stream, earlier: Stream) -> None:
        """Have ``later`` wait for what was issued to ``earlier``."""
        event = self._device.event()
        earlier.record(event)
        later.wait(event)
        event.close()

    def _broken(self, error: Exception) -> ChannelError:
        return ChannelError(f"the edge from {self._edge}: {error}")


def gpu_movers(
    moves: tuple[GpuMove, ...], pages: dict[int, Mapping], links: dict[int, tuple[Link, ...]], slots: int
) -> dict[int, Mover]:
    """The movers of an actor's ends of such edges, by channel.

    Args:
        moves: the edges.
        pages: those of hand-overs within the GPU, by channel.
        links: of the others, by channel, in the order of the readers; initialized. A reader has its own alone.
        slots: how many executions may be in flight.

    Raises:
        DeviceError: there is no device here.
    """
    device = find_device()
    movers: dict[int, Mover] = {}
    try:
        for move in moves:
            movers[move.channel] = ByDevice(move.edge, device, _end(move, device, pages, links, slots))
    except BaseException:
        for mover in movers.values():
            mover.close()
        raise
    return movers


def _end(
    move: GpuMove,
    device: Device,
    pages: dict[int, Mapping],
    links: dict[int, tuple[Link, ...]],
    slots: int,
) -> Sender | Receiver:
    if move.by == "ipc":
        page = pages[move.channel].view
        if move.reader is None:
            return IpcSender(device, page, move.readers, slots)
        return IpcReceiver(device, page, move.reader, slots)
    if move.reader is None:
        return LinkSender(device, links[move.channel])
    return LinkReceiver(device, links[move.channel][0])
