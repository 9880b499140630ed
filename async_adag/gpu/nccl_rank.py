"""One process's rank in an NCCL communicator, by cupy's binding: how ranks meet, call, and let go.

cupy's communicators block: `NcclCommunicator` meets the other ranks in its constructor, and has no way to make one
that does not (its `NcclConfig` knows ``splitShare`` only). If another rank never comes, NCCL waits for ever. So
that happens on a thread of its own, which `destroy` leaves behind. Connections are made then too, by a first use,
as NCCL otherwise makes them in the first execution, and its first call waits for the other ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from async_adag.gpu.interface import DeviceError


class NcclRank:
    """A rank of a communicator. Pickled before it has met the others; afterwards it stays in its process."""

    waits_until_destroyed = True
    """`meet` ends when `destroy` is called on another thread."""

    ABORT_AFTER = 1.0
    """How long `destroy` waits for other threads' calls before it aborts beneath them, in seconds.

    Calls take microseconds. One that does not return waits for the device, as its queue is full, and will do so
    until the communicator is aborted.
    """

    def __init__(self, identity: Any, size: int) -> None:
        """A rank that has not met the others.

        Args:
            identity: from `new_id`.
            size: how many ranks there are.
        """
        self._identity = identity
        self._size = size
        self._rank = -1
        self._nccl: Any = None
        self._communicator: Any = None
        self._calls = 0
        self._condition = threading.Condition()
        self._destroyed = False

    @staticmethod
    def new_id() -> Any:
        """What the ranks meet by: a plain value, made in the process of rank 0, where they meet.

        Raises:
            DeviceError: NCCL is not here, or fails.
        """
        with explained("ncclGetUniqueId"):
            return _binding().get_unique_id()

    def check_unmet(self) -> None:
        """Check that it may be pickled.

        Raises:
            TypeError: it has met the others, so it belongs to its process.
        """
        if self._rank >= 0:
            raise TypeError(f"{type(self).__name__} was initialized, and belongs to its process")

    def meet(self, rank: int, warm_up: Callable[[Any, Any], None]) -> None:
        """Meet the other ranks, which are in `meet` too, on the present device of this thread. Blocks.

        Args:
            rank: this one's.
            warm_up: called with the binding and the communicator, to make the connections; waits for the device.

        Raises:
            DeviceError: they cannot meet, or `destroy` was called meanwhile.
        """
        import cupy

        self._nccl = _binding()
        self._rank = rank
        device = cupy.cuda.runtime.getDevice()
        outcome: list[BaseException] = []
        met: list[bool] = []

        def work() -> None:
            try:
                cupy.cuda.runtime.setDevice(device)
                communicator = self._nccl.NcclCommunicator(self._size, self._identity, rank)
                warm_up(self._nccl, communicator)
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

        threading.Thread(target=work, name="async_adag-nccl", daemon=True).start()
        with self._condition:
            self._condition.wait_for(lambda: met or self._destroyed)
            if self._destroyed:
                raise DeviceError("ncclCommInitRank: it was destroyed before all ranks had met")
        if outcome:
            with explained("ncclCommInitRank"):
                raise outcome[0]

    def check(self) -> None:
        """See whether what was issued has failed.

        Raises:
            DeviceError: it has, and this is of no more use: another rank has died, for one.
        """
        with self.calling() as communicator, explained("NCCL"):
            communicator.check_async_error()

    def destroy(self) -> None:
        """Abort what was issued, so that its streams go on, and let go of the communicator. Again is harmless.

        May be called from any thread, also while another is in a call.
        """
        with self._condition:
            if self._destroyed:
                return
            self._destroyed = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._calls, self.ABORT_AFTER)
            communicator, self._communicator = self._communicator, None
        if communicator is not None:
            with explained("ncclCommAbort"):
                communicator.abort()

    @contextmanager
    def calling(self) -> Iterator[Any]:
        """The communicator, which is not aborted meanwhile unless that takes too long."""
        with self._condition:
            if self._destroyed or self._communicator is None:
                raise DeviceError("NCCL: the communicator was destroyed, or not initialized")
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
def explained(call: str) -> Iterator[None]:
    """Have what a call raises say which it was."""
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        # Not only NcclError: cupy raises KeyError instead of one for a status that it has no name for.
        raise DeviceError(f"{call}: {type(error).__name__}: {error}") from error
