"""The borders: arrays of the libraries as spans of memory, and memory that has arrived as arrays of theirs.

Elements are raw bytes here, so every type passes, whether or not the libraries know it of one another. Torch and
jax are used only where the process has loaded them by itself; `jax_arrays` has what is different with jax.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from async_adag.gpu import jax_arrays
from async_adag.gpu.interface import Span
from async_adag.gpu.transfer import Arrived


def library_of(array: Any) -> str:
    """The library whose array on a GPU this is: "torch", "cupy", "jax"; "" if it is none."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "Tensor") and isinstance(array, torch.Tensor):
        return "torch" if array.is_cuda else ""
    cupy: Any = sys.modules.get("cupy")
    if cupy is not None and hasattr(cupy, "ndarray") and isinstance(array, cupy.ndarray):
        return "cupy"
    return "jax" if jax_arrays.is_jax(array) and jax_arrays.is_on_gpu(array) else ""


def span_of(array: Any) -> Span:
    """Where the elements of an array of torch or cupy lie. Owns nothing, and waits for nothing.

    Raises:
        ValueError: it is not on a GPU, or not contiguous.
    """
    library = library_of(array)
    if library == "torch":
        if not array.is_contiguous():
            raise ValueError(f"a tensor of shape {tuple(array.shape)} is not contiguous: call contiguous()")
        return Span(array.data_ptr(), array.numel() * array.element_size())
    if library == "cupy":
        if not array.flags.c_contiguous:
            raise ValueError(f"an array of shape {array.shape} is not contiguous: use cupy.ascontiguousarray()")
        return Span(array.data.ptr, array.nbytes)
    raise ValueError(f"{type(array).__name__} is no array of torch or cupy that is on a GPU")


def expose(array: Any, stream: int) -> tuple[Span, Any]:
    """Where the elements of an array lie, and what keeps them there. Waits for nothing.

    Args:
        array: of torch or cupy, contiguous; or of jax.
        stream: a cudaStream_t; what is issued there from now on finds an array of jax computed. (Those of torch
            and cupy are, in the order of their libraries' current streams.)

    Raises:
        ValueError: as `span_of`.
    """
    return jax_arrays.expose(array, stream) if library_of(array) == "jax" else (span_of(array), array)


def current_stream(library: str, ordinal: int) -> int:
    """The stream to which a library issues work now, on this thread: its cudaStream_t.

    Args:
        library: "torch" or "cupy"; or "jax", which has none, so that cupy's stands at its borders.
        ordinal: of the device, as CUDA counts those that this process sees.

    Raises:
        ValueError: the library is another.
    """
    if library == "torch":
        return int(sys.modules["torch"].cuda.current_stream(ordinal).cuda_stream)
    if library in ("cupy", "jax"):
        import cupy

        return int(cupy.cuda.get_current_stream(ordinal).ptr)
    raise ValueError(f"{library!r} has no current stream: torch and cupy have")


def current_streams(ordinal: int) -> list[int]:
    """The current streams of those libraries that this process uses, each once; if none, the default one."""
    torch: Any = sys.modules.get("torch")
    found = [current_stream("cupy", ordinal)] if "cupy" in sys.modules else []
    if hasattr(torch, "cuda") and torch.cuda.is_initialized():
        found.append(current_stream("torch", ordinal))
    return sorted(set(found or [0]))


