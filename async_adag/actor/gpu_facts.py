"""What an actor tells of its GPU: asked by the driver, through Ray, before it plans a graph with GPU edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from async_adag.actor.ray_runtime import is_async_actor


class GpuFacts(NamedTuple):
    """The GPU of an actor's process.

    Attributes:
        identity: CUDA's UUID of it; "" where there is none to be used.
        reason: why there is none.
        is_async: whether the actor's executions interleave.
    """

    identity: str
    reason: str = ""
    is_async: bool = False


def gpu_of(instance: object) -> GpuFacts:
    """Run in the actor; in a driver that is none, with None."""
    from async_adag.gpu.cuda import find_device
    from async_adag.gpu.interface import DeviceError

    try:
        return GpuFacts(find_device().identity, is_async=instance is not None and is_async_actor())
    except DeviceError as error:
        return GpuFacts("", str(error))


def new_links(instance: object, count: int) -> list[object]:  # noqa: ARG001 - the actor
    """Run in the actor that is to send: so many links, not initialized."""
    from async_adag.gpu.nccl import NcclLink

    return [NcclLink(NcclLink.new_id()) for _ in range(count)]


def new_groups(instance: object, sizes: Sequence[int]) -> list[object]:  # noqa: ARG001 - the actor
    """Run in the actor that is to be rank 0: groups of so many ranks, not initialized."""
    from async_adag.gpu.nccl_group import NcclGroup

    return [NcclGroup(NcclGroup.new_id(), size) for size in sizes]
