"""The pickler of values: Ray's, with ObjectRefs noted, and torch's tensors in the CPU's memory out of band."""

from __future__ import annotations

import io
from pickle import PickleBuffer
from typing import Any

from ray.cloudpickle import CloudPickler

from async_adag.channels.ray_objects import reducers
from async_adag.channels.torch_tensors import TorchReducers


class Pickler(CloudPickler):  # type: ignore[misc]
    """Pickles by protocol 5.

    Args:
        file: where pickles go.
        buffers: where their out-of-band buffers go.
        refs: where the ObjectRefs in them go.
        torch: how torch's tensors are pickled, behind whatever was registered with Ray.
    """

    def __init__(
        self, file: io.BytesIO, buffers: list[PickleBuffer], refs: list[Any], torch: TorchReducers
    ) -> None:
        self.dispatch_table = reducers(refs)  # before the pickler is made, which looks for it then
        self.dispatch_table.maps.append(torch)
        super().__init__(file, 5, buffers.append)
