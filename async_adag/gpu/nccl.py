"""Links over NCCL, by cupy's binding: a communicator of two ranks for each direction.

Two ranks, since NCCL takes what is issued to one communicator in one order, and nothing in a graph has to wait for
other readers. Memory travels as bytes, whatever is in it.

cupy's communicators block: `NcclCommunicator` meets the other rank in its constructor, and has no way to make one
that does not (its `NcclConfig` knows ``splitShare`` only). If the other rank never comes, NCCL waits for ever. So
that happens on a thread of its own, which `destroy` leaves behind. Connections are made then too, by a first
transfer, as NCCL otherwise makes them in the first execution, and its first send waits for the other rank.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from async_adag.gpu.interface import DeviceError, Span, Stream

WARM_UP = 256
"""Bytes of the first transfer. All channels to a peer are connected by any."""


class NcclLink:
    """A link over NCCL: `interface.Link`. Pickled before it is initialized; afterwards it stays in its process."""

    ABORT_AFTER = 1.0
    """How long `destroy` waits for other threads' calls before it aborts beneath them, in seconds.

    Calls take microseconds. One that does not return waits for the device, as its queue is full, and will do so
    until the communicator is aborted.
    """

    def __init__(self, identity: Any) -> None:
        """A link that is not yet initialized.

        Args:
            identity: from `new_id`.
        """
        self._identity = identity
        self._peer = -1
        self._nccl: Any = None
        self._communicator: Any = None
        self._calls = 0
        self._condition = threading.Condition()
        self._destroyed = False

    @staticmethod
    def new_id() -> Any:
        """What two ranks meet by: a plain value, made in the process of rank 0, where they meet.

        Raises:
            DeviceError: NCCL is not here, or fails.
        """
        with _explained("ncclGetUniqueId"):
            return _binding().get_unique_id()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._peer >= 0:
            raise TypeError("a link that was initialized belongs to its process")
        return NcclLink, (self._identity,)

    def initialize(self, rank: int) -> None:
        """As `interface.Link.initialize`, on the present device of this thread; `destroy` ends the waiting."""
        import cupy

        self._nccl = _binding()
        self._peer = 1 - rank
        device = cupy.cuda.runtime.getDevice()
        outcome: list[BaseException] = []
        met: list[bool] = []

        def meet() -> None:
            try:
                cupy.cuda.runtime.setDevice(device)
                communicator = self._nccl.NcclCommunicator(2, self._identity, rank)
                _warm_up(self._nccl, communicator, rank)
            except BaseException as error:
                outcome.append(error)
                communicator = None
            with self._condition:
                wanted = not self._destroyed
                if wanted:
                    self._communicator = communicator
                met.append(True)
                self._condition.notify_all()
            if communicator is not None and not wanted:
                communicator.abort()

        threading.Thread(target=meet, name="async_adag-nccl", daemon=True).start()
        with self._condition:
            self._condition.wait_for(lambda: met or self._destroyed)
            if self._destroyed:
                raise DeviceError("ncclCommInitRank: the link was destroyed before both ranks had met")
        if outcome:
            with _explained("ncclCommInitRank"):
                raise outcome[0]

    @contextmanager
    def group(self) -> Iterator[None]:
        """As `interface.Link.group`."""
        with self._calling():
            with _explained("ncclGroupStart"):
                self._nccl.groupStart()
            try:
                yield
            finally:
                # NCCL issues what is in the group here. Also when a call within has failed: the group is this
                # thread's, and would take in what is issued next.
                with _explained("ncclGroupEnd"):
                    self._nccl.groupEnd()

    def send(self, span: Span, stream: Stream) -> None:
        """As `interface.Link.send`."""
        with self._calling() as communicator, _explained("ncclSend"):
            communicator.send(span.address, span.nbytes, self._nccl.NCCL_UINT8, self._peer, stream.handle)

    def receive(self, span: Span, stream: Stream) -> None:
        """As `interface.Link.receive`."""
        with self._calling() as communicator, _explained("ncclRecv"):
            communicator.recv(span.address, span.nbytes, self._nccl.NCCL_UINT8, self._peer, stream.handle)

    def check(self) -> None:
        """As `interface.Link.check`."""
        with self._calling() as communicator, _explained("NCCL"):
            communicator.check_async_error()

    def destroy(self) -> None:
        """As `interface.Link.destroy`."""
        with self._condition:
            if self._destroyed:
                return
            self._destroyed = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._calls, self.ABORT_AFTER)
            communicator, self._communicator = self._communicator, None
        if communicator is not None:
            with _explained("ncclCommAbort"):
                communicator.abort()

    @contextmanager
    def _calling(self) -> Iterator[Any]:
        """The communicator, which is not aborted meanwhile unless that takes too long."""
        with self._condition:
            if self._destroyed or self._communicator is None:
                raise DeviceError("NCCL: the link was destroyed, or not initialized")
            communicator = self._communicator
            self._calls += 1
        try:
            yield communicator
        finally:
            with self._condition:
                self._calls -= 1
                self._condition.notify_all()


def _binding() -> Any:
    """The binding of NCCL.

    Raises:
        DeviceError: it is not here.
    """
    try:
        from cupy.cuda import nccl
    except ImportError as error:
        raise DeviceError(f"NCCL: cupy cannot be imported ({error})") from error
    if not nccl.available:
        raise DeviceError("NCCL: cupy does not find its library; the extra async-adag[gpu] installs it")
    return nccl


@contextmanager
def _explained(call: str) -> Iterator[None]:
    """Have what a call raises say which it was."""
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        # Not only NcclError: cupy raises KeyError instead of one for a status that it has no name for.
        raise DeviceError(f"{call}: {type(error).__name__}: {error}") from error


def _warm_up(nccl: Any, communicator: Any, rank: int) -> None:
    """Send a little from rank 0 to rank 1, and wait for it."""
    import cupy

    memory = cupy.cuda.Memory(WARM_UP)
    stream = cupy.cuda.Stream(non_blocking=True)
    transfer: Callable[..., None] = communicator.send if rank == 0 else communicator.recv
    transfer(memory.ptr, WARM_UP, nccl.NCCL_UINT8, 1 - rank, stream.ptr)
    stream.synchronize()
