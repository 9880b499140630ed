"""What users bind: the counterparts of ``ray.experimental.collective``, which need no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from async_adag.graph.ray_collective import bind_collective


class _Allreduce:
    """Every actor gets the reduction of what all contribute."""

    def bind(self, inputs: Sequence[Any], op: Any = "sum", transport: Any = None) -> list[Any]:
        """Bind it to one node of each actor, or to several lists of them, for several tensors of each actor.

        Args:
            inputs: nodes that give arrays of numpy, cupy or jax, or torch tensors, of the same shape and type at
                all actors.
            op: "sum", "product", "max", "min", "avg" (of floating-point or complex numbers only), or Ray's
                ``ReduceOp``.
            transport: "shm" for shared memory; "nccl" or "accelerator" for NCCL, which takes actors that have a
                GPU each (or compiling raises ``GpuUnavailable``); None or "auto" for NCCL if that can be, or
                shared memory; or a ``Communicator`` of yours, with the same actors, which is then called.

        Returns:
            Nodes of the results, one for each actor, in the shape of ``inputs``: arrays of the same library, where
            the contribution was. Through shared memory they are bitwise the same at all actors, as each reduces in
            the order of the ranks; NCCL has orders of its own.

        Raises:
            GraphError: not one node of each actor, or an unknown ``op`` or ``transport``.
        """
        return bind_collective("allreduce", op, inputs, transport)


class _Allgather:
    """Every actor gets what all contribute, joined along the first dimension in the order of the ranks."""

    def bind(self, inputs: Sequence[Any], transport: Any = None) -> list[Any]:
        """Bind it to one node of each actor.

        Args:
            inputs: nodes that give arrays of at least one dimension, of the same shape and type.
            transport: as for allreduce.

        Returns:
            Nodes of the results, one for each actor. Of N contributions of shape (d, ...) each is an array of
            shape (N * d, ...).

        Raises:
            GraphError: not one node of each actor, or an unknown ``transport``.
        """
        return bind_collective("allgather", None, inputs, transport)


class _Reducescatter:
    """The actor of rank r gets the r-th part, along the first dimension, of the reduction."""

    def bind(self, inputs: Sequence[Any], op: Any = "sum", transport: Any = None) -> list[Any]:
        """Bind it to one node of each actor.

        Args:
            inputs: nodes that give arrays of the same shape and type, whose first dimension the number of actors
                divides.
            op: as for allreduce.
            transport: as for allreduce.

        Returns:
            Nodes of the results, one for each actor. Of N contributions of shape (d, ...) each is an array of
            shape (d / N, ...).

        Raises:
            GraphError: not one node of each actor, or an unknown ``op`` or ``transport``.
        """
        return bind_collective("reducescatter", op, inputs, transport)


allreduce: _Allreduce = _Allreduce()
allgather: _Allgather = _Allgather()
reducescatter: _Reducescatter = _Reducescatter()