def handle_of(stream: Any) -> int:
    """The cudaStream_t of a stream of torch or cupy, or of what is one already.

    Raises:
        TypeError: it is no stream.
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    for name in ("cuda_stream", "ptr", "handle"):  # of torch, of cupy, and our own
        handle = getattr(stream, name, None)
        if isinstance(handle, int):
            return handle
    raise TypeError(f"{type(stream).__name__} is no stream of torch or cupy, nor the number of one")


def wrap(
    arrived: Arrived, library: str, dtype: str, shape: Sequence[int], ordinal: int, strides: Sequence[int] = ()
) -> Any:
    """An array over memory that has arrived, which keeps ``arrived`` for as long as it, or a view of it, lives.

    No copy is made and no stream made to wait: the stream of its first use does so already. But jax gets a copy of
    its own, behind which cupy's current stream goes on.

    Args:
        arrived: the memory; what an empty array has of it does not matter.
        library: "torch", "cupy" or "jax".
        dtype: its type as the library names it: "bfloat16" for torch and jax, "<f4" for cupy.
        shape: its shape.
        ordinal: of the device, as CUDA counts those that this process sees.
        strides: how many elements further the next one along each axis lies; () where they lie in rows, as jax's
            always do.

    Raises:
        ValueError: it would be larger than the memory, or the library is another.
    """
    if library == "torch":
        return _torch(arrived, dtype, tuple(shape), ordinal, tuple(strides))
    if library == "cupy":
        return _cupy(arrived, dtype, tuple(shape), ordinal, tuple(strides))
    if library == "jax":
        return _jax(arrived, dtype, tuple(shape), ordinal)
    raise ValueError(f"{library!r} is no library whose arrays are known here: torch, cupy and jax are")


def extent(span: Span, itemsize: int, shape: Sequence[int], strides: Sequence[int] = ()) -> int:
    """How many bytes an array reaches over.

    Args:
        span: the memory in which it lies, from the beginning.
        itemsize: of an element, in bytes.
        shape: its shape.
        strides: its strides, in elements; () where its elements lie in rows.

    Raises:
        ValueError: the memory is not as long.
    """
    nbytes = math.prod(shape) * itemsize
    if strides and nbytes:
        reached = [(length - 1) * stride for length, stride in zip(shape, strides, strict=True)]
        if min(reached) < 0:
            raise ValueError(
                f"an array of shape {tuple(shape)} and strides {tuple(strides)} begins before its memory"
            )
        nbytes = (1 + sum(reached)) * itemsize
    if nbytes > span.nbytes:
        raise ValueError(
            f"an array of shape {tuple(shape)} needs {nbytes:,} bytes, and {span.nbytes:,} bytes have arrived"
        )
    return nbytes


def _cupy(
    arrived: Arrived, dtype: Any, shape: tuple[int, ...], ordinal: int, strides: tuple[int, ...] = ()
) -> Any:
    import cupy

    kind = cupy.dtype(dtype)
    if 0 in shape:
        with cupy.cuda.Device(ordinal):
            return cupy.empty(shape, kind)
    span = arrived.span
    nbytes = extent(span, kind.itemsize, shape, strides)
    memory = cupy.cuda.UnownedMemory(span.address, nbytes, arrived, ordinal)
    in_bytes = tuple(kind.itemsize * stride for stride in strides) or None
    return cupy.ndarray(shape, kind, cupy.cuda.MemoryPointer(memory, 0), in_bytes)


def _torch(arrived: Arrived, dtype: str, shape: tuple[int, ...], ordinal: int, strides: tuple[int, ...]) -> Any:
    torch: Any = sys.modules["torch"]
    kind = getattr(torch, dtype)
    if 0 in shape:
        return torch.empty(shape, dtype=kind, device=f"cuda:{ordinal}")
    raw = _cupy(arrived, "u1", (extent(arrived.span, kind.itemsize, shape, strides),), ordinal)
    # By way of a capsule, and with -1, for neither library's stream is to wait for the other's.
    flat = torch.from_dlpack(raw.__dlpack__(stream=-1)).view(kind)
    return flat.as_strided(shape, strides) if strides else flat.reshape(shape)


def _jax(arrived: Arrived, dtype: str, shape: tuple[int, ...], ordinal: int) -> Any:
    jax: Any = sys.modules["jax"]
    kind = jax.numpy.dtype(dtype)
    if 0 in shape:
        return jax.numpy.zeros(shape, kind)
    raw = _cupy(arrived, "u1", (extent(arrived.span, kind.itemsize, shape),), ordinal)
    stream = current_stream("jax", ordinal)
    if kind.name.startswith(("float8", "bfloat16")):  # which not every cupy has, or hands on
        return jax_arrays.take_over(raw.view(f"u{kind.itemsize}").reshape(shape), stream, bits_of=kind.name)
    return jax_arrays.take_over(raw.view(kind).reshape(shape), stream)
