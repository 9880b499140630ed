"""Numpy's arrays inside a pickle: elements out of band, and read-only where they arrive.

Numpy's own way does so for what lies in one piece and has elements that Python's buffers know. Arrays with gaps,
and those with dates in them, it takes into the pickle, which copies them twice, and gives them back writable.
Those of objects are pickled as ever, and made read-only once they have been filled.

numpy is only met where somebody has imported it, or has sent an array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any


class ArrayReducers(dict[type, Callable[[Any], Any]]):
    """How arrays are pickled, by type, for a pickler's table: none before numpy is imported."""

    __slots__ = ()

    def look(self) -> None:
        """See whether numpy has been imported by now."""
        if not self:
            kind = getattr(sys.modules.get("numpy"), "ndarray", None)
            if kind is not None:
                self[kind] = reduce_array  # exactly that type: what is derived from it has reducers of its own


def reduce_array(array: Any) -> Any:
    """What pickles an array, exactly a ``numpy.ndarray``, by protocol 5.

    Raises:
        Exception: whatever numpy raises for one that it cannot pickle.
    """
    dtype, flags = array.dtype, array.flags
    if dtype.hasobject:
        rebuild, arguments, state = array.__reduce_ex__(5)
        return rebuild, arguments, state, None, None, fill_and_freeze
    if not dtype.itemsize:
        return array.__reduce_ex__(5)
    if flags.forc and dtype.kind not in "Mm":
        reduced = array.__reduce_ex__(5)
        if type(reduced[1][0]) is PickleBuffer:
            return reduced
    order = "F" if flags.fnc else "C"
    whole = array if flags.forc else array.copy("C")
    part = PickleBuffer((whole.T if flags.fnc else whole).reshape(-1).view("u1")) if array.size else None
    return rebuild_array, (dtype, array.shape, order, part)


def rebuild_array(dtype: Any, shape: tuple[int, ...], order: Any, part: Any) -> Any:
    """The array over a buffer; None if it has no elements.

    Raises:
        TypeError, ValueError: there are fewer bytes than its elements take.
    """
    import numpy as np

    array: Any = np.ndarray(shape, dtype, part, order=order)
    array.flags.writeable = False
    return array


def fill_and_freeze(array: Any, state: Any) -> None:
    """Put the objects into an array, and let nobody write to it from then on."""
    array.__setstate__(state)
    array.flags.writeable = False
