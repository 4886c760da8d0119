"""One column of a model's data: numbers, or categories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklpos.nets.arrays import naming
from sklpos.nets.hints import shown
from sklpos.nets.values import as_plain


@dataclass(frozen=True)
class Column:
    """A column of the data that a model takes.

    Attributes
    ----------
    name : str or int
        Its name, or its position if the columns have no names.
    features : tuple of int
        The features that stand for it: one for a number; one for each category, of
        which one is 1 and the others are 0; none if the model ignores the column. The
        features of all columns are in the order of these.
    categories : tuple or None
        None for a number.
    unknown : bool
        Whether the last of the categories stands for every value that is none of the
        others.

    Examples
    --------
    >>> shop = Column("shop", (0, 1), ("a", "b"))
    >>> shop.encode(np.array(["b", "a"]))
    array([[0., 1.],
           [1., 0.]])
    """

    name: Any
    features: tuple[int, ...]
    categories: tuple | None = None
    unknown: bool = False

    def encode(self, values: NDArray, name: str = "X") -> NDArray:
        """Read values as features.

        Parameters
        ----------
        values : ndarray of shape (n_samples,)
        name : str, default="X"
            Name of the parameter in error messages.

        Returns
        -------
        ndarray of shape (n_samples, n_own_features)
        """
        if self.categories is None:
            where = f"{name}, column {shown(self.name)}"
            with naming(where):
                numbers = np.asarray(as_plain(values, where), dtype=np.float64)
            if not np.isfinite(numbers).all():
                raise ValueError(
                    f"{name} contains NaN or infinity in column {shown(self.name)}."
                )
            return numbers[:, None]
        known = self.categories[: len(self.categories) - self.unknown]
        found = np.stack([_equal(values, category) for category in known], axis=1)
        new = ~found.any(axis=1)
        if self.unknown:
            return np.column_stack([found, new]).astype(np.float64)
        if new.any():
            value = values[new.argmax()]
            raise ValueError(
                f"{name} has {shown(value)} in column {shown(self.name)}, which is no "
                "category that the model knows."
            )
        return found.astype(np.float64)

    def corners(self, low: Any, high: Any) -> NDArray:
        """Read two values as the ends of a range of features.

        Parameters
        ----------
        low, high : object
            None in both for any category.

        Returns
        -------
        ndarray of shape (2, n_own_features)
        """
        where = f"domain, column {shown(self.name)}"
        if self.categories is None:
            with naming(where):
                return np.array([[float(low)], [float(high)]])
        if low is None and high is None:
            return np.array([[0.0], [1.0]])
        values = np.array([low, high], dtype=object)
        if not _equal(values[:1], high)[0]:
            raise ValueError(
                f"domain goes from {shown(low)} to {shown(high)} in column "
                f"{shown(self.name)}; a category must be the same in both corners, or "
                "None for any."
            )
        return self.encode(values, where)

    def decode(self, rows: NDArray) -> NDArray:
        """Turn features into values.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features)
            The features of all columns.

        Returns
        -------
        ndarray of shape (n_samples,)
            Those of a column that the model ignores are NaN.
        """
        if not self.features:
            return np.full(len(rows), np.nan)
        if self.categories is None:
            return rows[:, self.features[0]]
        picked = rows[:, list(self.features)].argmax(axis=1)
        # By way of a list, numbers keep a dtype of numbers.
        values = [self.categories[k] for k in picked]
        kinds = {type(value) for value in self.categories}
        plain = kinds <= {int, float} or kinds == {bool}
        return np.array(values) if plain else np.array(values, dtype=object)


def _equal(values: NDArray, category: Any) -> NDArray:
    # NaN is a category like others, although it is not equal to itself.
    if category != category:
        return np.asarray(values != values, dtype=bool)
    return np.asarray(values == category, dtype=bool)
