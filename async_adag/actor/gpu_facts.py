"""What an actor tells of its GPU: asked by the driver, through Ray, before it plans a graph with GPU edges."""

from __future__ import annotations

from typing import NamedTuple


class GpuFacts(NamedTuple):
    """The GPU of an actor's process.

    Attributes:
        identity: CUDA's UUID of it; "" where there is none to be used.
        reason: why there is none.
    """

    identity: str
    reason: str = ""


def gpu_of(instance: object) -> GpuFacts:  # noqa: ARG001 - the actor
    """Run in the actor."""
    from async_adag.gpu.cuda import find_device
    from async_adag.gpu.interface import DeviceError

    try:
        return GpuFacts(find_device().identity)
    except DeviceError as error:
        return GpuFacts("", str(error))


def new_links(instance: object, count: int) -> list[object]:  # noqa: ARG001 - the actor
    """Run in the actor that is to send: so many links, not initialized."""
    from async_adag.gpu.nccl import NcclLink

    return [NcclLink(NcclLink.new_id()) for _ in range(count)]
