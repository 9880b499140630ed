"""Collective operations over NCCL, up to NCCL's own calls, which play on the host's memory between threads."""

from __future__ import annotations

import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from async_adag.collectives.contributions import describe
from async_adag.collectives.over_nccl import OutOfStep, OverNccl
from async_adag.collectives.part import part
from async_adag.gpu.crossing import contiguous
from async_adag.gpu.interface import DeviceError
from async_adag.gpu.nccl_group import NcclGroup, element_of
from async_adag.graph.model import Collective
from tests.host_nccl import VERSION, HostCrossing, HostNccl, host_cupy

SIZE = 3
TYPES = ["int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "complex64"]


@pytest.fixture
def nccl(monkeypatch):
    """NCCL of three ranks, which are threads."""
    made = HostNccl(SIZE)
    monkeypatch.setattr("async_adag.gpu.nccl_rank._binding", lambda: made)
    # Megabytes make a difference to NCCL itself alone, and here they are added up by the host, for each test.
    monkeypatch.setattr("async_adag.gpu.nccl_group._WARM_UP", (1 << 4, 1 << 10))
    monkeypatch.setitem(sys.modules, "cupy", host_cupy())
    return made


@pytest.fixture
def ranks(nccl):
    """Calls a function of the rank and its communicator in a thread for each rank; gives what they return."""
    identity = NcclGroup.new_id()
    made = [pickle.loads(pickle.dumps(OverNccl(NcclGroup(identity, SIZE), HostCrossing))) for rank in range(SIZE)]
    with ThreadPoolExecutor(SIZE) as threads:

        def run(function):
            return list(threads.map(function, range(SIZE), made))

        run(lambda rank, over: over.initialize(rank))
        for communicator in nccl.made:
            communicator.log.clear()
        yield run
        run(lambda rank, over: over.destroy())
    assert all(communicator.aborted for communicator in nccl.made)


def call(kind, reduction, rank, over, values):
    """This rank's part of an operation on ``values``, which are by rank."""
    collective = Collective(kind, reduction, rank, SIZE, over, reduction)
    return part(collective)(values[rank], *([describe(value, one)] for one, value in enumerate(values)))


def numbers(dtype, shape=(6, 2)):
    return [np.asarray(np.arange(np.prod(shape)).reshape(shape) % 5 + rank + 1, dtype) for rank in range(SIZE)]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_operation_of_every_type(ranks, dtype):
    values = numbers(dtype)
    expected = {
        "sum": values[0] + values[1] + values[2],
        "product": values[0] * values[1] * values[2],
        "max": np.maximum(np.maximum(*values[:2]), values[2]),
        "min": np.minimum(np.minimum(*values[:2]), values[2]),
        "avg": ((values[0] + values[1] + values[2]) / SIZE).astype(dtype),
    }
    whole, complex_ = np.dtype(dtype).kind in "iu", dtype == "complex64"
    for reduction, total in expected.items():
        if (whole and reduction == "avg") or (complex_ and reduction not in ("sum", "avg")):
            continue
        for result in ranks(lambda rank, over, op=reduction: call("allreduce", op, rank, over, values)):
            assert (result.dtype, result.shape) == (total.dtype, total.shape)
            np.testing.assert_allclose(result, total, rtol=1e-3 if dtype == "float16" else 1e-6)
        parts = ranks(lambda rank, over, op=reduction: call("reducescatter", op, rank, over, values))
        assert [one.shape for one in parts] == [(2, 2)] * SIZE
        np.testing.assert_allclose(np.concatenate(parts), total, rtol=1e-3 if dtype == "float16" else 1e-6)
    for result in ranks(lambda rank, over: call("allgather", None, rank, over, values)):
        np.testing.assert_array_equal(result, np.concatenate(values))


def test_any_bytes_can_be_gathered(ranks):
    values = [
        np.array(["2026-01-01", "2026-01-02"], "datetime64[D]") + np.timedelta64(rank, "D") for rank in range(SIZE)
    ]
    for result in ranks(lambda rank, over: call("allgather", None, rank, over, values)):
        np.testing.assert_array_equal(result, np.concatenate(values))


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_arrays_without_elements_and_without_dimensions(ranks, nccl, shape):
    values = numbers("float32", shape)
    for result in ranks(lambda rank, over: call("allreduce", "sum", rank, over, values)):
        assert result.shape == shape
        np.testing.assert_array_equal(result, sum(values))
    assert len(nccl.made[0].log) == (0 not in shape), "nothing is asked of NCCL for nothing"


def test_arrays_in_any_layout(ranks):
    values = [value.T[::2] for value in numbers("float32", (6, 9))]
    for result in ranks(lambda rank, over: call("allreduce", "sum", rank, over, values)):
        np.testing.assert_array_equal(result, sum(values))


@pytest.mark.parametrize(
    ("dtype", "kind", "reduction", "words"),
    [
        ("int64", "allreduce", "avg", "avg takes floating-point"),
        ("int16", "allreduce", "sum", "NCCL has no arithmetic for int16: convert it"),
        ("bool", "reducescatter", "max", "NCCL has no arithmetic for bool"),
        (">f4", "allreduce", "sum", "NCCL has no arithmetic for >f4"),
        ("complex64", "allreduce", "product", "NCCL has no product of complex64"),
        ("object", "allgather", None, "allgather over NCCL takes numbers, not object"),
    ],
)
def test_what_nccl_cannot_do_is_refused_before_anything_is_issued(ranks, nccl, dtype, kind, reduction, words):
    values = numbers(dtype)

    def refused(rank, over):
        with pytest.raises(TypeError, match=words):
            call(kind, reduction, rank, over, values)

    ranks(refused)
    assert [communicator.log for communicator in nccl.made] == [[]] * SIZE


def test_numbers_of_eight_and_sixteen_bits():
    assert element_of("bfloat16", "sum", VERSION) == (9, 2)
    assert element_of("float8_e4m3fn", "sum", VERSION) == (10, 1)
    assert element_of("float8_e5m2", "max", VERSION) == (11, 1)
    with pytest.raises(TypeError, match=r"since 2\.24"):
        element_of("float8_e5m2", "max", 22304)


def test_a_rank_that_fails_is_out_of_step(ranks, nccl):
    values = numbers("float32")
    nccl.made[0].failed = True
    failed = nccl.made[0].rank

    def one(rank, over):
        if rank == failed:
            with pytest.raises(OutOfStep, match="NCCL_ERROR_REMOTE_ERROR"):
                call("allreduce", "sum", rank, over, values)

    ranks(one)


def test_no_room_for_a_result_is_out_of_step(ranks):
    def one(rank, over):
        def no_room(value):
            raise MemoryError("no room")  # as making an array of that shape would

        with pytest.raises(OutOfStep, match="MemoryError: no room"):
            over.run("allreduce", "sum", numbers("float32")[:1], no_room)

    ranks(one)


def test_a_contribution_that_does_not_fit_is_refused_at_every_rank(ranks, nccl):
    values = numbers("float32")
    values[2] = values[2].astype("float64")

    def one(rank, over):
        with pytest.raises(TypeError, match="rank 2 gave ndarray of float64"):
            call("allreduce", "sum", rank, over, values)

    ranks(one)
    assert [communicator.log for communicator in nccl.made] == [[]] * SIZE


def test_after_it_was_destroyed_nothing_is_issued(ranks):
    def one(rank, over):
        over.destroy()
        with pytest.raises(OutOfStep, match="the communicator was destroyed"):
            call("allreduce", "sum", rank, over, numbers("float32"))

    ranks(one)


def test_what_was_initialized_is_not_pickled(ranks):
    def one(rank, over):
        with pytest.raises(TypeError, match="NcclGroup was initialized, and belongs to its process"):
            pickle.dumps(over)

    ranks(one)


def test_destroying_it_ends_the_waiting_for_the_others(nccl):
    over = OverNccl(NcclGroup(NcclGroup.new_id(), SIZE), HostCrossing)
    raised = []

    def meet():
        try:
            over.initialize(0)
        except DeviceError as error:
            raised.append(error)

    thread = threading.Thread(target=meet)
    thread.start()
    while not nccl.made:
        pass
    over.destroy()
    thread.join()
    assert "destroyed before all ranks had met" in str(raised[0])
    nccl.barrier.abort()


def test_what_is_in_order_already_is_not_copied():
    array = np.arange(6.0).reshape(2, 3)
    assert contiguous(array) is array
    assert contiguous(array.T).flags.c_contiguous
    np.testing.assert_array_equal(contiguous(array.T), array.T)
