"""Arrays of jax as memory of the device, and memory that has arrived as arrays of jax, by the DLPack protocol.

jax has no current stream that could be asked for, so what the protocol promises decides.
``__dlpack__(stream=...)`` has that stream wait until an array is computed. ``from_dlpack`` takes memory that jax's
own streams are to wait for, by the same call. When they are done with memory that jax took, nobody is told; what
has arrived is copied into memory of jax's own, and a stream is made to wait for the copy. Nothing waits in Python.

Nobody imports jax here: whoever has its arrays has loaded it.
"""

from __future__ import annotations

import ctypes
import re
import sys
from typing import Any

from async_adag.gpu.interface import Span

_WHOLE_BYTES = re.compile(r"bool|u?int(8|16|32|64)|bfloat16|float(16|32|64|8_\w+)|complex(64|128)")
"""The types that travel. Of others, as those of four bits, it is not said how they lie in memory."""

_DEFAULT_STREAM = 1
"""What CUDA's legacy default stream, 0, is called in DLPack, where 0 is ambiguous."""

_NAME = b"dltensor"


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    """DLPack's ``DLTensor``, with which what a capsule holds begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_open_capsule = ctypes.pythonapi.PyCapsule_GetPointer
_open_capsule.restype = ctypes.c_void_p
_open_capsule.argtypes = (ctypes.py_object, ctypes.c_char_p)


def is_jax(value: Any) -> bool:
    """Whether this is an array of jax, wherever it is."""
    jax: Any = sys.modules.get("jax")
    return hasattr(jax, "Array") and isinstance(value, jax.Array)


def is_on_gpu(array: Any) -> bool:
    """Whether an array of jax is in the memory of GPUs."""
    return all(device.platform in ("gpu", "cuda") for device in array.devices())


def may_travel(array: Any) -> bool:
    """Whether an array of jax on a GPU can go to another as its bytes, so that the same array comes out of them.

    It can if it is whole on one GPU, is of a type of whole bytes, and is not weakly typed, as what jax makes of
    Python's numbers is: there is no call that would make such an array again.
    """
    one = len(array.devices()) == 1 and array.sharding.memory_kind in (None, "device")
    return one and is_of_whole_bytes(array) and not array.weak_type


def is_of_whole_bytes(array: Any) -> bool:
    """Whether the elements of an array of jax are numbers of whole bytes."""
    return _WHOLE_BYTES.fullmatch(str(array.dtype)) is not None


def expose(array: Any, stream: int | None) -> tuple[Span, Any]:
    """Where the elements of an array of jax lie, and what keeps them there.

    Args:
        array: one that `may_travel`.
        stream: a cudaStream_t; what is issued there from now on finds the array computed. None, for an array in
            the CPU's memory, waits for it.

    Raises:
        ValueError: jax was asked to lay it out in another way than in rows.
    """
    capsule = array.__dlpack__(stream=_DEFAULT_STREAM if stream == 0 else stream)
    tensor = _Tensor.from_address(_open_capsule(capsule, _NAME))
    expected = 1
    for axis in reversed(range(tensor.ndim)):
        length = tensor.shape[axis]
        if tensor.strides and length > 1 and tensor.strides[axis] != expected:
            raise ValueError(
                f"an array of jax of shape {array.shape} has a layout of its own, in which it cannot travel: give "
                "it jax's default layout (jax.device_put), or compile with device='cpu'"
            )
        expected *= length
    return Span((tensor.data or 0) + tensor.byte_offset, array.nbytes), (array, capsule)


def take_over(view: Any, stream: int | None, bits_of: str = "") -> Any:
    """An array of jax of its own, with what lies in memory that is somebody else's.

    Args:
        view: the memory: an array of any library's with ``__dlpack__``.
        stream: a cudaStream_t; what is issued there from now on comes when the memory has been read. None, for the
            CPU's memory, waits for that.
        bits_of: the type of the array, as jax names it, where ``view`` is of whole numbers of that size, as its
            library has no such type.
    """
    jax: Any = sys.modules["jax"]
    there = jax.numpy.from_dlpack(view)
    # Not every version of jax keeps to ``copy=True`` of `from_dlpack`.
    copied = jax.lax.bitcast_convert_type(there, jax.numpy.dtype(bits_of)) if bits_of else jax.numpy.copy(there)
    copied.__dlpack__(stream=_DEFAULT_STREAM if stream == 0 else stream)
    return copied
