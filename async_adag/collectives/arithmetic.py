"""What a rank computes of all ranks' contributions: numpy arrays, or torch tensors in the CPU's memory.

Whichever library made the values is used, by names that both have; neither is imported here.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import Any

_FUNCTIONS = {"sum": "add", "avg": "add", "product": "multiply", "max": "maximum", "min": "minimum"}
_ARRAYS = {"numpy": "ndarray", "torch": "Tensor"}


def allreduce(values: list[Any], reduction: str) -> Any:
    """The reduction of all ranks' contributions, in the order of the ranks: a new array.

    Raises:
        TypeError: not arrays of one library and type.
        ValueError: not of one shape.
    """
    return _reduced(_library(values), values, reduction)


def reducescatter(values: list[Any], reduction: str, rank: int) -> Any:
    """The part of rank ``rank``, along the first dimension, of the reduction of all ranks' contributions.

    Raises:
        TypeError: not arrays of one library and type.
        ValueError: not of one shape, or of a first dimension that the number of ranks does not divide.
    """
    library, size = _library(values), len(values)
    rows = _rows(values, "reducescatter")
    if rows % size:
        raise ValueError(
            f"reducescatter over {size} ranks takes a first dimension that {size} divides, not {rows}"
        )
    part = slice(rank * (rows // size), (rank + 1) * (rows // size))
    return _reduced(library, [value[part] for value in values], reduction)


def allgather(values: list[Any]) -> Any:
    """All ranks' contributions, joined along the first dimension: a new array.

    Raises:
        TypeError: not arrays of one library and type.
        ValueError: not of one shape, or of no dimension.
    """
    library = _library(values)
    _rows(values, "allgather")
    with _without_gradients(library):
        return library.concatenate(values)


def _rows(values: list[Any], kind: str) -> int:
    if not values[0].ndim:
        raise ValueError(f"{kind} takes arrays of at least one dimension")
    return int(values[0].shape[0])


def _library(values: list[Any]) -> ModuleType:
    """The library of these arrays, which have the same type and shape."""
    first = values[0]
    for rank, value in enumerate(values):
        name = type(value).__module__.partition(".")[0]
        library = sys.modules.get(name)
        if name not in _ARRAYS or library is None or not isinstance(value, getattr(library, _ARRAYS[name])):
            raise TypeError(
                "a collective operation takes numpy arrays or torch tensors; "
                f"rank {rank} gave {type(value).__name__}"
            )
        if (type(value), value.dtype) != (type(first), first.dtype):
            raise TypeError(f"rank {rank} gave {_described(value)}, rank 0 {_described(first)}")
        if value.shape != first.shape:
            raise ValueError(f"rank {rank} gave shape {tuple(value.shape)}, rank 0 {tuple(first.shape)}")
    return sys.modules[type(first).__module__.partition(".")[0]]


def _described(value: Any) -> str:
    return f"{type(value).__name__} of {value.dtype}"


def _reduced(library: ModuleType, values: list[Any], reduction: str) -> Any:
    if reduction == "avg" and not _is_inexact(library, values[0].dtype):
        raise TypeError(f"avg takes floating-point or complex numbers, not {values[0].dtype}: convert them first")
    function = getattr(library, _FUNCTIONS[reduction])
    with _without_gradients(library):
        if len(values) == 1:
            return library.clone(values[0]) if library.__name__ == "torch" else library.array(values[0])
        # An array of its own in any case: numpy gives a scalar where the arrays have no dimension.
        total = library.empty_like(values[0])
        function(values[0], values[1], out=total)
        for value in values[2:]:
            function(total, value, out=total)
        if reduction == "avg":
            library.divide(total, len(values), out=total)
        return total


def _is_inexact(library: ModuleType, dtype: Any) -> bool:
    if library.__name__ == "torch":
        return bool(dtype.is_floating_point or dtype.is_complex)
    return bool(library.issubdtype(dtype, library.inexact))


def _without_gradients(library: ModuleType) -> contextlib.AbstractContextManager[Any]:
    if library.__name__ == "torch":
        guard: contextlib.AbstractContextManager[Any] = library.no_grad()
        return guard
    return contextlib.nullcontext()
