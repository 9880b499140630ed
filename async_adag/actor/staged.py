"""Edges that bring tensors to the CPU or to a GPU on the way: what ``device=`` of a hint asks for.

Each is done at one end alone. A writer on a GPU puts the bytes of its tensors in the frame, which any reader
reads. A reader on a GPU has it copy what came in the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from async_adag.channels.codec import Encoded
from async_adag.channels.direct import DirectWriter
from async_adag.channels.host_tensors import OnHost, rebuild
from async_adag.channels.interface import Reader, Writer
from async_adag.channels.tensor_headers import Header
from async_adag.channels.tensors import take_out


class Fetcher(Protocol):
    """Brings the tensors of one edge to the host, at its writer."""

    def fetch(self, tensors: Sequence[Any]) -> list[memoryview]:
        """The bytes of each, to be looked at until `release`; waits for the device.

        Args:
            tensors: on a GPU, contiguous and none of them empty.

        Raises:
            ChannelError: the edge cannot go on.
        """

    def release(self) -> None:
        """The bytes have been taken; again is harmless."""

    def close(self) -> None:
        """Let go of what belongs to the edge; again is harmless."""


class Placer(Protocol):
    """Brings the tensors of one edge to the GPU, at a reader."""

    def place(self, headers: Sequence[Header], tensors: Sequence[Any]) -> list[Any]:
        """Tensors like these on the GPU; does not wait for the device.

        Args:
            headers: of the tensors.
            tensors: of torch, in the CPU's memory, contiguous; their memory is the caller's again afterwards.

        Raises:
            ChannelError: the edge cannot go on.
        """

    def close(self) -> None:
        """Let go of what belongs to the edge; again is harmless."""


class StagedWriter:
    """A writing end that sends tensors of a GPU as bytes: see `interface.Writer`. Owns the channel's."""

    def __init__(self, writer: Writer, fetcher: Fetcher) -> None:
        self._writer = writer
        self._fetcher = fetcher
        self.may_write = writer.may_write
        self.call_up = writer.call_up
        self.publish = writer.publish
        self.arm = writer.arm
        self.leave_to_parent = writer.leave_to_parent

    @property
    def bytes(self) -> int:
        """See `interface.Writer`."""
        return self._writer.bytes

    def encode(self, value: Any) -> Encoded:
        """See `interface.Writer`. Waits for the device."""
        parcel, tensors = take_out(value, on_gpu=True)
        if not tensors:
            return self._writer.encode(value)
        whole = [tensor for tensor in tensors if 0 not in tensor.shape]
        parts = self._fetcher.fetch(whole) if whole else []
        try:
            if isinstance(self._writer, DirectWriter):  # it hands over the value itself, which nobody unpickles
                return self._writer.encode(rebuild(parcel, [bytes(part) for part in parts]))
            return self._writer.encode(OnHost(parcel, parts))
        except BaseException:
            self._fetcher.release()
            raise

    def stage(self, encoded: Encoded) -> None:
        """See `interface.Writer`."""
        self._writer.stage(encoded)
        self._fetcher.release()

    def unstage(self) -> None:
        """See `interface.Writer`."""
        self._fetcher.release()
        self._writer.unstage()

    def close(self) -> None:
        """See `interface.Writer`."""
        self._fetcher.close()
        self._writer.close()


class StagedReader:
    """A reading end whose torch tensors come to the GPU: see `interface.Reader`. Owns the channel's."""

    def __init__(self, reader: Reader, placer: Placer) -> None:
        self._reader = reader
        self._placer = placer
        self.may_read = reader.may_read
        self.taken = reader.taken
        self.discard = reader.discard
        self.arm = reader.arm
        self.leave_to_parent = reader.leave_to_parent

    @property
    def bytes(self) -> int:
        """See `interface.Reader`."""
        return self._reader.bytes

    def read(self) -> Any:
        """See `interface.Reader`."""
        value = self._reader.read()
        parcel, tensors = take_out(value, off_gpu=True)
        return parcel.unpack(self._placer.place(parcel.headers, tensors)) if tensors else value

    def close(self) -> None:
        """See `interface.Reader`."""
        self._placer.close()
        self._reader.close()
