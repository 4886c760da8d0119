"""Sparse rows are, part by part, the rows of the dense array."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sklpos import Stack
from sklpos.nets import any_rows
from sklpos.nets.any_rows import (
    chunks_of,
    column_parts,
    count_rows,
    dense_rows,
    joined_rows,
    row_ranks,
    rows_per_pass,
    stored_arrays,
    tensor_rows,
)
from sklpos.nets.arrays import check_range
from sklpos.nets.bounded import data_range
from sklpos.nets.rows import predict_rows
from sklpos.nets.sparse import SparseRows

FORMATS = ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"]
INDICES = {
    "slice": slice(2, 9),
    "steps": slice(None, None, 3),
    "numbers": np.array([5, 0, 5]),
    "mask": np.arange(40) % 3 == 0,
}


def random_matrix(seed=0, shape=(40, 9), *, digits=None) -> np.ndarray:
    """Many zeros, both signs, an empty column, an empty row and repeated rows."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    dense = np.where(rng.random(shape) < 0.3, values, 0.0)
    if digits is not None:
        dense = dense.round(digits)
    dense[:, 2] = 0
    dense[3] = 0
    dense[-5:] = dense[:5]
    return dense + 0.0  # no negative zeros


@pytest.fixture
def dense():
    return random_matrix()


@pytest.fixture
def rows(dense):
    return SparseRows.of(sparse.csr_array(dense))


@pytest.mark.parametrize("name", INDICES)
def test_parts_are_those_of_the_dense_array(dense, rows, name):
    index = INDICES[name]
    np.testing.assert_array_equal(rows[index], dense[index])
    np.testing.assert_array_equal(rows.take(index)[:], dense[index])
    tensors = tensor_rows(rows, torch.float32)
    assert tensors[index].dtype == torch.float32
    np.testing.assert_array_equal(tensors[index], dense[index].astype("f4"))


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(dense, name, kind):
    made = getattr(sparse, f"{name}_{kind}")(dense)
    np.testing.assert_array_equal(SparseRows.of(made)[:], dense)


def test_a_matrix_is_put_in_order_without_changing_that_of_the_user():
    """Unsorted columns, an entry that is given in two parts, and a stored zero."""
    parts = np.array([3.0, 1.0, 1.5, 0.0]), np.array([2, 0, 0, 1]), np.array([0, 4])
    matrix = sparse.csr_array(parts, shape=(1, 3))
    rows = SparseRows.of(matrix)
    np.testing.assert_array_equal(rows[:], [[2.5, 0.0, 3.0]])
    assert rows.matrix.nnz == 2
    assert matrix.nnz == 4
    assert matrix.indices.tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_ranked_in_lexicographic_order(seed):
    dense = random_matrix(seed, (60, 4), digits=0)
    rows = SparseRows.of(sparse.csr_array(dense))
    _, expected = np.unique(dense, axis=0, return_inverse=True)
    assert row_ranks(rows).tolist() == expected.ravel().tolist()
    assert row_ranks(dense).tolist() == expected.ravel().tolist()
    assert count_rows(rows) == count_rows(dense) == expected.max() + 1
    assert count_rows(rows, 10) == len(np.unique(dense[:10], axis=0))


