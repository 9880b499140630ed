"""Bare arrays: a numpy array that is itself the value travels as its type, its shape and its bytes.

Pickling one costs ten microseconds and unpickling five, which is as much as copying half a megabyte; and what is
pickled are names and numbers that are the same each time. This is for plain arrays: in C order, of numbers in the
machine's own byte order. What else there is, such as subclasses, records, objects or dates, is pickled.

numpy is only met where somebody has imported it, or has sent an array.
"""

from __future__ import annotations

import struct
import sys
from pickle import PickleBuffer
from typing import Any

from async_adag.protocol.frame import FrameError

_CODES = "?bhilqBHILQefdFD"  # numpy's letters for booleans, integers, floats and complex numbers
_KEPT = 256  # layouts that are remembered, of either direction
_MOST_AXES = 64


class _Layouts:
    """The layouts of arrays, (dtype, shape), as the bodies of frames, and back."""

    def __init__(self) -> None:
        self._bodies: dict[Any, bytes] = {}
        self._layouts: dict[bytes, tuple[Any, tuple[int, ...]]] = {}
        self._types: dict[bytes, Any] = {}

    def known_types(self) -> dict[bytes, Any]:
        """The types that are spoken of, by their names."""
        if not self._types:
            import numpy as np

            # By name: of two letters for one type, numpy takes one where it is named, and users compare with that.
            names = [np.dtype(code).str for code in _CODES]
            self._types = {name.encode(): np.dtype(name) for name in names}
        return self._types

    def body(self, array: Any) -> bytes | None:
        """The body for an array; None where it is to be pickled."""
        dtype = array.dtype
        body = self._bodies.get((dtype, array.shape))
        if body is None:
            name = dtype.str.encode()
            if self.known_types().get(name) != dtype or not array.size:
                return None
            body = struct.pack(f"={1 + array.ndim}Q", array.ndim, *array.shape) + name
            _keep(self._bodies, (dtype, array.shape), body)
        return body if dtype.metadata is None else None

    def layout(self, body: bytes) -> tuple[Any, tuple[int, ...]]:
        """Type and shape of a body.

        Raises:
            FrameError: it is none.
        """
        layout = self._layouts.get(body)
        if layout is None:
            axes = int.from_bytes(body[:8], sys.byteorder)
            end = 8 + 8 * axes
            dtype = self.known_types().get(body[end:]) if axes <= _MOST_AXES else None
            if dtype is None:
                raise FrameError("an array of no known type")
            layout = dtype, struct.unpack_from(f"={axes}Q", body, 8)
            _keep(self._layouts, body, layout)
        return layout


def _keep(known: dict[Any, Any], key: Any, value: Any) -> None:
    if len(known) >= _KEPT:
        known.clear()  # they are made again in no time
    known[key] = value


_layouts = _Layouts()


def is_array(kind: type) -> bool:
    """Whether values of this type are arrays, and not of a class that is derived from them."""
    return kind.__name__ == "ndarray" and kind is getattr(sys.modules.get("numpy"), "ndarray", None)


def encode_array(array: Any) -> tuple[bytes, memoryview] | None:
    """The body and the buffer for an array; None where it is to be pickled."""
    if not array.flags.c_contiguous:
        return None
    body = _layouts.body(array)
    return None if body is None else (body, PickleBuffer(array).raw())


def decode_array(body: memoryview, buffers: list[memoryview]) -> Any:
    """The array over a buffer, read-only as that is.

    Raises:
        FrameError: there is no array of that layout in the buffers.
    """
    dtype, shape = _layouts.layout(bytes(body))
    import numpy as np

    try:
        (buffer,) = buffers
        return np.frombuffer(buffer, dtype).reshape(shape)
    except (TypeError, ValueError) as error:
        raise FrameError(f"no array of {dtype} in {shape}: {error}") from None
