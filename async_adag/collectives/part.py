"""One rank's part of a collective operation, as a function of its arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from async_adag.collectives.arithmetic import allgather, allreduce, reducescatter
from async_adag.graph.model import Collective


def part(collective: Collective) -> Callable[..., Any]:
    """What the rank does in each execution. Its arguments are those that `Collective` says."""
    if collective.kind == "announce":
        return _nothing
    if collective.communicator is not None:
        return _through_communicator(collective)
    size, rank, reduction = collective.size, collective.rank, collective.reduction or ""
    if collective.kind == "allgather":
        return lambda *values: allgather(list(values))
    if collective.kind == "reducescatter":
        return lambda *values: reducescatter(list(values), reduction, rank)

    def reduce_all(*values: Any) -> Any:
        """Of several tensors, the values come by rank."""
        tensors = len(values) // size
        results = [allreduce(list(values[tensor::tensors]), reduction) for tensor in range(tensors)]
        return results[0] if tensors == 1 else results

    return reduce_all


def _nothing(*contributions: Any) -> None:
    """The other ranks are told that this one has its contributions: that they arrived here says so."""


def _through_communicator(collective: Collective) -> Callable[..., Any]:
    communicator, size, operation = collective.communicator, collective.size, collective.operation

    def call(*values: Any) -> Any:
        contributions = values[:-size]  # the rest are announcements, one of each rank
        results = [call_one(value) for value in contributions]
        return results[0] if len(results) == 1 else results

    def call_one(value: Any) -> Any:
        library = sys.modules[type(value).__module__.partition(".")[0]]
        shape = list(value.shape)
        if collective.kind == "allgather":
            shape[0] *= size
        elif collective.kind == "reducescatter":
            if shape[0] % size:
                raise ValueError(
                    f"reducescatter over {size} ranks takes a first dimension that {size} divides, not {shape[0]}"
                )
            shape[0] //= size
        result = (
            library.empty_like(value) if collective.kind == "allreduce" else _empty(library, value, tuple(shape))
        )
        call = getattr(communicator, collective.kind)
        if collective.kind == "allgather":
            call(value, result)
        else:
            call(value, result, operation)
        return result

    return call


def _empty(library: Any, like: Any, shape: tuple[int, ...]) -> Any:
    if library.__name__ == "torch":
        return library.empty(shape, dtype=like.dtype, device=like.device)
    return library.empty(shape, dtype=like.dtype)