@pytest.mark.parametrize("first", [np.arange(20.0), np.arange(20) // 2, np.zeros(20)])
def test_rows_are_ranked_by_all_features_where_the_first_does_not_tell(first):
    rng = np.random.default_rng(0)
    X = np.c_[first, rng.integers(0, 3, (20, 2))][rng.permutation(20)]
    distinct, expected = np.unique(X, axis=0, return_inverse=True)
    assert row_ranks(X).tolist() == expected.ravel().tolist()
    assert count_rows(X) == len(distinct)
    # Images have more dimensions than two.
    assert row_ranks(X[:, None]).tolist() == expected.ravel().tolist()


@pytest.mark.parametrize("seed", range(5))
def test_columns_are_sorted_around_their_zeros(seed):
    dense = random_matrix(seed)
    rows = SparseRows.of(sparse.csr_array(dense))
    ranks = np.array([0, 7, 20, 39])
    expected = np.sort(dense, axis=0)[ranks]
    np.testing.assert_array_equal(rows.sorted_columns(ranks), expected)


def test_extremes_count_the_zeros(dense, rows):
    assert rows.min() == dense.min()
    np.testing.assert_array_equal(data_range(rows), data_range(dense))
    positive = SparseRows.of(sparse.csr_array(abs(dense)))
    assert positive.min() == 0.0
    known = np.array([[-9.0] * 9, [0.1] * 9])
    np.testing.assert_array_equal(data_range(rows, known), data_range(dense, known))


def test_columns_and_chunks(dense, rows, monkeypatch):
    np.testing.assert_array_equal(list(rows.columns()), dense.T)
    monkeypatch.setattr(any_rows, "_MAX_VALUES", 90)
    assert rows_per_pass(rows) == rows_per_pass(dense) == 10
    for source in (rows, dense):
        assert [len(chunk) for chunk in chunks_of(source)] == [10] * 4
        np.testing.assert_array_equal(np.vstack(list(chunks_of(source))), dense)
    pairs = list(column_parts(rows, dense[:20]))
    assert max(len(first.T) for first, _ in pairs) == 2
    np.testing.assert_array_equal(np.hstack([first for first, _ in pairs]), dense)
    np.testing.assert_array_equal(np.hstack([last for _, last in pairs]), dense[:20])


def test_wide_rows_are_predicted_in_fewer_rows_at_once(monkeypatch):
    monkeypatch.setattr(any_rows, "_MAX_VALUES", 90)
    seen = []
    module = torch.nn.Linear(9, 1).double()
    module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    dense = random_matrix()
    predict_rows(module, SparseRows.of(sparse.csr_array(dense)))
    assert seen == [10] * 4


def test_what_is_too_large_is_found_in_its_chunk(dense, monkeypatch):
    monkeypatch.setattr(any_rows, "_MAX_VALUES", 90)
    dense[33, 4] = -1e9
    for X in (dense, SparseRows.of(sparse.csr_array(dense))):
        with pytest.raises(ValueError, match=r"X\[33, 4\]=-1e\+09 is too large"):
            check_range(X, torch.float64, 1e6)


def test_rows_stay_sparse_as_a_whole(rows, monkeypatch):
    with pytest.raises(TypeError, match="take parts"):
        np.asarray(rows)
    with pytest.raises(TypeError):
        iter(rows)
    joined = joined_rows([tensor_rows(rows, torch.float64)] * 2)
    assert len(joined) == 80
    monkeypatch.setattr(any_rows, "_MAX_VALUES", 90)
    with pytest.raises(ValueError, match=r"X is sparse of shape .*; pass fewer"):
        dense_rows(rows, "X")


def test_digests_know_values_places_and_shape():
    def key(*args, **kwargs):
        arrays = stored_arrays(SparseRows.of(sparse.csr_array(*args, **kwargs)))
        return [(part.dtype, part.tolist()) for part in arrays]

    one = key([[0.0, 1.0]])
    wide = sparse.csr_array([[0.0, 1.0]])
    wide.indices = wide.indices.astype(np.int64)
    wide.indptr = wide.indptr.astype(np.int64)
    assert key(wide) == one
    assert key([[1.0, 0.0]]) != one
    assert key([[0.0, 2.0]]) != one
    assert key([[0.0, 1.0, 0.0]]) != one


@pytest.mark.parametrize("most", [1024, 60, 10, 3])
def test_a_stack_of_sparse_rows_is_that_of_the_dense_ones(dense, most):
    """Its means, deviations and knots, however many of these there are room for."""
    weight = np.random.default_rng(1).random(40) + 0.5
    pair = []
    for X in (dense, sparse.csc_array(dense)):
        torch.manual_seed(0)
        pair.append(Stack(9, 1, X=X, sample_weight=weight, max_intervals=most))
    first, second = (stack.state_dict() for stack in pair)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_limit_on_intervals_is_kept_without_looking_at_all_columns():
    """More columns with an interval than intervals: none has any."""
    dense = random_matrix(2, (30, 50))
    stack = Stack(50, 1, X=sparse.csr_array(dense), max_intervals=20)
    assert [len(code) for code in stack.encodings] == [0, 0]
    assert [len(code.passed) for code in stack.encodings] == [50, 50]
