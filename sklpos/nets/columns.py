"""The columns of a model's data, and the features that stand for them in a domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklpos.nets.any_rows import dense_rows
from sklpos.nets.column import Column
from sklpos.nets.floats import as_floats
from sklpos.nets.hints import shown
from sklpos.nets.tensors import without_torch
from sklpos.nets.values import as_plain


@dataclass(frozen=True)
class Columns:
    """The columns of a model's data, as features that are numbers.

    Attributes
    ----------
    columns : tuple of Column
        In the order of the data.
    named : bool
        Whether the model takes data frames with these names.

    Examples
    --------
    >>> size = Column("size", (0,))
    >>> shop = Column("shop", (1, 2), ("a", "b"))
    >>> columns = Columns((size, shop), named=True)
    >>> columns.names
    ('size', 'shop=a', 'shop=b')
    >>> columns.groups
    ((1, 2),)
    >>> columns.encode({"size": [7], "shop": ["b"]})
    array([[7., 0., 1.]])
    """

    columns: tuple[Column, ...]
    named: bool = False

    @classmethod
    def numbers(cls, names: Iterable, *, named: bool) -> Columns:
        """Columns that are all numbers.

        Parameters
        ----------
        names : iterable of str or int
        named : bool

        Returns
        -------
        Columns
        """
        return cls(tuple(Column(n, (j,)) for j, n in enumerate(names)), named)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return sum(len(column.features) for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each feature."""
        names = [""] * self.n_features
        for column in self.columns:
            label = str(column.name) if self.named else f"x{column.name}"
            for k, j in enumerate(column.features):
                known = column.categories
                names[j] = label if known is None else f"{label}={known[k]}"
        return tuple(names)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Features of each column of categories."""
        return tuple(c.features for c in self.columns if c.categories is not None)

    @property
    def are_features(self) -> bool:
        """Whether each column is one feature, in the same order."""
        return all(c.features == (j,) for j, c in enumerate(self.columns)) and not (
            self.groups
        )

    def encode(self, X: Any, name: str = "X") -> NDArray:
        """Read rows of the data as features.

        Parameters
        ----------
        X : array-like, data frame or dict of shape (n_samples, n_columns)
        name : str, default="X"
            Name of the parameter in error messages.

        Returns
        -------
        ndarray of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If a column is missing, a number is not finite, or a category not known.
        """
        X = self._check_width(X, name)
        parts = [
            column.encode(_values(X, position, column, name), name)
            for position, column in enumerate(self.columns)
            if column.features
        ]
        return np.hstack(parts)

    def decode(self, rows: NDArray) -> Any:
        """Turn features into data as the model takes them.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features)
            The largest feature of a group is its category.

        Returns
        -------
        pandas.DataFrame or ndarray of shape (n_samples, n_columns)
            A frame if the columns have names. Ignored columns are NaN.
        """
        if self.named:
            return self.frame(rows)
        parts = [column.decode(rows) for column in self.columns]
        kind = object if any(part.dtype == object for part in parts) else None
        return np.stack(parts, axis=1).astype(kind) if kind else np.stack(parts, axis=1)

    def frame(self, rows: NDArray) -> Any:
        """Turn features into a data frame.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features)

        Returns
        -------
        pandas.DataFrame of shape (n_samples, n_columns)
        """
        pandas = import_module("pandas")
        values = {column.name: column.decode(rows) for column in self.columns}
        return pandas.DataFrame(values)

    def corners(self, low: Any, high: Any) -> NDArray:
        """Read two rows of the data as the corners of a box of features.

        Parameters
        ----------
        low, high : array-like of shape (n_columns,), dict, Series or one-row frame
            A category must be the same in both; one that is None, or left out of a
            dict, may be any.

        Returns
        -------
        ndarray of shape (2, n_features)
        """
        ends = [self._as_row(side) for side in (low, high)]
        found = np.empty((2, self.n_features))
        for column in self.columns:
            if not column.features:
                continue
            pair = [end.get(column.name) for end in ends]
            found[:, list(column.features)] = column.corners(*pair)
        return found

    def spread(self, scale: ArrayLike, name: str = "radius") -> NDArray:
        """Sizes of changes, which are 0 for categories.

        Parameters
        ----------
        scale : float or array-like of shape (n_columns,) or (n_features,)
        name : str, default="radius"
            Name of the parameter in error messages.

        Returns
        -------
        ndarray of shape (n_features,), or as `scale` without categories
        """
        scale = as_floats(scale, name)
        if not self.groups:
            return scale
        if scale.shape == (len(self.columns),) and len(scale) != self.n_features:
            counts = [len(column.features) for column in self.columns]
            scale = np.repeat(scale, counts)
        if scale.shape in ((), (1,)):
            scale = np.full(self.n_features, scale)
        for group in self.groups:
            # A wrong shape is refused by those who know what it is for.
            scale[list(group)[: len(scale)]] = 0.0
        return scale

    def find(self, entry: Any) -> Any:
        """Features of columns that a user names as categorical.

        Parameters
        ----------
        entry : str, int, or sequence of these
            Names or positions of columns of numbers.

        Returns
        -------
        int or tuple of int
        """
        if isinstance(entry, Sequence | np.ndarray) and not isinstance(entry, str):
            return tuple(map(self.find, entry))
        by_name = {column.name: column for column in self.columns}
        column = by_name.get(entry) if isinstance(entry, str) else None
        if isinstance(entry, int | np.integer) and 0 <= entry < len(by_name):
            column = self.columns[entry]
        if column is None or len(column.features) != 1:
            raise ValueError(
                f"categorical={shown(entry)} must be the name or the position of a "
                "column of numbers; those of categories are known."
            )
        return column.features[0]

    def snap(self, rows: NDArray) -> NDArray:
        """Move features to the nearest ones that data can have.

        Parameters
        ----------
        rows : ndarray of shape (..., n_features)

        Returns
        -------
        ndarray of the same shape
        """
        rows = np.array(rows)
        for group in map(list, self.groups):
            rows[..., group] = np.eye(len(group))[rows[..., group].argmax(axis=-1)]
        return rows

    def _as_row(self, side: Any) -> dict:
        if hasattr(side, "columns"):
            side = {name: np.asarray(side[name])[0] for name in side.columns}
        if hasattr(side, "keys"):
            return dict(side)
        values = np.asarray(without_torch(side), dtype=object).tolist()
        if len(values) != len(self.columns):
            raise ValueError(
                f"domain has {len(values)} values, but the model takes "
                f"{len(self.columns)} columns."
            )
        names = [column.name for column in self.columns]
        return dict(zip(names, values, strict=True))

    def _check_width(self, X: Any, name: str) -> Any:
        # Frames and dicts are read by the names of their columns.
        if self.named and (hasattr(X, "columns") or isinstance(X, dict)):
            return X
        X = np.asarray(as_plain(dense_rows(X, name), name))
        if X.ndim != 2 or X.shape[1] != len(self.columns):
            raise ValueError(
                f"{name} has shape {X.shape}, but the model takes "
                f"{len(self.columns)} columns."
            )
        return X


def _values(X: Any, position: int, column: Column, name: str) -> NDArray:
    if isinstance(X, np.ndarray):
        return X[:, position]
    if column.name not in X:
        raise ValueError(f"{name} has no column {shown(column.name)}.")
    return np.asarray(X[column.name])
