"""Rows of a data set that are read item by item, and never held all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from sklpos.nets.reading import first_of, in_parts, marks_of, read_items, rows_of

#: Values of X of a data set that is read once and then kept in memory: 128 MB in
#: float64.
MOST_VALUES = 2**24
# Rows, and values, that are read at once.
_MAX_ROWS, _MAX_CHUNK = 4096, 2**22
# Least and most rows of a sample, as of the quantiles of each feature.
_SAMPLE = 5_000, 100_000


@dataclass(frozen=True, eq=False)
class ItemRows:
    """Rows of a data set, which an index, a slice or an iteration reads anew.

    Its parts are arrays, as those of an array are, so that whatever goes through rows
    in chunks takes either of them.

    Attributes
    ----------
    dataset : torch.utils.data.Dataset
        Its items are tuples that begin with x, or x alone.
    numbers : ndarray of int of shape (n_samples,)
        Those of the items that are rows.
    dtype : numpy.dtype
    range : ndarray of shape (2, ...)
        Smallest and largest value of each feature.
    marks : ndarray of int of shape (n_items,)
        Checksum of each item, by which a change is noticed.
    fetching : dict
        Parameters of torch's ``DataLoader`` that say how workers fetch.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> items = TensorDataset(torch.tensor([[1.0], [2.0], [3.0]]))
    >>> ends = np.array([[1.0], [3.0]])
    >>> rows = ItemRows(items, np.arange(3), np.dtype("float32"), ends)
    >>> rows.shape, rows[1:].ravel().tolist()
    ((3, 1), [2.0, 3.0])
    """

    dataset: Any
    numbers: NDArray
    dtype: np.dtype
    range: NDArray
    marks: NDArray | None = None
    fetching: dict = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and the shape of a row."""
        return (len(self.numbers), *self.range.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.range.ndim

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> NDArray:
        return self._read(np.atleast_1d(self.numbers[index]).tolist())

    def __iter__(self) -> Iterator[NDArray]:
        """Go through the rows once, in chunks."""
        width = max(int(np.prod(self.shape[1:])), 1)
        size = min(_MAX_ROWS, max(_MAX_CHUNK // width, 1))
        return in_parts(self._read, self.numbers, size, self.fetching)

    def __array__(self, dtype=None, copy=None) -> NDArray:
        """Refuse to become an array as a whole."""
        raise ValueError(
            f"X has {np.prod(self.shape):,} values, but this needs all rows in memory, "
            f"at most {MOST_VALUES:,} values of a Dataset; pass fewer rows, or arrays."
        )

    def take(self, index: Any) -> ItemRows:
        """Choose rows, without reading them.

        Parameters
        ----------
        index : slice, Ellipsis or ndarray

        Returns
        -------
        ItemRows
        """
        return replace(self, numbers=self.numbers[index])

    def astype(self, dtype: DTypeLike, copy: bool = False) -> ItemRows:
        """Convert the values when they are read.

        Parameters
        ----------
        dtype : numpy.dtype
        copy : bool, default=False
            Not used.

        Returns
        -------
        ItemRows
        """
        return replace(self, dtype=np.dtype(dtype))

    def stored_arrays(self) -> list[NDArray]:
        """Arrays that tell these rows from others, for a digest.

        Returns
        -------
        list of ndarray
        """
        return [self.marks[self.numbers], self.range]

    def sample(self, seed: int) -> NDArray:
        """Draw numbers of rows, at most 100,000, and fewer of wide rows.

        Parameters
        ----------
        seed : int

        Returns
        -------
        ndarray of int of shape (n_drawn,)
            Sorted.
        """
        width = max(int(np.prod(self.shape[1:])), 1)
        most = min(len(self), np.clip(_MAX_CHUNK // width, *_SAMPLE))
        return np.sort(np.random.default_rng(seed).choice(len(self), most, False))

    def ranks(self) -> NDArray:
        """Number of each row among the distinct ones, told apart by their checksums.

        Returns
        -------
        ndarray of int of shape (n_samples,)
        """
        return np.unique(self.marks[self.numbers], return_inverse=True)[1].ravel()

    def min(self, axis: int | None = None) -> Any:
        """Smallest value of all or of each feature.

        Parameters
        ----------
        axis : {0} or None
        """
        return self.range[0] if axis == 0 else self.range[0].min()

    def max(self, axis: int | None = None) -> Any:
        """Largest value of all or of each feature.

        Parameters
        ----------
        axis : {0} or None
        """
        return self.range[1] if axis == 0 else self.range[1].max()

    def _read(self, numbers: list[int]) -> NDArray:
        items = read_items(self.dataset, numbers)
        rows = rows_of([first_of(item) for item in items])
        if self.marks is not None and (marks_of(rows) != self.marks[numbers]).any():
            changed = numbers[int((marks_of(rows) != self.marks[numbers]).argmax())]
            raise ValueError(
                f"item {changed} of the data set is another one than when it was read "
                "first; items must stay the same, so put random changes of rows into "
                "the module, for its training mode."
            )
        return rows.astype(self.dtype, copy=False)


@dataclass(frozen=True, eq=False)
class ItemTensor:
    """`ItemRows` with tensors as its parts, for code that computes with torch.

    Attributes
    ----------
    rows : ItemRows
    """

    rows: ItemRows

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and the shape of a row."""
        return self.rows.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.rows.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        index = index.numpy(force=True) if isinstance(index, Tensor) else index
        return torch.from_numpy(self.rows[index])

    def numpy(self) -> ItemRows:
        """Rows with arrays as their parts.

        Returns
        -------
        ItemRows
        """
        return self.rows
