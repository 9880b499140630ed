"""What brings tensors to the CPU or to the GPU on the way: composed from ``gpu/staging.py`` and arrays.

Loaded only by a process that has such an edge and a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from async_adag.channels.tensor_headers import Header
from async_adag.channels.torch_tensors import bytes_of
from async_adag.gpu.arrays import expose, library_of, wrap
from async_adag.gpu.cuda import CudaDevice
from async_adag.gpu.interface import DeviceError, Stream
from async_adag.gpu.staging import FromHost, ToHost
from async_adag.protocol.frame import ChannelError


class Gate(Protocol):
    """The device, as threads enter it."""

    @property
    def device(self) -> CudaDevice: ...

    def streams(self, packages: set[str]) -> list[Stream]:
        """The current streams of these packages; each once."""

    def join(self, later: Stream, earlier: Stream) -> None:
        """Have ``later`` wait for what was issued to ``earlier``."""


class Fetching:
    """A writer's end: see `staged.Fetcher`.

    Attributes:
        marked: what tells of the copies.
    """

    def __init__(self, edge: str, gate: Gate) -> None:
        self._edge = edge
        self._gate = gate
        self._copies = self.marked = ToHost(gate.device)

    def fetch(self, tensors: Sequence[Any]) -> list[memoryview]:
        """See `staged.Fetcher`."""
        try:
            stream, *others = self._gate.streams({library_of(tensor) for tensor in tensors})
            for other in others:
                self._gate.join(stream, other)
            exposed = [expose(tensor, stream.handle) for tensor in tensors]  # what is behind them has to stay
            return self._copies.fetch([span for span, _ in exposed], stream)
        except DeviceError as error:
            raise ChannelError(f"the edge from {self._edge}: {error}") from error

    def release(self) -> None:
        """See `staged.Fetcher`."""
        self._copies.release()

    def close(self) -> None:
        """See `staged.Fetcher`."""
        self._copies.close()


class Placing:
    """A reader's end: see `staged.Placer`.

    Attributes:
        marked: what tells of the copies.
    """

    def __init__(self, edge: str, gate: Gate, *, overlap: bool = True, backlog: int = 16) -> None:
        self._edge = edge
        self._gate = gate
        self._copies = self.marked = FromHost(gate.device, overlap=overlap, backlog=backlog)

    def follow(self, stream: Stream) -> None:
        """Have ``stream`` wait for whatever arrives from here on."""
        self._copies.follower = stream

    def place(self, headers: Sequence[Header], tensors: Sequence[Any]) -> list[Any]:
        """See `staged.Placer`."""
        try:
            stream, *_ = self._gate.streams({"torch"})
            parts = [bytes_of(tensor) for tensor in tensors if tensor.numel()]
            arrived = iter(self._copies.place(parts, stream) if parts else [])
            ordinal = self._gate.device.ordinal
            return [
                header._replace(device=f"cuda:{ordinal}").empty()
                if header.is_empty()
                else wrap(next(arrived), "torch", header.dtype, header.shape, ordinal, header.strides)
                for header in headers
            ]
        except (DeviceError, ValueError) as error:
            raise ChannelError(f"the edge from {self._edge}: {error}") from error

    def close(self) -> None:
        """See `staged.Placer`."""
        self._copies.close()
