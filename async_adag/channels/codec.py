"""The codec: values to frames' bodies and buffers, and back.

None, small integers, floats, bytes, str and plain arrays (`arrays.py`) have a form of their own, and so have the
two things that travel in place of a value: a node's failure, and the word that nothing more will come. Everything
else goes through one pickler, protocol 5, whose out-of-band buffers are copied once, as an array's bytes are,
straight into shared memory.
What the other process could not import, such as the classes and functions of ``__main__``, is sent by value: the
pickler is Ray's cloudpickle, which also honours the serializers that were registered with Ray.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any, NamedTuple

from ray.cloudpickle import CloudPickler

from async_adag.channels.arrays import decode_array, encode_array, is_array
from async_adag.channels.pickler import Pickler
from async_adag.protocol.frame import MAX_BUFFERS, Kind

_INT = struct.Struct("=q")
_FLOAT = struct.Struct("=d")
_INT_LOW, _INT_HIGH = -(1 << 63), 1 << 63

_NONE, _INTEGER, _REAL, _BYTES, _STR, _PICKLE, _FAILURE, _STOP, _REFS, _ARRAY = (
    int(kind)
    for kind in (
        Kind.NONE,
        Kind.INT,
        Kind.FLOAT,
        Kind.BYTES,
        Kind.STR,
        Kind.PICKLE,
        Kind.ERROR,
        Kind.STOP,
        Kind.REFS,
        Kind.ARRAY,
    )
)


class Stop:
    """What a reader is handed in place of a value when the writer will send nothing more."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "STOP"


class Failure:
    """What a reader is handed in place of a value when the node upstream failed: its error, still encoded."""

    __slots__ = ("encoded",)

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded

    def __repr__(self) -> str:
        return f"Failure({len(self.encoded)} bytes)"


STOP = Stop()


class Referring(NamedTuple):
    """In place of a body: a pickle, and the ObjectRefs in it, which are to be held while readers use them."""

    body: bytes
    refs: list[Any]


Encoded = tuple[int, Any, list[memoryview]]
"""A kind, the body (bytes-like; `Referring`; or the value itself on a hand-over), and the out-of-band buffers."""

_NO_BUFFERS: list[memoryview] = []


class Encoder:
    """Turns values into bodies and buffers. One per writer: it reuses its pickler."""

    __slots__ = ("_buffers", "_busy", "_file", "_pickler", "_refs")

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._buffers: list[PickleBuffer] = []
        self._refs: list[Any] = []
        self._pickler = Pickler(self._file, self._buffers, self._refs)
        self._busy = False

    def encode(self, value: Any) -> Encoded:
        """The frame of ``value``; its buffers refer to the value's own memory.

        Raises:
            ValueError: the value has more buffers than a message carries.
            Exception: whatever pickling raised, most often TypeError or PicklingError.
        """
        kind = type(value)
        if kind is int and _INT_LOW <= value < _INT_HIGH:
            return _INTEGER, _INT.pack(value), _NO_BUFFERS
        if value is None:
            return _NONE, b"", _NO_BUFFERS
        if kind is bytes:
            return _BYTES, value, _NO_BUFFERS
        if kind is str:
            try:
                return _STR, value.encode(), _NO_BUFFERS
            except UnicodeEncodeError:  # a lone surrogate, which pickle carries
                return self._pickle(value)
        if kind is float:
            return _REAL, _FLOAT.pack(value), _NO_BUFFERS
        if kind is Failure:
            return _FAILURE, value.encoded, _NO_BUFFERS
        if value is STOP:
            return _STOP, b"", _NO_BUFFERS
        if is_array(kind) and kind not in self._pickler.registered:  # else somebody has a way of their own
            plain = encode_array(value)
            if plain is not None:
                return _ARRAY, plain[0], [plain[1]]
        return self._pickle(value)

    def _pickle(self, value: Any) -> Encoded:
        if self._busy:  # a reducer of the user's came back here: the pickler is in the middle of a value
            return Encoder()._pickle(value)
        self._busy = True
        self._pickler.look()
        try:
            self._pickler.dump(value)
            if len(self._buffers) > MAX_BUFFERS:
                raise ValueError(
                    f"{len(self._buffers):,} arrays and other buffers are in one value, and a message carries "
                    f"{MAX_BUFFERS:,} at most: join them into fewer and larger ones"
                )
            body = self._file.getvalue()
            buffers = [_flat(buffer) for buffer in self._buffers] if self._buffers else _NO_BUFFERS
            if self._refs:
                return _REFS, Referring(body, self._refs.copy()), buffers
        finally:
            self._pickler.clear_memo()
            self._file.seek(0)
            self._file.truncate()
            self._buffers.clear()
            self._refs.clear()
            self._busy = False
        return _PICKLE, body, buffers


def _flat(buffer: PickleBuffer) -> memoryview:
    return buffer.raw()


def _decode_none(body: memoryview, buffers: list[memoryview]) -> None:
    return None


def _decode_int(body: memoryview, buffers: list[memoryview]) -> int:
    value: int = _INT.unpack(body)[0]
    return value


def _decode_float(body: memoryview, buffers: list[memoryview]) -> float:
    value: float = _FLOAT.unpack(body)[0]
    return value


def _decode_bytes(body: memoryview, buffers: list[memoryview]) -> bytes:
    return bytes(body)


def _decode_str(body: memoryview, buffers: list[memoryview]) -> str:
    return str(body, "utf-8")


def _decode_pickle(body: memoryview, buffers: list[memoryview]) -> Any:
    return pickle.loads(body, buffers=buffers)


def _decode_failure(body: memoryview, buffers: list[memoryview]) -> Failure:
    return Failure(bytes(body))


def _decode_stop(body: memoryview, buffers: list[memoryview]) -> Stop:
    return STOP


DECODERS: dict[int, Callable[[memoryview, list[memoryview]], Any]] = {
    _NONE: _decode_none,
    _INTEGER: _decode_int,
    _REAL: _decode_float,
    _BYTES: _decode_bytes,
    _STR: _decode_str,
    _PICKLE: _decode_pickle,
    _FAILURE: _decode_failure,
    _STOP: _decode_stop,
    _ARRAY: decode_array,
}


def dumps(value: Any) -> bytes:
    """``value`` as one bytes object, by the same pickler.

    Raises:
        Exception: whatever pickling raised.
    """
    file = io.BytesIO()
    CloudPickler(file, 5).dump(value)
    return file.getvalue()
