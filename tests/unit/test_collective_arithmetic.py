"""What a rank computes of all ranks' contributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_adag.collectives.arithmetic import allgather, allreduce, reducescatter
from async_adag.collectives.part import part
from async_adag.graph.model import REDUCTIONS, Collective

TYPES = ["int8", "uint16", "int64", "float32", "float64", "complex64"]
NUMPY = {"sum": np.add, "product": np.multiply, "max": np.maximum, "min": np.minimum}


@st.composite
def contributions(draw, min_dims=0, rows_per_rank=False):
    size = draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(1, 3), min_size=min_dims, max_size=3).map(tuple))
    if rows_per_rank:
        shape = (shape[0] * size, *shape[1:])
    dtype = draw(st.sampled_from(TYPES))
    random = np.random.default_rng(draw(st.integers(0, 100)))
    return [np.asarray(random.integers(0, 4, shape)).astype(dtype) for _ in range(size)]


def reduced(values, reduction):
    """By hand, element after element, in the order of the ranks."""
    total = values[0].copy()
    for value in values[1:]:
        total = np.asarray(NUMPY["sum" if reduction == "avg" else reduction](total, value), total.dtype)
    return (total / len(values)).astype(total.dtype) if reduction == "avg" else total


def reductions_of(values):
    inexact = np.issubdtype(values[0].dtype, np.inexact)
    return [reduction for reduction in REDUCTIONS if inexact or reduction != "avg"]


@given(contributions())
def test_allreduce(values):
    for value in values:
        value.setflags(write=False)
    for reduction in reductions_of(values):
        result = allreduce(values, reduction)
        np.testing.assert_array_equal(result, reduced(values, reduction))
        assert (result.dtype, result.shape) == (values[0].dtype, values[0].shape)
        assert result.flags.writeable
        assert not any(np.shares_memory(result, value) for value in values)


@given(contributions(min_dims=1, rows_per_rank=True))
def test_reducescatter_gives_each_rank_its_part_of_allreduce(values):
    for reduction in reductions_of(values):
        parts = [reducescatter(values, reduction, rank) for rank in range(len(values))]
        np.testing.assert_array_equal(np.concatenate(parts), allreduce(values, reduction))
        assert len({part.shape for part in parts}) == 1


@given(contributions(min_dims=1))
def test_allgather(values):
    result = allgather(values)
    assert result.shape == (len(values) * values[0].shape[0], *values[0].shape[1:])
    for part_of_it, value in zip(np.split(result, len(values)), values, strict=True):
        np.testing.assert_array_equal(part_of_it, value)
    assert not np.shares_memory(result, values[0])


def test_several_tensors_at_once():
    reduce_all = part(Collective("allreduce", "sum", rank=1, size=2))
    by_rank = [np.ones(2), np.ones(3, "int8"), np.full(2, 2.0), np.full(3, 4, "int8")]
    first, second = reduce_all(*by_rank)
    np.testing.assert_array_equal(first, [3.0, 3.0])
    np.testing.assert_array_equal(second, np.full(3, 5, "int8"))


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ([np.ones(2), [1, 2]], TypeError, "rank 1 gave list"),
        ([1.0, 2.0], TypeError, "rank 0 gave float"),
        ([np.float64(1), np.float64(1)], TypeError, "rank 0 gave float64"),
        ([np.ma.masked_array([1, 2], [0, 1])] * 2, TypeError, "rank 0 gave MaskedArray"),
        ([np.ones(2), np.ones(2, "int8")], TypeError, "rank 1 gave ndarray of int8, rank 0 ndarray of float64"),
        ([np.ones(2), np.ones(2), np.ones(3)], ValueError, r"rank 2 gave shape \(3,\), rank 0 \(2,\)"),
    ],
)
def test_what_cannot_be_reduced(values, error, words):
    for operation in (lambda: allreduce(values, "sum"), lambda: allgather(values)):
        with pytest.raises(error, match=words):
            operation()


def test_an_average_of_whole_numbers_is_refused():
    with pytest.raises(TypeError, match="avg takes floating-point"):
        allreduce([np.ones(2, "int64")] * 2, "avg")


def test_what_cannot_be_split():
    with pytest.raises(ValueError, match="a first dimension that 2 divides, not 3"):
        reducescatter([np.ones(3)] * 2, "sum", 0)
    with pytest.raises(ValueError, match="at least one dimension"):
        reducescatter([np.array(1.0)] * 2, "sum", 0)
    with pytest.raises(ValueError, match="at least one dimension"):
        allgather([np.array(1.0)] * 2)
