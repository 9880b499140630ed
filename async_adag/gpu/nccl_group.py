"""Collective operations over NCCL: a communicator of any number of ranks, which knows memory and types by name."""

from __future__ import annotations

from typing import Any

from async_adag.gpu.interface import Span, Stream
from async_adag.gpu.nccl_rank import NcclRank, explained

REDUCTIONS = {"sum": 0, "product": 1, "max": 2, "min": 3, "avg": 4}
"""NCCL's numbers of them (ncclRedOp_t)."""

_WHOLE = {"int8": (0, 1), "uint8": (1, 1), "int32": (2, 4), "uint32": (3, 4), "int64": (4, 8), "uint64": (5, 8)}
_FLOATING = {"float16": (6, 2), "float32": (7, 4), "float64": (8, 8), "bfloat16": (9, 2)}
_EIGHT_BITS = {"float8_e4m3fn": (10, 1), "float8_e5m2": (11, 1)}  # cupy's binding has no names for them
_PAIRS = {"complex64": (7, 4), "complex128": (8, 8)}  # two numbers each

_BYTE = 1
_EIGHT_BITS_SINCE = 22400  # NCCL's version; on GPUs of compute capability 9.0 or higher

_WARM_UP = (1 << 10, 1 << 23)
"""Bytes of the first operations: small and large ones take different ways, each connected at its first use."""


def element_of(dtype: str, reduction: str, version: int) -> tuple[int, int]:
    """NCCL's number of a type (ncclDataType_t), and the bytes of one such number.

    Args:
        dtype: as torch and numpy name it: "float32", "bfloat16".
        reduction: what is to be done with it, one of `REDUCTIONS`.
        version: of NCCL, as it gives it: 22809.

    Raises:
        TypeError: NCCL cannot do that with this type; says what to do.
    """
    if reduction == "avg" and dtype in _WHOLE:
        raise TypeError(f"avg takes floating-point or complex numbers, not {dtype}: convert them first")
    if dtype in _PAIRS and reduction not in ("sum", "avg"):
        raise TypeError(f"NCCL has no {reduction} of {dtype}: bind the operation with transport='shm'")
    if dtype in _EIGHT_BITS and version < _EIGHT_BITS_SINCE:
        raise TypeError(f"NCCL reduces {dtype} since 2.24, and this is {version}: convert it to bfloat16 first")
    found = (_WHOLE | _FLOATING | _EIGHT_BITS | _PAIRS).get(dtype)
    if found is None:
        raise TypeError(
            f"NCCL has no arithmetic for {dtype}: convert it to a type that it has (integers of 8, 32 or 64 bits, "
            "floating-point and complex numbers), or bind the operation with transport='shm'"
        )
    return found


class NcclGroup(NcclRank):
    """A rank of collective operations. Pickled before it is initialized; afterwards it stays in its process.

    All ranks issue the same operations in the same order. What is issued is done later, in the order of the
    stream; its memory is not to change or to be freed until then.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        self.check_unmet()
        return NcclGroup, (self._identity, self._size)

    def initialize(self, rank: int) -> None:
        """Meet the other ranks, on the present device of this thread. Blocks; `destroy` ends the waiting.

        Raises:
            DeviceError: they cannot meet.
        """
        self.meet(rank, self._warm_up)

    def check_type(self, dtype: str, reduction: str) -> None:
        """Check that NCCL has this reduction of this type.

        Raises:
            TypeError: it has not.
        """
        element_of(dtype, reduction, self._nccl.get_version())

    def allreduce(self, source: Span, into: Span, dtype: str, reduction: str, stream: Stream) -> None:
        """Issue the reduction of all ranks' ``source`` into every rank's ``into``, which is as long.

        Raises:
            TypeError: as `check_type`.
            DeviceError: it cannot be issued.
        """
        number, itemsize = element_of(dtype, reduction, self._nccl.get_version())
        if source.nbytes:
            with self.calling() as communicator, explained("ncclAllReduce"):
                communicator.allReduce(
                    source.address,
                    into.address,
                    source.nbytes // itemsize,
                    number,
                    REDUCTIONS[reduction],
                    stream.handle,
                )

    def allgather(self, source: Span, into: Span, stream: Stream) -> None:
        """Issue copying all ranks' ``source``, one behind the other, into every rank's ``into``. They are bytes.

        Raises:
            DeviceError: it cannot be issued.
        """
        if source.nbytes:
            with self.calling() as communicator, explained("ncclAllGather"):
                communicator.allGather(source.address, into.address, source.nbytes, _BYTE, stream.handle)

    def reducescatter(self, source: Span, into: Span, dtype: str, reduction: str, stream: Stream) -> None:
        """Issue the reduction of all ranks' ``source``, of which each rank gets its part into its ``into``.

        Raises:
            TypeError: as `check_type`.
            DeviceError: it cannot be issued.
        """
        number, itemsize = element_of(dtype, reduction, self._nccl.get_version())
        if into.nbytes:
            with self.calling() as communicator, explained("ncclReduceScatter"):
                communicator.reduceScatter(
                    source.address,
                    into.address,
                    into.nbytes // itemsize,
                    number,
                    REDUCTIONS[reduction],
                    stream.handle,
                )

    def _warm_up(self, _: Any, communicator: Any) -> None:
        """Do each operation once, and wait for it."""
        import cupy

        stream = cupy.cuda.Stream(non_blocking=True)
        for part in _WARM_UP:
            one, all_of_them = cupy.cuda.Memory(part), cupy.cuda.Memory(part * self._size)
            sum_, handle = REDUCTIONS["sum"], stream.ptr
            communicator.allReduce(all_of_them.ptr, all_of_them.ptr, part * self._size, _BYTE, sum_, handle)
            communicator.allGather(one.ptr, all_of_them.ptr, part, _BYTE, handle)
            communicator.reduceScatter(all_of_them.ptr, one.ptr, part, _BYTE, sum_, handle)
            stream.synchronize()
