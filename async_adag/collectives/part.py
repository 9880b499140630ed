"""One rank's part of a collective operation, as a function of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from async_adag.collectives.arithmetic import allgather, allreduce, reducescatter
from async_adag.collectives.contributions import Described, check, describe
from async_adag.collectives.over_nccl import OverNccl
from async_adag.gpu.crossing import empty_like
from async_adag.gpu.jax_arrays import is_jax
from async_adag.graph.model import Collective


def part(collective: Collective) -> Callable[..., Any]:
    """What the rank does in each execution. Its arguments are those that `Collective` says."""
    if collective.kind == "announce":
        return _announcement(collective)
    if collective.communicator is not None:
        return _together(collective)
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


def _together(collective: Collective) -> Callable[..., Any]:
    """Nobody calls the communicator unless all do: what could fail at one rank is checked at all, alike."""
    over_nccl = isinstance(collective.communicator, OverNccl)
    run = _through_nccl(collective) if over_nccl else _through_communicator(collective)
    size = collective.size

    def call(*values: Any) -> Any:
        contributions, announced = values[:-size], values[-size:]
        for described in zip(*announced, strict=True):
            check(collective.kind, described)
        results = run(contributions)
        return results[0] if len(results) == 1 else results

    return call


def _through_nccl(collective: Collective) -> Callable[[Sequence[Any]], list[Any]]:
    kind, reduction, shape_of = collective.kind, collective.reduction, partial(_shape, collective)
    return lambda values: collective.communicator.run(kind, reduction, values, shape_of)


def _through_communicator(collective: Collective) -> Callable[[Sequence[Any]], list[Any]]:
    method = getattr(collective.communicator, collective.kind)
    reducing = [] if collective.operation is None else [collective.operation]

    def run(values: Sequence[Any]) -> list[Any]:
        if any(map(is_jax, values)):
            raise TypeError(
                f"{type(collective.communicator).__name__}.{collective.kind} is to fill its result, and arrays of "
                "jax are never written: contribute arrays of another library, or leave transport out"
            )
        results = [empty_like(value, _shape(collective, value)) for value in values]
        for value, result in zip(values, results, strict=True):
            method(value, result, *reducing)
        return results

    return run


def _shape(collective: Collective, value: Any) -> tuple[int, ...]:
    """The shape of the result for ``value``."""
    if collective.kind == "allreduce":
        return tuple(value.shape)
    first, *others = value.shape
    rows = first * collective.size if collective.kind == "allgather" else first // collective.size
    return (rows, *others)
