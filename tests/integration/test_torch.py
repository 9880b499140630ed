"""Torch tensors, in the CPU's memory; runs where torch is installed, which this package does not ask for."""

from __future__ import annotations

import numpy as np
import pytest
from ray.dag import InputNode, MultiOutputNode

import async_adag
from async_adag import GpuUnavailable
from async_adag.collectives import allgather, allreduce, reducescatter
from tests.communicators import ByPipes, log_of

torch = pytest.importorskip("torch")
collective = pytest.importorskip("ray.experimental.collective")


def tensors():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    yield from (base, base.t(), base[1:3, ::2], base[0, 0], base[:0], torch.nn.Parameter(base.clone()))
    yield from (base.to(dtype) for dtype in (torch.bfloat16, torch.int8, torch.bool, torch.complex64))
    yield torch.arange(1 << 20).reshape(1 << 10, -1).t()


async def test_tensors_keep_type_shape_strides_and_gradient_flag(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        for tensor in tensors():
            result = await compiled(tensor)
            assert torch.equal(result, tensor)
            assert (result.dtype, result.stride(), result.requires_grad, type(result)) == (
                tensor.dtype,
                tensor.stride(),
                tensor.requires_grad,
                type(tensor),
            )
            nested = await compiled({"deep": [tensor, tensor.shape]})
            assert torch.equal(nested["deep"][0], tensor)


async def test_a_result_may_be_written_to(worker):
    with InputNode() as x:
        dag = worker.echo.bind(x)
    async with async_adag.compile(dag) as compiled:
        tensor = torch.zeros(1 << 16)
        (await compiled(tensor)).add_(1)
        assert not (await compiled(tensor)).any()


def test_the_hints_make_no_difference_in_shared_memory(workers):
    with InputNode() as x:
        sent = workers[0].echo.bind(x).with_tensor_transport("shm", device="cpu", _direct_return=True)
        dag = workers[1].add.bind(sent)
    with async_adag.compile(dag) as compiled:
        assert torch.equal(compiled.execute(torch.ones(3)).get(), torch.full((3,), 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
async def test_collectives(workers, dtype):
    with InputNode() as x:
        parts = [worker.add.bind(x, rank) for rank, worker in enumerate(workers)]
        dag = MultiOutputNode([*allreduce.bind(parts), *allgather.bind(parts), *reducescatter.bind(parts, "max")])
    tensor = torch.arange(6).reshape(3, 2).to(dtype)
    async with async_adag.compile(dag) as compiled:
        results = await compiled(tensor)
    ranks = [tensor + rank for rank in range(3)]
    for result in results[:3]:
        assert torch.equal(result, ranks[0] + ranks[1] + ranks[2])
    for result in results[3:6]:
        assert torch.equal(result, torch.cat(ranks))
    assert torch.equal(torch.cat(results[6:]), ranks[2])
    assert all(result.dtype == dtype for result in results)


async def test_gradients_do_not_flow_through_collectives(workers):
    with InputNode() as x:
        dag = MultiOutputNode(allreduce.bind([worker.echo.bind(x) for worker in workers]))
    async with async_adag.compile(dag) as compiled:
        result = (await compiled(torch.ones(2, requires_grad=True)))[0]
    assert torch.equal(result, torch.full((2,), 3.0))
    assert not result.requires_grad


def test_rays_own_collective_nodes(workers):
    with InputNode() as x:
        one = [worker.add.bind(x, rank) for rank, worker in enumerate(workers)]
        two = [worker.add.bind(x, 10 * rank) for rank, worker in enumerate(workers)]
        pairs = collective.allreduce.bind([one, two])
        gathered = collective.allgather.bind(one)
        parts = collective.reducescatter.bind(one)
        dag = MultiOutputNode([*(node for pair in pairs for node in pair), *gathered, *parts])
    tensor = torch.arange(3.0)
    if not torch.cuda.is_available():
        with pytest.raises(GpuUnavailable, match=r"allreduce\(sum\)"):
            async_adag.compile(dag)
    with async_adag.compile(dag, device="cpu") as compiled:
        results = compiled.execute(tensor).get()
    for first, second in zip(results[:6:2], results[1:6:2], strict=True):
        np.testing.assert_array_equal(first, 3 * tensor + 3)
        np.testing.assert_array_equal(second, 3 * tensor + 30)
    for result in results[6:9]:
        np.testing.assert_array_equal(result, torch.cat([tensor, tensor + 1, tensor + 2]))
    np.testing.assert_array_equal(torch.cat(results[9:]), 3 * tensor + 3)


# -- a user's communicator carries them


@pytest.fixture
def carried(workers, tmp_path):
    """A graph in which a communicator carries what goes in on its way to what comes out."""
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].echo.bind(x).with_tensor_transport(ByPipes(workers[:2], tmp_path)))
    with async_adag.compile(dag) as compiled:
        yield compiled


def sizes(folder):
    return [size for *_, size in log_of(folder, "send")]


async def test_tensors_that_a_communicator_carries(carried, tmp_path):
    expected = []
    for tensor in tensors():
        if tensor.dtype is torch.bfloat16:
            continue  # of which the pipes of this test make no numpy array
        nested = await carried({"deep": [tensor, tensor.shape], "again": tensor})
        for result in (await carried(tensor), nested["deep"][0]):
            assert torch.equal(result, tensor)
            assert (result.dtype, result.shape, result.requires_grad, type(result)) == (
                tensor.dtype,
                tensor.shape,
                tensor.requires_grad,
                type(tensor),
            )
        assert nested["again"] is nested["deep"][0]
        assert nested["deep"][1] == tensor.shape
        expected += [tensor.numel() * tensor.element_size()] * (2 if tensor.numel() else 0)
    assert sizes(tmp_path) == expected


async def test_arrays_beside_tensors_stay_in_the_frame(carried, tmp_path):
    """A communicator that knows torch alone need not know them."""
    arrays = [np.arange(3), np.arange(6.0).reshape(2, 3).T]
    result = await carried([arrays[0], torch.ones(4), arrays[1]])
    assert torch.equal(result[1], torch.ones(4))
    np.testing.assert_array_equal(result[0], arrays[0])
    np.testing.assert_array_equal(result[2], arrays[1])
    assert sizes(tmp_path) == [16]
    np.testing.assert_array_equal((await carried(arrays))[1], arrays[1])
    assert sizes(tmp_path) == [16, 24, 48]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # of torch 2.11, when it unpickles one
async def test_of_a_sparse_tensor_what_it_is_made_of_is_carried(carried, tmp_path):
    sparse = torch.eye(3).to_sparse()
    assert torch.equal((await carried([sparse]))[0].to_dense(), torch.eye(3))
    assert sizes(tmp_path) == [48, 12]


def conjugate(tensor):
    return [tensor.conj(), tensor.conj().imag]


async def test_views_that_are_computed_when_read_are_sent_as_what_they_show(workers, tmp_path):
    transport = ByPipes(workers[:2], tmp_path)
    with InputNode() as x:
        dag = workers[1].echo.bind(workers[0].call.bind(conjugate, x).with_tensor_transport(transport))
    async with async_adag.compile(dag) as compiled:
        both, imaginary = await compiled(torch.tensor([1 + 2j, 3 - 1j]))
    assert torch.equal(both, torch.tensor([1 - 2j, 3 + 1j]))
    assert torch.equal(imaginary, torch.tensor([-2.0, 1.0]))


async def test_a_tensor_with_a_history_keeps_its_flag(carried):
    leaf = torch.ones(2, requires_grad=True)
    result = await carried(leaf * 2)
    assert torch.equal(result, torch.full((2,), 2.0))
    assert result.requires_grad


def test_rays_own_operations_by_the_default_communicator(workers, tmp_path):
    with InputNode() as x:
        sums = collective.allreduce.bind([worker.add.bind(x, rank) for rank, worker in enumerate(workers)])
        dag = MultiOutputNode([sums[0], workers[0].echo.bind(sums[0]), *sums[1:]])
    transport = ByPipes(workers, tmp_path)
    compiled = async_adag.experimental_compile(dag, _default_communicator=transport)
    for ref in compiled.execute(torch.arange(3.0)):
        assert torch.equal(ref.get(), 3 * torch.arange(3.0) + 3)
    compiled.teardown()
    assert len(sizes(tmp_path)) == 6
