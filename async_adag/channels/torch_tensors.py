"""Torch's tensors in the CPU's memory, inside a pickle: a header there, and their elements out of band.

Torch's own way takes the elements into the pickle, with all the memory that a view looks into, which costs many
times what copying them does; and there are types that it cannot unpickle. It is left for what is no plain tensor:
what is on another device, sparse, quantized or nested, of a subclass, or has attributes or hooks of its own.

torch is only met where somebody has imported it, or has sent a tensor.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

from async_adag.channels.tensor_headers import Header, flat_of, header_of, is_plain


class TorchReducers(dict[type, Callable[[Any], Any]]):
    """How torch's tensors are pickled, by type, for a pickler's table: none before torch is imported."""

    __slots__ = ()

    def look(self) -> None:
        """See whether torch has been imported by now."""
        if not self and "torch" in sys.modules:
            parameter = getattr(getattr(sys.modules["torch"], "nn", None), "Parameter", None)
            if parameter is not None:  # else it is just being imported
                # Exact types only: what is derived from them has reducers of its own.
                self.update(dict.fromkeys((sys.modules["torch"].Tensor, parameter), reduce_tensor))


def reduce_tensor(tensor: Any) -> Any:
    """What pickles a tensor, exactly a ``torch.Tensor`` or a ``torch.nn.Parameter``, by protocol 5.

    Raises:
        Exception: whatever torch raises for one that it cannot pickle.
    """
    if not _goes_out_of_band(tensor):
        return tensor.__reduce_ex__(5)
    strides, flat = flat_of("torch", tensor)
    header = header_of("torch", tensor)._replace(strides=strides)
    part = None if header.is_empty() else PickleBuffer(bytes_of(flat))
    # A plain tuple is pickled in no time, an object of a class takes some microseconds.
    return rebuild_tensor, (tuple(header), part, () if strides else _gaps(tensor))


def rebuild_tensor(fields: tuple[Any, ...], part: Any, gaps: tuple[int, ...]) -> Any:
    """The tensor, in memory of its own.

    Args:
        fields: those of its header.
        part: its elements, one beside the other; None if there are none.
        gaps: its strides, if it is to have room between its elements.

    Raises:
        ImportError: torch is not here.
        RuntimeError, ValueError: there are fewer bytes than its elements take.
    """
    header = Header(*fields)
    tensor = on_cpu(header, part)
    if gaps:
        torch: Any = importlib.import_module("torch")
        tensor = torch.empty_strided(header.shape, gaps, dtype=tensor.dtype, device="cpu").copy_(tensor)
    return header.finish(tensor)


def bytes_of(tensor: Any) -> memoryview:
    """The bytes of a contiguous tensor of torch in the CPU's memory; no copy."""
    torch: Any = sys.modules["torch"]
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def on_cpu(header: Header, part: Any) -> Any:
    """A tensor of torch with a copy of these bytes, as torch has none that cannot be written to.

    Raises:
        ImportError: torch is not here.
        RuntimeError, ValueError: there are fewer bytes than its elements take.
    """
    if header.is_empty():
        return header.empty()
    torch: Any = importlib.import_module("torch")
    # Python's memory: torch's own, being aligned, often goes back to the system and is faulted in anew each time.
    return header.arrange(torch.frombuffer(bytearray(part), dtype=header.type_here()))


def _gaps(tensor: Any) -> tuple[int, ...]:
    """The strides of a view with room between its elements; () where they lie in rows, or on one another."""
    if tensor.is_contiguous():
        return ()
    end = 0
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length > 1:
            if stride <= end:
                return ()
            end += stride * (length - 1)
    return tuple(tensor.stride())


def _goes_out_of_band(tensor: Any) -> bool:
    of_its_own = tensor.__dict__ or tensor._backward_hooks
    return tensor.device.type == "cpu" and is_plain(tensor) and not of_its_own and "numpy" in sys.modules
