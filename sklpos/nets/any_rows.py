"""What works alike on dense rows, on sparse ones and on those of a data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, issparse, vstack
from torch import Tensor

from sklpos.nets.items import ItemRows, ItemTensor
from sklpos.nets.sparse import SparseRows, SparseTensor

#: Rows of any kind, for numpy and for torch.
Rows = np.ndarray | SparseRows | ItemRows
TensorRows = Tensor | SparseTensor | ItemTensor

# Rows that are not an array; theirs are the methods that arrays do not have.
_LAZY = SparseRows, ItemRows
# Rows per pass, and values per pass of wide rows: 128 MB in float64. Dense rows are
# cut the same way, because the size of a matrix product decides how its sums round.
_MAX_ROWS, _MAX_VALUES = 4096, 2**24


def rows_per_pass(X: Any) -> int:
    """Number of rows that are computed with at once.

    Parameters
    ----------
    X : array, tensor or SparseRows of shape (n_samples, ...)

    Returns
    -------
    int

    Examples
    --------
    >>> rows_per_pass(np.empty((3, 10))), rows_per_pass(csr_array((3, 2**20)))
    (4096, 16)
    """
    width = max(math.prod(X.shape[1:]), 1)
    return min(_MAX_ROWS, max(_MAX_VALUES // width, 1))


def chunks_of(rows: Rows | Iterable[NDArray]) -> Iterator[NDArray]:
    """Iterate over rows once, chunk by chunk.

    Parameters
    ----------
    rows : ndarray, SparseRows or ItemRows of shape (n_samples, ...), or iterable
        Others come in chunks already.

    Yields
    ------
    ndarray of shape (n_rows, n_features)
    """
    # Items are read by workers, if there are any, in the order of an iteration.
    if not hasattr(rows, "shape") or isinstance(rows, ItemRows):
        yield from rows
        return
    for part in slices_of(rows):
        yield rows[part]


def slices_of(rows: Any) -> Iterator[slice]:
    """Go through the numbers of rows, as many at once as one pass takes.

    Parameters
    ----------
    rows : array, tensor or SparseRows of shape (n_samples, ...)

    Yields
    ------
    slice
    """
    size = rows_per_pass(rows)
    for start in range(0, len(rows), size):
        yield slice(start, start + size)


def tensor_rows(X: Any, dtype: torch.dtype) -> TensorRows:
    """Rows for torch.

    Parameters
    ----------
    X : array-like, SparseRows, ItemRows or sparse matrix of shape (n_samples, ...)
    dtype : torch.dtype

    Returns
    -------
    Tensor, SparseTensor or ItemTensor
    """
    if issparse(X):
        X = SparseRows.of(X)
    if not isinstance(X, _LAZY):
        X = X if isinstance(X, Tensor) else np.asarray(X)
        return torch.as_tensor(X, dtype=dtype)
    rows = X.astype(torch.empty(0, dtype=dtype).numpy().dtype)
    return ItemTensor(rows) if isinstance(rows, ItemRows) else SparseTensor(rows.matrix)


def float_rows(X: Any) -> TensorRows:
    """Rows for torch in float32, if they are dense and in it, or in float64.

    Parameters
    ----------
    X : array-like, SparseRows or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    Tensor or SparseTensor
    """
    # A copy in float64 would be twice as large as the rows.
    is_single = isinstance(X, np.ndarray) and X.dtype == np.float32
    return tensor_rows(X, torch.float32 if is_single else torch.float64)


def joined_rows(parts: list) -> TensorRows:
    """Join rows of several sets.

    Parameters
    ----------
    parts : list of torch.Tensor or of SparseTensor

    Returns
    -------
    Tensor or SparseTensor
    """
    if not isinstance(parts[0], SparseRows):
        return torch.cat(parts)
    return SparseTensor(csr_array(vstack([part.matrix for part in parts])))


def row_ranks(X: Rows) -> NDArray:
    """Number of each row among the distinct ones, in lexicographic order.

    Parameters
    ----------
    X : ndarray, SparseRows or ItemRows of shape (n_samples, n_features)

    Returns
    -------
    ndarray of int of shape (n_samples,)

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    >>> row_ranks(X).tolist(), row_ranks(SparseRows.of(csr_array(X))).tolist()
    ([1, 0, 1], [1, 0, 1])
    """
    if isinstance(X, _LAZY):
        return X.ranks()
    distinct, ranks = np.unique(_first_values(X), return_inverse=True)
    if len(distinct) == len(X):
        return ranks
    # The shape of the inverse differs between versions of numpy.
    return np.unique(X, axis=0, return_inverse=True)[1].ravel()


def count_rows(X: Rows, stop: int | None = None) -> int:
    """Count distinct rows.

    Parameters
    ----------
    X : ndarray or SparseRows of shape (n_samples, n_features)
    stop : int, optional
        Look at no more than this many rows, the first ones.

    Returns
    -------
    int
    """
    if isinstance(X, SparseRows):
        return int(X.take(slice(stop)).ranks().max()) + 1
    X = X[:stop]
    distinct = len(np.unique(_first_values(X)))
    return distinct if distinct == len(X) else len(np.unique(X, axis=0))


def _first_values(X: NDArray) -> NDArray:
    # If they differ from row to row, there is no need to compare whole rows, which
    # takes ten times as long.
    return X[(slice(None), *(0,) * (X.ndim - 1))]


def columns_of(X: Rows) -> Iterable[NDArray]:
    """Columns of rows.

    Parameters
    ----------
    X : ndarray or SparseRows of shape (n_samples, n_features)

    Returns
    -------
    iterable of ndarray of shape (n_samples,)
    """
    return X.columns() if isinstance(X, SparseRows) else X.T


def take_rows(X: Any, index: Any) -> Any:
    """Choose rows; sparse ones stay sparse, and items are not read.

    Parameters
    ----------
    X : ndarray, torch.Tensor, SparseRows or ItemRows of shape (n_samples, ...)
    index : slice, Ellipsis or ndarray

    Returns
    -------
    rows like X
    """
    return X.take(index) if isinstance(X, _LAZY) else X[index]


def column_parts(*sides: Any) -> Iterator[list[NDArray]]:
    """Go through the columns of several sets of rows, in dense parts side by side.

    Parameters
    ----------
    *sides : ndarray, SparseRows or sparse matrix of shape (n_rows, n_features)

    Yields
    ------
    list of ndarray of shape (n_rows, n_columns)
    """
    sides = [plain_rows(side) for side in sides]
    sides = [csc_array(side) if issparse(side) else side for side in sides]
    size = max(_MAX_VALUES // max(side.shape[0] for side in sides), 1)
    for start in range(0, sides[0].shape[1], size):
        parts = [side[:, start : start + size] for side in sides]
        yield [part.toarray() if issparse(part) else part for part in parts]


def plain_rows(X: Rows) -> NDArray | csr_array:
    """Rows for code that knows arrays and sparse matrices only.

    Parameters
    ----------
    X : ndarray or SparseRows of shape (n_samples, n_features)

    Returns
    -------
    ndarray or csr_array
    """
    return X.matrix if isinstance(X, SparseRows) else X


def stored_arrays(X: Rows) -> list[NDArray]:
    """Arrays that hold the values of rows, for a digest.

    Parameters
    ----------
    X : ndarray, SparseRows or ItemRows of shape (n_samples, ...)

    Returns
    -------
    list of ndarray
    """
    return X.stored_arrays() if isinstance(X, _LAZY) else [X]


def dense_rows(X: Any, name: str) -> Any:
    """Make sparse rows dense where all of them are needed at once.

    Parameters
    ----------
    X : array-like, sparse matrix or SparseRows of shape (n_samples, n_features)
    name : str
        Name of the parameter in error messages.

    Returns
    -------
    array-like
        Unchanged if it is not sparse.

    Raises
    ------
    ValueError
        If a dense array of them would be large.
    """
    matrix = X.matrix if isinstance(X, SparseRows) else X
    if not issparse(matrix):
        return X
    if math.prod(matrix.shape) > _MAX_VALUES:
        raise ValueError(
            f"{name} is sparse of shape {matrix.shape}, but this needs dense rows, at "
            f"most {_MAX_VALUES:,} values; pass fewer rows."
        )
    dense = matrix.toarray()
    return torch.from_numpy(dense) if isinstance(X, SparseTensor) else dense
