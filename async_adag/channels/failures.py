"""How a node's exception travels: as the user's own object where that can be done, else as a `RemoteError`.

The exception is encoded once, by the actor whose node raised it, and handed on downstream as it is. The driver
rebuilds it, with the remote traceback as its ``__cause__`` and the user's own cause behind that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import traceback
from types import TracebackType
from typing import Any

from async_adag.channels.codec import dumps
from async_adag.errors import RemoteError

TEXT_LIMIT = 64 * 1024

# What every exception has, whatever its class makes of the name.
_CAUSE: Any = BaseException.__dict__["__cause__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_NAME: Any = type.__dict__["__name__"]


class RemoteTraceback(Exception):
    """The traceback of an exception in its actor, as text: the ``__cause__`` of what arrives here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def encode_failure(error: BaseException, label: str) -> bytes:
    """Encode what a node raised. Never fails, whatever its class does: what cannot be pickled becomes text.

    Args:
        error: the exception, with its traceback.
        label: the node in words.
    """
    summary = f"{label} raised {_type_name(error)}: {_text(_message(error))}"
    cause = _try_dumps(_CAUSE.__get__(error))
    return pickle.dumps((summary, _text(formatted(error)), _try_dumps(error), cause))


def formatted(error: BaseException) -> str:
    """An exception and its traceback as text; what can be had of them where its class is in the way."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # of the user's: an attribute that cannot be read, for one
        pass
    try:
        frames = "".join(traceback.format_tb(traceback_of(error)))
    except BaseException:
        frames = "  (which cannot be had)\n"
    return f"Traceback (most recent call last):\n{frames}{_type_name(error)}: {_message(error)}\n"


def traceback_of(error: BaseException) -> TracebackType | None:
    """The traceback, without a look at what the exception's class makes of it."""
    found: TracebackType | None = _TRACEBACK.__get__(error)
    return found


def decode_failure(encoded: bytes) -> Exception:
    """Rebuild what `encode_failure` encoded, as an exception that can be raised here.

    Raises:
        BaseException: what is no `Exception`, and was raised while it was unpickled.
    """
    summary, text, pickled, pickled_cause = pickle.loads(encoded)
    error: Exception
    rebuilt = _try_loads(pickled)
    if rebuilt is not None and _raisable(rebuilt):
        error = rebuilt
    else:
        error = RemoteError(f"{summary}\n\nThe remote traceback:\n{text}")
    cause = RemoteTraceback(text)
    cause.__cause__ = _try_loads(pickled_cause)
    _CAUSE.__set__(error, cause)  # a frozen dataclass refuses its own setting of it
    return error


def annotate(error: BaseException, note: str) -> None:
    """Add a note to an exception, if it lets itself be added to."""
    try:
        error.add_note(note)
    except Exception:
        pass


def _raisable(error: BaseException) -> bool:
    # A future refuses StopIteration; a remote cancellation would pass for one of the awaiting task; and what is
    # no Exception (KeyboardInterrupt, GeneratorExit) would be taken here for a request to this process.
    cancelled = (asyncio.CancelledError, concurrent.futures.CancelledError)
    return isinstance(error, Exception) and not isinstance(error, (StopIteration, *cancelled))


def _type_name(error: BaseException) -> str:
    cls = type(error)
    try:
        return f"{cls.__module__}.{cls.__qualname__}"
    except BaseException:
        return str(_NAME.__get__(cls))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "(its text cannot be had)"


def _text(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT // 2]}\n…\n{text[-TEXT_LIMIT // 2 :]}"


def _try_dumps(error: BaseException | None) -> bytes | None:
    if error is None:
        return None
    try:
        return dumps(error)
    except BaseException:
        return None


def _try_loads(pickled: bytes | None) -> Any:
    if pickled is None:
        return None
    try:
        error = pickle.loads(pickled)
    except Exception:
        return None
    return error if isinstance(error, BaseException) else None
