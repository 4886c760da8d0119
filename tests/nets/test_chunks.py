"""Sums over features are the same for arrays and for tensors of an accelerator."""

import numpy as np
import pytest
import torch

from sklpos.nets.chunks import arrays, largest_sums, screened, weighted_sums
from sklpos.nets.placement import fetched

RNG = np.random.default_rng(0)
CHUNK = np.column_stack([RNG.normal(size=(50, 4)), np.ones(50)])
HEADS = RNG.normal(size=(3, 5))
WEIGHT = RNG.uniform(0.5, 2.0, 50)
TARGETS = RNG.normal(size=(50, 3))
THERE = torch.as_tensor(CHUNK)


def assert_same(own, other):
    np.testing.assert_allclose(own, other, rtol=1e-13, atol=1e-13)


def test_largest_sums():
    (there,) = arrays([largest_sums(THERE, np.abs(HEADS))])
    assert_same(there, largest_sums(CHUNK, np.abs(HEADS)))


@pytest.mark.parametrize("targets", [None, TARGETS])
def test_weighted_sums(targets):
    there = arrays(weighted_sums(THERE, WEIGHT, targets))
    here = weighted_sums(CHUNK, WEIGHT, targets)
    assert len(there) == len(here) == (2 if targets is None else 3)
    for own, other in zip(there, here, strict=True):
        assert_same(own, other)


def test_only_rows_that_some_head_predicts_out_of_range_come_back():
    lower, upper = np.array([-1.0, -np.inf, -1.0]), np.array([np.inf, 2.0, 1.0])
    numbers, features, predictions = screened(THERE, HEADS, lower, upper)
    wanted = CHUNK @ HEADS.T
    outside = ((wanted < lower) | (wanted > upper)).any(axis=1)
    np.testing.assert_array_equal(numbers, np.flatnonzero(outside))
    assert 0 < len(numbers) < len(CHUNK)
    np.testing.assert_array_equal(features, CHUNK[outside])
    assert_same(predictions, wanted[outside])


def test_what_is_fetched_keeps_its_dtype_and_shape():
    # As on an accelerator, where all of them come as bytes: on the CPU as they are.
    given = torch.tensor(True), torch.arange(3), torch.ones(2, 2), torch.empty(0, 3)
    for own, other in zip(fetched(*given), given, strict=True):
        assert own.dtype == other.dtype
        assert torch.equal(own, other)
