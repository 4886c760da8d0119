"""Rows that come in batches, possibly more than fit into memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from torch import Tensor

from sklpos.nets.arrays import naming
from sklpos.nets.sparse import SparseRows
from sklpos.nets.values import as_plain

Rows = ArrayLike | Tensor | Iterable


@dataclass(frozen=True, eq=False)
class LoaderRows:
    """The rows of a loader, which is iterated anew on each pass.

    Attributes
    ----------
    loader : iterable
        Yields X, or (X, ...); see `repair_head`.
    expected : tuple of (int, int) or None
        Number of rows, and a checksum that changes if rows are shuffled; None until
        they are known.
    wanted : ndarray of bool of shape (n_samples,) or None
        The rows to yield; None for all.
    """

    loader: Iterable
    expected: tuple[int, int] | None = None
    wanted: NDArray | None = None

    def __len__(self) -> int:
        """Count the rows."""
        return self.expected[0] if self.wanted is None else int(self.wanted.sum())

    def __iter__(self) -> Iterator[NDArray]:
        """Go through the rows once.

        Raises
        ------
        ValueError
            If these are not the rows of the first pass.
        """
        start = 0
        mark = 0
        for X, _ in self.batches():
            stop = start + len(X)
            # Over all rows, those left out too, as on the first pass.
            mark = marked(mark, X)
            wanted = X if self.wanted is None else X[self.wanted[start:stop]]
            if len(wanted):
                yield wanted
            start = stop
        # Other rows would void the promise of the repair without any other sign.
        if (start, mark) != self.expected:
            raise ValueError(
                f"rows yields {start} rows on a later pass, but {self.expected[0]} "
                "rows, or different ones, on the first; pass a loader that can be "
                "iterated again, without shuffling."
            )

    def batches(self) -> Iterator[tuple[NDArray, tuple]]:
        """Go through the loader once, unchecked.

        Yields
        ------
        X : ndarray of shape (batch, ...)
        rest : tuple
            What the loader yields beside X.
        """
        for batch in self.loader:
            first, *rest = batch if isinstance(batch, list | tuple) else (batch,)
            if not isinstance(first, Tensor | np.ndarray):
                raise ValueError(
                    f"rows yields {type(first).__name__}; a loader must yield tensors "
                    "X, or tuples (X, ...) that begin with one."
                )
            yield as_rows(first), tuple(rest)


def marked(mark: int, X: NDArray) -> int:
    """Update a checksum of batches by the next one.

    Parameters
    ----------
    mark : int
    X : ndarray of shape (batch, ...)

    Returns
    -------
    int
    """
    # One row per batch is enough to notice shuffling, and costs next to nothing.
    return zlib.crc32(np.ascontiguousarray(X[:1]), mark)


def open_rows(rows: Rows) -> NDArray | SparseRows | LoaderRows:
    """Tell arrays and loaders apart.

    Parameters
    ----------
    rows : array-like, sparse matrix, tensor or loader
        A list of tensors is a loader, a list of lists of numbers an array.

    Returns
    -------
    ndarray of shape (n_samples, ...), SparseRows or LoaderRows
    """
    # Arrays and tensors come first, because they are iterable, too.
    if isinstance(rows, Tensor) or hasattr(rows, "__array__"):
        return as_rows(rows)
    if issparse(rows):
        return SparseRows.of(rows).astype(np.float64)
    if isinstance(rows, Iterator):
        raise ValueError(
            "rows is an iterator, which is exhausted after one pass; pass a loader "
            "that can be iterated again, such as a DataLoader without shuffling."
        )
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise ValueError(
            f"rows={rows!r} must be an array, a tensor, or a loader that yields "
            "tensors X or tuples (X, ...)."
        )
    if isinstance(rows, list | tuple) and not _holds_batches(rows):
        return as_rows(rows)
    return LoaderRows(rows)


def _holds_batches(rows: list | tuple) -> bool:
    # A list of rows holds numbers; a list of batches holds arrays, or tuples of them.
    first = rows[0] if rows else None
    first = first[0] if isinstance(first, list | tuple) and first else first
    return isinstance(first, Tensor | np.ndarray)


def first_row(source: NDArray | SparseRows | LoaderRows) -> NDArray:
    """One row, as an example input of a module.

    Parameters
    ----------
    source : ndarray, SparseRows or LoaderRows

    Returns
    -------
    ndarray of shape (1, ...)
    """
    if isinstance(source, LoaderRows):
        chunks = (X for X, _ in source.batches())
    else:
        chunks = iter([source])
    # Batches may be empty, for example those of a filter.
    row = next((X[:1] for X in chunks if len(X)), None)
    if row is None:
        raise ValueError("rows is empty; pass at least one row.")
    return row


def as_rows(rows: ArrayLike | Tensor) -> NDArray:
    """Rows as a floating-point array.

    Parameters
    ----------
    rows : array-like or tensor of shape (n_samples, ...)

    Returns
    -------
    ndarray
    """
    with naming("rows"):
        X = np.asarray(as_plain(rows, "rows"))
        if not np.issubdtype(X.dtype, np.floating):
            X = X.astype(np.float64)
    if X.ndim < 2:
        raise ValueError(
            f"rows has shape {X.shape}; it must be (n_samples, n_features), or "
            "(batch, n_features) in a loader."
        )
    return X
