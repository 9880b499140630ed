"""What hints promise of results, checked where they are written: ``_static_shape`` and ``_direct_return``.

A result that is not as promised fails its execution. Where nothing was promised, nothing stands in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from async_adag.channels.codec import Encoded, Failure, Stop
from async_adag.channels.failures import encode_failure
from async_adag.channels.interface import Writer
from async_adag.channels.tensor_headers import Header
from async_adag.channels.tensors import headers_of, is_tensor
from async_adag.graph.plan import Promise


class Check:
    """The promises of one result. The first value that it sees tells which types and shapes are meant."""

    def __init__(self, promise: Promise) -> None:
        self._promise = promise
        self._layout: list[str] | None = None

    def __call__(self, value: Any) -> None:
        """Check a value.

        Raises:
            ValueError: it is not as promised: the error that Ray raises.
            Exception: whatever pickling raises.
        """
        promise = self._promise
        if promise.direct_return and not is_tensor(value):
            raise ValueError(
                f"{promise.label} is to return a tensor itself (_direct_return=True); it returned "
                f"{_article(value)}. Leave _direct_return out where tensors lie inside of other values"
            )
        if not promise.static_shape:
            return
        layout = [_in_words(header) for header in headers_of(value, on_gpu=promise.on_gpu)]
        if self._layout is None:
            self._layout = layout
        elif layout != self._layout:
            raise ValueError(
                f"{promise.label} is to return tensors of the same types and shapes in every execution "
                f"(_static_shape=True): expected {_list(self._layout)} as in the first, got {_list(layout)}. "
                "Leave _static_shape out where they change"
            )


class PromisedWriter:
    """A channel's writing end behind checks: see `interface.Writer`. The end is its owner's to close."""

    def __init__(self, writer: Writer, promises: Sequence[Promise | None]) -> None:
        self._writer = writer
        self._labels = [promise.label if promise is not None else "" for promise in promises]
        self._checks = [Check(promise) if promise is not None else None for promise in promises]
        self.may_write = writer.may_write
        self.stage = writer.stage
        self.unstage = writer.unstage
        self.call_up = writer.call_up
        self.publish = writer.publish
        self.arm = writer.arm
        self.close = writer.close
        self.leave_to_parent = writer.leave_to_parent

    @property
    def bytes(self) -> int:
        """See `interface.Writer`."""
        return self._writer.bytes

    def encode(self, value: Any) -> Encoded:
        """See `interface.Writer`; a failure in place of a value that is not as promised."""
        if type(value) in (Failure, Stop):
            return self._writer.encode(value)
        for part, check, label in zip(self._parts(value), self._checks, self._labels, strict=True):
            if check is None:
                continue
            try:
                check(part)
            except ValueError as error:
                return self._writer.encode(Failure(encode_failure(error, label)))
        return self._writer.encode(value)

    def _parts(self, value: Any) -> Sequence[Any]:
        return (value,) if len(self._checks) == 1 else value


def keep_promises(writer: Writer, promises: Sequence[Promise | None]) -> Writer:
    """The writing end of a channel, behind checks if anything was promised of what it carries."""
    return PromisedWriter(writer, promises) if promises else writer


def _in_words(header: Header) -> str:
    return f"{header.package} {header.dtype} of shape {header.shape}"


def _list(layout: list[str]) -> str:
    return f"[{', '.join(layout)}]" if layout else "no tensors"


def _article(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
