"""Rows of a sparse matrix, which become dense part by part and never as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor


class SparseRows:
    """Rows of a sparse matrix, with dense arrays as its parts.

    An index, a slice or an iteration returns dense rows, as that of an array does, so
    whatever goes through rows in chunks takes either of them.

    Parameters
    ----------
    matrix : csr_array of shape (n_samples, n_features)
        In canonical format, without stored zeros; see `of`.

    Attributes
    ----------
    shape : tuple of (int, int)
    dtype : numpy.dtype

    Examples
    --------
    >>> rows = SparseRows.of(csr_array([[0.0, 2.0], [0.0, 0.0], [1.0, 0.0]]))
    >>> rows[1:]
    array([[0., 0.],
           [1., 0.]])
    >>> len(rows), rows.max(axis=0).tolist()
    (3, [1.0, 2.0])
    """

    ndim = 2
    # Single rows are not what loops are meant to see.
    __iter__ = None

    def __init__(self, matrix: csr_array):
        self.matrix = matrix
        self.shape = matrix.shape
        self.dtype = matrix.dtype

    @classmethod
    def of(cls, matrix: Any) -> Self:
        """Read any sparse matrix or array; it is not changed.

        Parameters
        ----------
        matrix : sparse matrix or sparse array of shape (n_samples, n_features)

        Returns
        -------
        SparseRows
        """
        found = csr_array(matrix)
        if not (found.has_canonical_format and found.data.all()):
            found = found.copy()
            found.sum_duplicates()
            found.eliminate_zeros()
        return cls(found)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> NDArray:
        return self.matrix[index].toarray()

    def __array__(self, dtype=None, copy=None) -> NDArray:
        """Refuse to become a dense array as a whole."""
        raise TypeError("sparse rows are too many for one dense array; take parts.")

    def split(self, size: int) -> Iterator[Any]:
        """Go through parts of `size` rows, the last of which may be smaller.

        Parameters
        ----------
        size : int

        Yields
        ------
        ndarray of shape (n_rows, n_features)
        """
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def stored_arrays(self) -> list[NDArray]:
        """Arrays that tell these rows from others, for a digest.

        Returns
        -------
        list of ndarray
        """
        # The width of an index says nothing about the rows.
        places = (np.asarray(self.shape), self.matrix.indptr, self.matrix.indices)
        return [*(part.astype(np.int64) for part in places), self.matrix.data]

    def columns(self) -> Iterator[NDArray]:
        """Go through the columns.

        Yields
        ------
        ndarray of shape (n_samples,)
        """
        by_column = self.matrix.tocsc()
        for start, stop in zip(by_column.indptr, by_column.indptr[1:], strict=False):
            column = np.zeros(len(self), by_column.dtype)
            column[by_column.indices[start:stop]] = by_column.data[start:stop]
            yield column

    def take(self, index: Any) -> SparseRows:
        """Choose rows, as sparse ones.

        Parameters
        ----------
        index : slice, Ellipsis or ndarray

        Returns
        -------
        SparseRows
        """
        return type(self)(self.matrix[index])

    def astype(self, dtype: DTypeLike, copy: bool = False) -> SparseRows:
        """Convert the values.

        Parameters
        ----------
        dtype : numpy.dtype
        copy : bool, default=False

        Returns
        -------
        SparseRows
        """
        # A number may become zero in a dtype that holds less.
        return SparseRows.of(self.matrix.astype(dtype, copy=copy))

    def min(self, axis: int | None = None) -> Any:
        """Smallest value of all or of each column.

        Parameters
        ----------
        axis : int or None

        Returns
        -------
        float or ndarray of shape (n_features,)
        """
        found = self.matrix.min(axis=axis)
        return found if axis is None else found.toarray().ravel()

    def max(self, axis: int | None = None) -> Any:
        """Largest value of all or of each column.

        Parameters
        ----------
        axis : int or None

        Returns
        -------
        float or ndarray of shape (n_features,)
        """
        found = self.matrix.max(axis=axis)
        return found if axis is None else found.toarray().ravel()

    def sorted_columns(self, ranks: NDArray) -> NDArray:
        """Values of each column at ranks of its order.

        Parameters
        ----------
        ranks : ndarray of int of shape (n_ranks,)

        Returns
        -------
        ndarray of shape (n_ranks, n_features)
        """
        found = self.matrix.tocsc()
        column = np.repeat(np.arange(self.shape[1]), np.diff(found.indptr))
        data = found.data[np.lexsort((found.data, column))]
        n_negative = np.bincount(column[found.data < 0], minlength=self.shape[1])
        n_zero = len(self) - np.diff(found.indptr)
        sorted_rows = np.zeros((len(ranks), self.shape[1]), self.dtype)
        for rank, row in zip(ranks, sorted_rows, strict=True):
            # The zeros lie between the negative values and the positive ones.
            filled = (rank < n_negative) | (rank >= n_negative + n_zero)
            place = found.indptr[:-1] + rank - np.where(rank < n_negative, 0, n_zero)
            row[filled] = data[place[filled]]
        return sorted_rows

    def ranks(self) -> NDArray:
        """Number of each row among the distinct ones, in lexicographic order.

        Returns
        -------
        ndarray of int of shape (n_samples,)
        """
        keys = [self._key(row) for row in range(len(self))]
        numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
        return np.array([numbers[key] for key in keys])

    def _key(self, row: int) -> tuple:
        """Tuple that is larger than that of another row where the row is larger."""
        part = slice(*self.matrix.indptr[row : row + 2])
        values = self.matrix.data[part]
        # Where a row has a value and another one none, the sign decides; the earlier
        # the column, the more it counts. Rows that end go on with zeros.
        places = np.sign(values) * (self.shape[1] - self.matrix.indices[part])
        pairs = np.column_stack([places, values]).ravel().tolist()
        return (*pairs, 0.0)


class SparseTensor(SparseRows):
    """`SparseRows` with tensors as its parts, for code that computes with torch.

    Parameters
    ----------
    matrix : csr_array of shape (n_samples, n_features)
        As in `SparseRows`.

    Examples
    --------
    >>> rows = SparseTensor.of(csr_array([[0.0, 2.0], [1.0, 0.0]]))
    >>> rows[torch.tensor([1])]
    tensor([[1., 0.]], dtype=torch.float64)
    """

    def __init__(self, matrix: csr_array):
        super().__init__(matrix)
        # Not of the matrix itself: torch warns of memory that is read-only.
        self.dtype = torch.from_numpy(np.empty(0, matrix.dtype)).dtype

    def __getitem__(self, index) -> Tensor:
        index = index.numpy(force=True) if isinstance(index, Tensor) else index
        return torch.from_numpy(super().__getitem__(index))

    def amin(self, axis: int) -> Tensor:
        """Smallest value of each column.

        Parameters
        ----------
        axis : int
            0.

        Returns
        -------
        torch.Tensor of shape (n_features,)
        """
        return torch.from_numpy(self.min(axis))

    def amax(self, axis: int) -> Tensor:
        """Largest value of each column.

        Parameters
        ----------
        axis : int
            0.

        Returns
        -------
        torch.Tensor of shape (n_features,)
        """
        return torch.from_numpy(self.max(axis))

    def numpy(self) -> SparseRows:
        """Rows with arrays as their parts.

        Returns
        -------
        SparseRows
        """
        return SparseRows(self.matrix)
