"""The pickler of values: Ray's, with ObjectRefs noted, and arrays and torch's CPU tensors out of band."""

from __future__ import annotations

import io
from collections import ChainMap
from pickle import PickleBuffer
from typing import Any

from ray.cloudpickle import CloudPickler

from async_adag.channels.pickled_arrays import ArrayReducers
from async_adag.channels.ray_objects import reducers
from async_adag.channels.torch_tensors import TorchReducers


class Pickler(CloudPickler):  # type: ignore[misc]
    """Pickles by protocol 5.

    Args:
        file: where pickles go.
        buffers: where their out-of-band buffers go.
        refs: where the ObjectRefs in them go.

    Attributes:
        registered: how values are pickled by ways of their own, which go before ours.
    """

    def __init__(self, file: io.BytesIO, buffers: list[PickleBuffer], refs: list[Any]) -> None:
        self.registered = reducers(refs)
        self._arrays = ArrayReducers()
        self._torch = TorchReducers()
        # Before the pickler is made, which looks for it then.
        self.dispatch_table = ChainMap(*self.registered.maps, self._arrays, self._torch)
        super().__init__(file, 5, buffers.append)

    def look(self) -> None:
        """See whether numpy and torch have been imported by now."""
        self._arrays.look()
        self._torch.look()
