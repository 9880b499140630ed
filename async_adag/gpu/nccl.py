"""Links over NCCL: a communicator of two ranks for each direction.

Two ranks, since NCCL takes what is issued to one communicator in one order, and nothing in a graph has to wait for
other readers. Memory travels as bytes, whatever is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from async_adag.gpu.interface import Span, Stream
from async_adag.gpu.nccl_rank import NcclRank, explained

WARM_UP = 256
"""Bytes of the first transfer. All channels to a peer are connected by any."""


class NcclLink(NcclRank):
    """A link over NCCL: `interface.Link`. Pickled before it is initialized; afterwards it stays in its process."""

    def __init__(self, identity: Any) -> None:
        """A link that is not yet initialized.

        Args:
            identity: from `new_id`.
        """
        super().__init__(identity, 2)

    def __reduce__(self) -> tuple[Any, ...]:
        self.check_unmet()
        return NcclLink, (self._identity,)

    def initialize(self, rank: int) -> None:
        """As `interface.Link.initialize`, on the present device of this thread; `destroy` ends the waiting."""
        self.meet(rank, lambda nccl, communicator: _warm_up(nccl, communicator, rank))

    @contextmanager
    def group(self) -> Iterator[None]:
        """As `interface.Link.group`."""
        with self.calling():
            with explained("ncclGroupStart"):
                self._nccl.groupStart()
            try:
                yield
            finally:
                # NCCL issues what is in the group here. Also when a call within has failed: the group is this
                # thread's, and would take in what is issued next.
                with explained("ncclGroupEnd"):
                    self._nccl.groupEnd()

    def send(self, span: Span, stream: Stream) -> None:
        """As `interface.Link.send`."""
        with self.calling() as communicator, explained("ncclSend"):
            communicator.send(span.address, span.nbytes, self._nccl.NCCL_UINT8, 1 - self._rank, stream.handle)

    def receive(self, span: Span, stream: Stream) -> None:
        """As `interface.Link.receive`."""
        with self.calling() as communicator, explained("ncclRecv"):
            communicator.recv(span.address, span.nbytes, self._nccl.NCCL_UINT8, 1 - self._rank, stream.handle)


def _warm_up(nccl: Any, communicator: Any, rank: int) -> None:
    """Send a little from rank 0 to rank 1, and wait for it."""
    import cupy

    memory = cupy.cuda.Memory(WARM_UP)
    stream = cupy.cuda.Stream(non_blocking=True)
    transfer: Callable[..., None] = communicator.send if rank == 0 else communicator.recv
    transfer(memory.ptr, WARM_UP, nccl.NCCL_UINT8, 1 - rank, stream.ptr)
    stream.synchronize()
