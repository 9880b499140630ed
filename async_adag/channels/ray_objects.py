"""ObjectRefs in payloads: how they are pickled and rebuilt, and what Ray knows about them.

One of the modules that know names which Ray does not promise to keep: how Ray rebuilds an ObjectRef, and the
table of references in its core worker (Ray 2.60). Ray's own reducer pins the object of a ref that it pickles
outside of its calls, for as long as the process lives. Here a ref is only noted, and who writes it to a channel
holds it (`channels/holds.py`).
"""

from __future__ import annotations

import io
import pickle
from collections import ChainMap
from functools import partial
from typing import Any

import ray
from ray._private.serialization import _object_ref_deserializer
from ray._private.worker import global_worker
from ray.cloudpickle import CloudPickler


def reducers(refs: list[Any]) -> ChainMap[Any, Any]:
    """The reducers of Ray's pickler, also those registered later; but ObjectRefs are noted in ``refs``."""
    table: ChainMap[Any, Any] = CloudPickler.dispatch_table.new_child({ray.ObjectRef: partial(_reduce, refs)})
    return table


def _reduce(refs: list[Any], ref: Any) -> Any:
    if not global_worker.connected or ref.tensor_transport():
        # A ref of nowhere, or to tensors that stay in their actor's memory: Ray has rules of its own for them.
        reduce = CloudPickler.dispatch_table.get(ray.ObjectRef)
        return ref.__reduce__() if reduce is None else reduce(ref)
    _, owner, status = global_worker.core_worker.serialize_object_ref(ref)
    refs.append(ref)
    return rebuild, (ref.binary(), ref.call_site(), owner, status, ref.tensor_transport())


def rebuild(ref_id: bytes, call_site: str, owner: bytes, status: bytes, transport: Any) -> Any:
    """An ObjectRef as it was in another process, made known to Ray here."""
    return _object_ref_deserializer(ref_id, call_site, owner, status, transport)


def load(body: memoryview, buffers: list[memoryview], new: list[bytes]) -> Any:
    """Unpickle a value, and note in ``new`` the ids of its refs that this process had not referred to before."""
    return _Unpickler(body, buffers, new).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, body: memoryview, buffers: list[memoryview], new: list[bytes]) -> None:
        super().__init__(io.BytesIO(body), buffers=buffers)
        self._rebuild = partial(_rebuild_and_note, new)  # no method: the unpickler would memoize, and keep, itself

    def find_class(self, module: str, name: str) -> Any:
        if name == rebuild.__name__ and module == rebuild.__module__:
            return self._rebuild
        return super().find_class(module, name)


def _rebuild_and_note(new: list[bytes], ref_id: bytes, *rest: Any) -> Any:
    probe = ray.ObjectRef(ref_id)  # lives until the new ref is there: what is known now stays known
    if not _is_known(probe):
        new.append(ref_id)
    return rebuild(ref_id, *rest)


def is_referenced(ref_id: bytes) -> bool:
    """Whether anything in this process still refers to an object.

    Ray's table knows: Python's ObjectRefs, calls under way, objects that contain the ref, processes that were lent
    it. Counts of these would not do, as Ray does not tell all of them; here it is only asked whether any is left.
    """
    if not global_worker.connected:
        return True  # nobody can tell
    return _is_known(ray.ObjectRef(ref_id))


def _is_known(probe: Any) -> bool:
    # Where there was no reference, the probe is the only one: without an owner, as none was registered for it.
    try:
        global_worker.core_worker.get_owner_address(probe)
    except ValueError:
        return False
    return True


def pin(ref: Any) -> None:
    """Keep an object for as long as this process lives, as Ray does when it pickles a ref outside of its calls."""
    if global_worker.connected:
        global_worker.core_worker.add_object_ref_reference(ref)
