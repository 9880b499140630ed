"""How a node's exception travels: as the user's own object where that can be done, else as a `RemoteError`.

The exception is encoded once, by the actor whose node raised it, and handed on downstream as it is. The driver
rebuilds it, with the remote traceback as its ``__cause__`` and the user's own cause behind that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import traceback
from typing import Any

from async_adag.channels.codec import dumps
from async_adag.errors import RemoteError

TEXT_LIMIT = 64 * 1024


class RemoteTraceback(Exception):
    """The traceback of an exception in its actor, as text: the ``__cause__`` of what arrives here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def encode_failure(error: BaseException, label: str) -> bytes:
    """Encode what a node raised. Never fails: what cannot be pickled becomes text.

    Args:
        error: the exception, with its traceback.
        label: the node in words.
    """
    text = _text("".join(traceback.format_exception(error)))
    summary = f"{label} raised {type(error).__module__}.{type(error).__qualname__}: {_text(_message(error))}"
    return pickle.dumps((summary, text, _try_dumps(error), _try_dumps(error.__cause__)))


def decode_failure(encoded: bytes) -> Exception:
    """Rebuild what `encode_failure` encoded, as an exception that can be raised here."""
    summary, text, pickled, pickled_cause = pickle.loads(encoded)
    error: Exception
    rebuilt = _try_loads(pickled)
    if rebuilt is not None and _raisable(rebuilt):
        error = rebuilt
    else:
        error = RemoteError(f"{summary}\n\nThe remote traceback:\n{text}")
    cause = RemoteTraceback(text)
    cause.__cause__ = _try_loads(pickled_cause)
    BaseException.__setattr__(error, "__cause__", cause)  # a frozen dataclass refuses its own
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


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be had)"


def _text(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT // 2]}\n…\n{text[-TEXT_LIMIT // 2 :]}"


def _try_dumps(error: BaseException | None) -> bytes | None:
    if error is None:
        return None
    try:
        return dumps(error)
    except Exception:
        return None


def _try_loads(pickled: bytes | None) -> Any:
    if pickled is None:
        return None
    try:
        error = pickle.loads(pickled)
    except Exception:
        return None
    return error if isinstance(error, BaseException) else None
