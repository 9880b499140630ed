"""What a rank computes of all ranks' contributions: arrays of numpy, cupy or jax, or torch tensors.

Whichever library made the values is used, by names that all have; none is imported here.
"""

from __future__ import annotations

import contextlib
import sys
from functools import reduce
from types import ModuleType
from typing import Any

from async_adag.collectives.contributions import check, describe

_FUNCTIONS = {"sum": "add", "avg": "add", "product": "multiply", "max": "maximum", "min": "minimum"}


def allreduce(values: list[Any], reduction: str) -> Any:
    """The reduction of all ranks' contributions, in the order of the ranks: a new array.

    Raises:
        TypeError, ValueError: as `describe` and `check`; or ``reduction`` does not go with the type.
    """
    return _reduced(_library("allreduce", values), values, reduction)


def reducescatter(values: list[Any], reduction: str, rank: int) -> Any:
    """The part of rank ``rank``, along the first dimension, of the reduction of all ranks' contributions.

    Raises:
        TypeError, ValueError: as `allreduce`.
    """
    library = _library("reducescatter", values)
    rows = values[0].shape[0] // len(values)
    part = slice(rank * rows, (rank + 1) * rows)
    return _reduced(library, [value[part] for value in values], reduction)


def allgather(values: list[Any]) -> Any:
    """All ranks' contributions, joined along the first dimension: a new array.

    Raises:
        TypeError, ValueError: as `describe` and `check`.
    """
    library = _library("allgather", values)
    with _without_gradients(library):
        return library.concatenate(values)


def _library(kind: str, values: list[Any]) -> ModuleType:
    """The library of these arrays, which are checked."""
    described = [describe(value, rank) for rank, value in enumerate(values)]
    check(kind, described)
    module: Any = sys.modules[described[0].module]
    return module.numpy if described[0].module == "jax" else module  # type: ignore[no-any-return]


def _reduced(library: ModuleType, values: list[Any], reduction: str) -> Any:
    if reduction == "avg" and not _is_inexact(library, values[0].dtype):
        raise TypeError(f"avg takes floating-point or complex numbers, not {values[0].dtype}: convert them first")
    function = getattr(library, _FUNCTIONS[reduction])
    with _without_gradients(library):
        if len(values) == 1:
            return library.clone(values[0]) if library.__name__ == "torch" else library.array(values[0])
        if library.__name__ == "jax.numpy":  # whose arrays are never written
            total = reduce(function, values)
            return library.divide(total, len(values)) if reduction == "avg" else total
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
