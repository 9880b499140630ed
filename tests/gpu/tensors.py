"""Tensors told in words that any process understands, made by a library, and told again bit by bit."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from async_adag.channels.tensor_headers import kept_strides

PLATFORMS = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu"}


@dataclass(frozen=True)
class Tensor:
    """A tensor to be made.

    Attributes:
        shape: its shape.
        dtype: its type, as torch and numpy name it.
        seed: what is in it.
        layout: "plain"; "transposed"; or "strided", every second element of a longer one along each axis.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    seed: int = 1
    layout: str = "plain"


def build(value: Any, library: str) -> Any:
    """The same, with every `Tensor` in lists, tuples and dicts made on the current device by ``library``."""
    if isinstance(value, Tensor):
        return {"torch": _torch, "cupy": _cupy, "jax": _jax}[library](value)
    if isinstance(value, dict):
        return {key: build(part, library) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(build(part, library) for part in value)
    return value


def tell(value: Any) -> Any:
    """The same, with every tensor as its library, device, type, shape, strides, and a digest of its elements.

    Strides are told of those that are to keep them: of torch and cupy, dense, and not in rows.
    """
    if isinstance(value, dict):
        return {key: tell(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(tell(part) for part in value)
    library = type(value).__module__.partition(".")[0]
    if library == "torch":
        flat = value.detach().contiguous().reshape(-1)
        raw = flat.view(_torch_bytes()).cpu().numpy().tobytes() if flat.numel() else b""
        kept = kept_strides(tuple(value.shape), value.stride())
        return ("torch", value.device.type, str(value.dtype), tuple(value.shape), kept, digest(raw))
    if library in ("jax", "jaxlib"):
        (device,) = value.devices()
        raw = np.asarray(value).tobytes()
        return ("jax", PLATFORMS[device.platform], str(value.dtype), value.shape, (), digest(raw))
    if library == "cupy":
        kept = kept_strides(value.shape, [stride // value.itemsize for stride in value.strides])
        return ("cupy", "cuda", str(value.dtype), value.shape, kept, digest(value.get().tobytes()))
    if library == "numpy" and type(value).__name__ == "ndarray":
        return ("numpy", "cpu", str(value.dtype), value.shape, (), digest(value.tobytes()))
    return value


def on_the_cpu(value: Any) -> Any:
    """The same, with every tensor in the CPU's memory: cupy's arrays as numpy's, others as their library's."""
    if isinstance(value, dict):
        return {key: on_the_cpu(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_the_cpu(part) for part in value)
    library = type(value).__module__.partition(".")[0]
    if library in ("jax", "jaxlib"):
        import jax

        return jax.device_put(value, jax.local_devices(backend="cpu")[0])
    return value.cpu() if library == "torch" else value.get() if library == "cupy" else value


def digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _torch_bytes() -> Any:
    import torch

    return torch.uint8


def _shape_to_make(tensor: Tensor) -> tuple[int, ...]:
    if tensor.layout == "transposed":
        return tensor.shape[::-1]
    return tuple(2 * length for length in tensor.shape) if tensor.layout == "strided" else tensor.shape


def _cut(made: Any, tensor: Tensor) -> Any:
    if tensor.layout == "transposed":
        return made.T
    return made[tuple(slice(None, None, 2) for _ in tensor.shape)] if tensor.layout == "strided" else made


def _torch(tensor: Tensor) -> Any:
    import torch

    shape = _shape_to_make(tensor)
    count = int(torch.Size(shape).numel())
    numbers = torch.arange(count, device="cuda", dtype=torch.int64) * 37 + tensor.seed
    return _cut((numbers % 97).to(torch.float32).to(getattr(torch, tensor.dtype)).reshape(shape), tensor)


def _cupy(tensor: Tensor) -> Any:
    import cupy

    shape = _shape_to_make(tensor)
    count = 1
    for length in shape:
        count *= length
    numbers = cupy.arange(count, dtype=cupy.int64) * 37 + tensor.seed
    return _cut((numbers % 97).astype(cupy.float32).astype(tensor.dtype).reshape(shape), tensor)


def _jax(tensor: Tensor) -> Any:
    """Of 32 bits where 64 are asked for, as jax has it."""
    import jax.numpy as numpy

    shape = _shape_to_make(tensor)
    numbers = numpy.arange(math.prod(shape), dtype=numpy.int32) * 37 + tensor.seed
    return _cut((numbers % 97).astype(numpy.float32).astype(tensor.dtype).reshape(shape), tensor)
