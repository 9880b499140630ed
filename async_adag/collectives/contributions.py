"""Whether what the ranks contribute to a collective operation fits together.

All of it is decided by descriptions, which are small, so that every rank comes to the same conclusion.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from async_adag.gpu.jax_arrays import is_jax

_ARRAYS = {"numpy": "ndarray", "torch": "Tensor", "cupy": "ndarray"}


class Described(NamedTuple):
    """What a contribution is, but for its numbers."""

    module: str
    type: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.type} of {self.dtype}"


def describe(value: Any, rank: int) -> Described:
    """What rank ``rank`` contributes.

    Raises:
        TypeError: no array.
    """
    if is_jax(value) and len(value.devices()) == 1:
        return Described("jax", "Array", str(value.dtype), tuple(value.shape))
    name = type(value).__module__.partition(".")[0]
    library = sys.modules.get(name)
    is_array = name in _ARRAYS and library is not None and isinstance(value, getattr(library, _ARRAYS[name]))
    if not is_array or type(value).__name__ == "MaskedArray":  # whose mask would be lost
        raise TypeError(
            "a collective operation takes arrays of numpy, cupy or jax (on one device), or torch tensors; rank "
            f"{rank} gave {type(value).__name__}"
        )
    return Described(name, type(value).__name__, str(value.dtype), tuple(value.shape))


def check(kind: str, described: Sequence[Described]) -> None:
    """Check that these contributions, one of each rank, fit each other and the operation.

    Raises:
        TypeError: not arrays of one library and type.
        ValueError: not of one shape, or of one that the operation cannot join or split.
    """
    first = described[0]
    for rank, other in enumerate(described):
        if other[:3] != first[:3]:
            raise TypeError(f"rank {rank} gave {other}, rank 0 {first}")
        if other.shape != first.shape:
            raise ValueError(f"rank {rank} gave shape {other.shape}, rank 0 {first.shape}")
    if kind != "allreduce" and not first.shape:
        raise ValueError(f"{kind} takes arrays of at least one dimension")
    if kind == "reducescatter" and first.shape[0] % len(described):
        size = len(described)
        raise ValueError(
            f"reducescatter over {size} ranks takes a first dimension that {size} divides, not {first.shape[0]}"
        )
