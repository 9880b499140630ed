"""Takes the tensors out of a value, so that something else than the channel carries them, and puts them back.

What is left is a `Parcel`, which the channel carries as any value: the pickle of the value, with places where its
tensors were, and a header for each of them. A tensor that occurs twice is taken out once.

Torch tensors and cupy arrays are taken out. Of a value that holds none of them, its numpy arrays of numbers are:
whoever carries torch tensors need not know numpy arrays, of which there are often small ones beside. Where only
tensors on a GPU are asked for, all others stay, and arrays of jax are taken out too.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pickle import PickleBuffer
from typing import Any, NamedTuple

import ray
from ray.cloudpickle import CloudPickler

from async_adag.channels.codec import Failure, Stop
from async_adag.channels.pickled_arrays import ArrayReducers, reduce_array
from async_adag.channels.tensor_headers import Header, flat_of, header_of, in_rows, is_plain
from async_adag.channels.torch_tensors import reduce_tensor
from async_adag.gpu.jax_arrays import is_jax, is_on_gpu, may_travel

_PLAIN = (type(None), bool, int, float, str, bytes, Failure, Stop)
"""Types of what holds no tensor."""

_NUMBERS = "biufc"
"""Kinds of numpy arrays that are taken out: booleans, integers, floating-point and complex numbers."""


class Parcel(NamedTuple):
    """A value without its tensors.

    Attributes:
        headers: of the tensors, in the order in which they are carried.
        body: the pickle of the value; what was taken out of it is named by numbers.
        buffers: its out-of-band buffers.
        places: for each number, which of the tensors it is, or -1.
        others: for each number of no tensor, in order, what it is: ObjectRefs, and arrays that stay.
        note: what whoever carries the tensors has to tell whoever receives them.
        layout: by which number both ends know the headers, which are left out if they did so before; -1: by none.
    """

    headers: tuple[Header, ...]
    body: bytes
    buffers: list[Any]
    places: tuple[int, ...]
    others: list[Any]
    note: Any = None
    layout: int = -1

    def unpack(self, tensors: Sequence[Any]) -> Any:
        """The value, from its tensors.

        Raises:
            Exception: whatever unpickling raises.
        """
        others = iter(self.others)
        parts = [
            next(others) if place < 0 else self.headers[place].finish(tensors[place]) for place in self.places
        ]
        return _Unpickler(self.body, self.buffers, parts).load()


def take_out(value: Any, *, on_gpu: bool = False, off_gpu: bool = False) -> tuple[Any, list[Any]]:
    """Take the tensors out of ``value``.

    Args:
        value: anything.
        on_gpu: whether to take out only those that are on a GPU.
        off_gpu: whether to take out only torch's that are in the CPU's memory.

    Returns:
        A `Parcel`, or ``value`` itself where that cannot hold any; and the tensors, each contiguous and without a
        record of gradients. With either of these options, one whose elements lie side by side in another order
        than that of rows keeps that order: it is flat here, and its header has the strides.

    Raises:
        Exception: whatever pickling raises.
    """
    if type(value) in _PLAIN:
        return value, []
    file = io.BytesIO()
    buffers: list[PickleBuffer] = []
    taken = _Taken(keeps_rest=off_gpu)
    _pickle(file, buffers, taken, on_gpu, off_gpu).dump(value)
    carried = taken.carried()
    headers: list[Header] = []
    tensors: list[Any] = []
    places: list[int] = []
    others: list[Any] = []
    for part, of in zip(taken.parts, taken.of, strict=True):
        if of in carried:
            places.append(len(tensors))
            strides, flat = flat_of(of, part) if on_gpu or off_gpu else ((), in_rows(of, part))
            headers.append(header_of(of, part)._replace(strides=strides))
            tensors.append(flat)
        else:
            places.append(-1)
            others.append(part)
    return Parcel(tuple(headers), file.getvalue(), buffers, tuple(places), others), tensors


def headers_of(value: Any, *, on_gpu: bool = False) -> tuple[Header, ...]:
    """The headers of the tensors that `take_out` would take out of ``value``.

    Raises:
        Exception: whatever pickling raises.
    """
    if type(value) in _PLAIN:
        return ()
    taken = _Taken()
    for kind, library, is_one in _kinds_to_take(on_gpu, False):
        if library and type(value) is kind and is_one(value):
            return (header_of(library, value),)
    _pickle(io.BytesIO(), [], taken, on_gpu, False).dump(value)
    carried = taken.carried()
    return tuple(header_of(of, part) for part, of in zip(taken.parts, taken.of, strict=True) if of in carried)


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a tensor of torch, or an array of cupy, jax or numpy, itself."""
    return is_jax(value) or any(library and isinstance(value, kind) for kind, library, _ in _kinds())


