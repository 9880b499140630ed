"""Collective operations between GPUs: what `part` has NCCL do, for arrays wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from async_adag.gpu.crossing import Crossing, cuda_crossing
from async_adag.gpu.interface import Span, Stream
from async_adag.gpu.jax_arrays import is_jax, is_of_whole_bytes


class OutOfStep(Exception):
    """A rank could not do its part of an operation in which the others wait for it: the graph cannot go on."""


class Group(Protocol):
    """What operations are issued to: `gpu.nccl_group.NcclGroup`, which says what each call does."""

    def initialize(self, rank: int) -> None: ...
    def check_type(self, dtype: str, reduction: str) -> None: ...
    def allreduce(self, source: Span, into: Span, dtype: str, reduction: str, stream: Stream) -> None: ...
    def allgather(self, source: Span, into: Span, stream: Stream) -> None: ...
    def reducescatter(self, source: Span, into: Span, dtype: str, reduction: str, stream: Stream) -> None: ...
    def check(self) -> None: ...
    def destroy(self) -> None: ...


class OverNccl:
    """The communicator of operations over NCCL. Pickled before it is initialized.

    Contributions are arrays on the actor's GPU or in the host's memory, at each rank as it likes. The result is
    where the contribution was. On the GPU nothing is waited for.
    """

    waits_until_destroyed = True  # as of its group

    def __init__(self, group: Group, make_crossing: Callable[[], Crossing] = cuda_crossing) -> None:
        """One that is not initialized.

        Args:
            group: what operations are issued to.
            make_crossing: called in the actor; how its arrays are found.
        """
        self._group = group
        self._make_crossing = make_crossing
        self._crossing: Crossing | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return OverNccl, (self._group, self._make_crossing)

    def initialize(self, rank: int) -> None:
        """Meet the other ranks. Blocks.

        Raises:
            DeviceError: they cannot meet, or there is no device.
        """
        self._crossing = self._make_crossing()
        self._group.initialize(rank)

    def run(
        self, kind: str, reduction: str | None, values: Sequence[Any], shape_of: Callable[[Any], tuple[int, ...]]
    ) -> list[Any]:
        """Do an operation with each of these arrays, at all ranks alike.

        Args:
            kind: "allreduce", "allgather", "reducescatter".
            reduction: one of `model.REDUCTIONS`, if anything is reduced.
            values: this rank's contributions, which were checked against the others'.
            shape_of: the shape of the result for one.

        Raises:
            TypeError: NCCL cannot do that with this type; raised at all ranks, before anything is issued.
            OutOfStep: this rank could not.
        """
        for value in values:
            self._check_type(kind, reduction, value)
        try:
            return [self._one(kind, reduction, value, shape_of(value)) for value in values]
        except Exception as error:
            raise OutOfStep(f"{type(error).__name__}: {error}") from error

    def _check_type(self, kind: str, reduction: str | None, value: Any) -> None:
        if getattr(value.dtype, "hasobject", False):
            raise TypeError(f"{kind} over NCCL takes numbers, not {value.dtype}: bind it with transport='shm'")
        if is_jax(value) and not is_of_whole_bytes(value):
            raise TypeError(
                f"{kind} over NCCL takes numbers of whole bytes, not {value.dtype}: bind it with transport='shm'"
            )
        if reduction is not None:
            self._group.check_type(_name(value.dtype), reduction)

    def _one(self, kind: str, reduction: str | None, value: Any, shape: tuple[int, ...]) -> Any:
        assert self._crossing is not None
        self._crossing.enter()
        self._group.check()
        with self._crossing.across(value, shape) as one:
            if kind == "allgather":
                self._group.allgather(one.source, one.into, one.stream)
            else:
                operation = getattr(self._group, kind)
                operation(one.source, one.into, _name(value.dtype), reduction, one.stream)
        self._group.check()  # what was waited for may have ended because it was aborted
        return one.result

    def destroy(self) -> None:
        """Let go of everything; what is under way has a moment, and is aborted. Any thread; again is harmless."""
        if self._crossing is not None:
            self._crossing.close()
        self._group.destroy()
        if self._crossing is not None:
            self._crossing.close()


def _name(dtype: Any) -> str:
    """A type, as all libraries name it. In another byte order it has no such name."""
    return str(dtype).removeprefix("torch.")
