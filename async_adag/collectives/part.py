"""One rank's part of a collective operation, as a function of its arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from async_adag.collectives.arithmetic import allgather, allreduce, reducescatter
from async_adag.collectives.contributions import Described, check, describe
from async_adag.graph.model import Collective


def part(collective: Collective) -> Callable[..., Any]:
    """What the rank does in each execution. Its arguments are those that `Collective` says."""
    if collective.kind == "announce":
        return _announcement(collective)
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


def _announcement(collective: Collective) -> Callable[..., list[Described]]:
    def announce(*contributions: Any) -> list[Described]:
        """What the other ranks are told: that this one has its contributions, and what they are."""
        return [describe(value, collective.rank) for value in contributions]

    return announce


def _through_communicator(collective: Collective) -> Callable[..., Any]:
    """Nobody calls the communicator unless all do: what could fail at one rank is checked at all, alike."""
    communicator, size, operation = collective.communicator, collective.size, collective.operation
    method = getattr(communicator, collective.kind)
    reducing = [] if operation is None else [operation]

    def call(*values: Any) -> Any:
        contributions, announced = values[:-size], values[-size:]
        for described in zip(*announced, strict=True):
            check(collective.kind, described)
        results = []
        for value in contributions:
            result = _room(collective, value)
            method(value, result, *reducing)
            results.append(result)
        return results[0] if len(results) == 1 else results

    return call


def _room(collective: Collective, value: Any) -> Any:
    """An array for the result, of the library that made ``value``."""
    library: Any = sys.modules[type(value).__module__.partition(".")[0]]
    shape = list(value.shape)
    if collective.kind == "allgather":
        shape[0] *= collective.size
    elif collective.kind == "reducescatter":
        shape[0] //= collective.size
    if library.__name__ == "torch":
        return library.empty(shape, dtype=value.dtype, device=value.device)
    return library.empty(shape, dtype=value.dtype)