class _Taken:
    """What was taken out of a value, in the order in which it was found, and the library that each part is of.

    Args:
        keeps_rest: whether tensors that are not to be carried stay the objects that they are, unpickled.
    """

    def __init__(self, *, keeps_rest: bool = False) -> None:
        self._keeps_rest = keeps_rest
        self.parts: list[Any] = []
        self.of: list[str] = []

    def carried(self) -> set[str]:
        """The libraries whose tensors are carried; parts of others stay."""
        return {"torch", "cupy", "jax"}.intersection(self.of) or {"numpy"}

    def take(self, library: str, is_one: Callable[[Any], bool], part: Any) -> Any:
        """Reduce a part of the value: to its number, or, where it is none to be taken out, as ever."""
        if is_one(part):
            return self._number(library, part)
        if self._keeps_rest:
            return self._number("", part)
        reduce = CloudPickler.dispatch_table.get(type(part))
        if reduce is None:
            return _AS_EVER[library](part)
        return reduce(part)

    def take_jax(self, part: Any) -> Any:
        """As `take`, for an array of jax; one that is not to be taken out is not reduced here."""
        if self._keeps_rest:
            return self._number("", part)
        return self._number("jax", part) if is_on_gpu(part) and may_travel(part) else NotImplemented

    def _number(self, library: str, part: Any) -> Any:
        self.parts.append(part)
        self.of.append(library)
        return put_back, (len(self.parts) - 1,)


def _kinds_to_take(on_gpu: bool, off_gpu: bool) -> list[tuple[type, str, Callable[[Any], bool]]]:
    """The types to look for where only some tensors are asked for; see `take_out`."""
    if off_gpu:
        kinds = [kind for kind in _kinds() if kind[1] != "numpy"]
        return [(kind, of, _IS_OFF_GPU.get(of, is_one)) for kind, of, is_one in kinds]
    if on_gpu:
        kinds = [kind for kind in _kinds() if kind[1] != "numpy"]
        return [(kind, of, _is_on_gpu if of == "torch" else is_one) for kind, of, is_one in kinds]
    return _kinds()


def _kinds() -> list[tuple[type, str, Callable[[Any], bool]]]:
    """The types to look for in a value: each with its library, and whether one of it is to be taken out.

    Only libraries that are here already: a value that holds their tensors has brought them.
    """
    kinds: list[tuple[type, str, Callable[[Any], bool]]] = [(ray.ObjectRef, "", lambda _: True)]
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "Tensor") and hasattr(torch, "nn"):
        kinds += [(kind, "torch", is_plain) for kind in (torch.Tensor, torch.nn.Parameter)]
    for library in ("cupy", "numpy"):
        module: Any = sys.modules.get(library)
        if hasattr(module, "ndarray"):
            kinds.append((module.ndarray, library, _is_of_numbers))
    return kinds


def _is_on_gpu(tensor: Any) -> bool:
    return bool(tensor.is_cuda) and is_plain(tensor)


def _is_off_gpu(tensor: Any) -> bool:
    return tensor.device.type == "cpu" and is_plain(tensor)


def _is_never(_: Any) -> bool:
    return False


_IS_OFF_GPU = {"torch": _is_off_gpu, "cupy": _is_never}
_AS_EVER: dict[str, Callable[[Any], Any]] = {
    "torch": reduce_tensor,
    "numpy": reduce_array,
    "cupy": lambda part: part.__reduce_ex__(5),
}


def _is_of_numbers(array: Any) -> bool:
    return array.dtype.kind in _NUMBERS


def _pickle(
    file: io.BytesIO, buffers: list[PickleBuffer], taken: _Taken, on_gpu: bool, off_gpu: bool
) -> CloudPickler:
    """What takes the tensors out of a value that it is given; see `take_out`."""
    with_jax = (on_gpu or off_gpu) and "jax" in sys.modules
    return (_JaxPickler if with_jax else _Pickler)(file, buffers, taken, _kinds_to_take(on_gpu, off_gpu))


class _Pickler(CloudPickler):  # type: ignore[misc]
    def __init__(
        self,
        file: io.BytesIO,
        buffers: list[PickleBuffer],
        taken: _Taken,
        kinds: list[tuple[type, str, Callable[[Any], bool]]],
    ) -> None:
        table = {kind: partial(taken.take, library, is_one) for kind, library, is_one in kinds}
        # Exact types only: what is derived from them has reducers of its own.
        self.dispatch_table = CloudPickler.dispatch_table.new_child(table)
        arrays = ArrayReducers()
        arrays.look()
        self.dispatch_table.maps.append(arrays)
        self._taken = taken
        super().__init__(file, 5, buffers.append)


class _JaxPickler(_Pickler):
    """Looks for arrays of jax too, whose type is not public, so that all that comes by is asked."""

    def reducer_override(self, part: Any) -> Any:
        reduced = self._taken.take_jax(part) if is_jax(part) else NotImplemented
        return super().reducer_override(part) if reduced is NotImplemented else reduced


def put_back(number: int) -> Any:
    """Stands in a pickle for part ``number`` of its value; `_Unpickler` has its own."""
    raise pickle.UnpicklingError(f"part {number} of a value is carried by a communicator, and is not here")


class _Unpickler(pickle.Unpickler):
    def __init__(self, body: bytes, buffers: list[Any], parts: list[Any]) -> None:
        super().__init__(io.BytesIO(body), buffers=buffers)
        self._put_back = parts.__getitem__

    def find_class(self, module: str, name: str) -> Any:
        if name == put_back.__name__ and module == put_back.__module__:
            return self._put_back
        return super().find_class(module, name)
