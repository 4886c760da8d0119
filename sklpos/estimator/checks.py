"""Validation of data and callbacks; each error is one clear sentence."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    validate_data,
)

from sklpos.estimator.datasets import check_items
from sklpos.estimator.parameters import stand_in
from sklpos.estimator.targets import read_targets
from sklpos.estimator.violated_targets import on_violated_y, report_violated_targets
from sklpos.nets.any_rows import Rows, chunks_of, stored_arrays, take_rows
from sklpos.nets.arrays import UNREADABLE, for_torch
from sklpos.nets.bounds import Bounds
from sklpos.nets.items import ItemRows
from sklpos.nets.lazy import lazy
from sklpos.nets.misfit import check_dimensions
from sklpos.nets.values import as_plain, explaining
from sklpos.nets.warnings import warn_user

#: How scikit-learn validates X.
FLOATS = [np.float64, np.float32]
ROWS = {"dtype": FLOATS, "accept_sparse": "csr"}
# Attributes that validation sets.
_SEEN = ("n_features_in_", "feature_names_in_")


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Validated rows of positive weight.

    Attributes
    ----------
    X : ndarray, SparseRows or ItemRows of shape (n_kept, ...)
    y : ndarray of shape (n_kept, n_outputs)
        float64, unit of y.
    weight : ndarray of shape (n_kept,)
        Positive, largest 1; a single number in memory if no weights were passed in.
    bounds : Bounds
        Unit of y.
    kept : ndarray of shape (n_kept,) or Ellipsis
        Index that finds them among the rows passed in.
    n_samples : int
        Number of rows passed in.
    y_ndim : int
        1 if y came as a vector.
    seen : dict
        Attributes that scikit-learn's validation sets on an estimator:
        ``n_features_in_``, and ``feature_names_in_`` if X has string column names.
    valid : TrainingData or None
        Rows of the user's own that training only looks at, without bounds.
    unit : float, default=1.0
        Largest weight as it was passed in.
    """

    X: Rows
    y: np.ndarray
    weight: np.ndarray
    bounds: Bounds
    kept: np.ndarray | EllipsisType
    n_samples: int
    y_ndim: int
    seen: dict[str, Any]
    valid: TrainingData | None = None
    unit: float = 1.0

    @lazy
    def key(self) -> str:
        """Hash of rows, targets, weights and bounds: equal for the same problem."""
        digest = hashlib.blake2b(digest_size=16)
        sides = self.bounds.arrays
        parts = stored_arrays(self.X)
        for array in (*parts, self.y, self.weight, *sides, self.numbers()):
            # The bytes alone do not tell (2, 3) from (3, 2), nor ints from floats.
            digest.update(repr((array.shape, array.dtype)).encode())
            for chunk in chunks_of(array):
                digest.update(np.ascontiguousarray(chunk))
        return digest.hexdigest()

    def numbers(self) -> np.ndarray:
        """Numbers of the rows among those passed in.

        Returns
        -------
        ndarray of int of shape (n_kept,)
        """
        return np.arange(self.n_samples)[self.kept]


# scikit-learn sums up first: infinities of both signs are inf - inf.
@np.errstate(invalid="ignore")
def check_training_data(estimator, X, y, sample_weight, *, reset: bool) -> TrainingData:
    """Validate what `fit` and `partial_fit` take.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Its ``lower_bound``, ``upper_bound`` and ``on_violated_y`` are read.
    X : array-like, sparse matrix or ItemRows of shape (n_samples, ...)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    sample_weight : array-like of shape (n_samples,) or None
    reset : bool
        Whether this is the first data the estimator sees.

    Returns
    -------
    TrainingData

    Raises
    ------
    ValueError
        One sentence that names the parameter.
    """
    if issparse(y):
        raise ValueError("y is a sparse matrix; pass a dense array: y.toarray().")
    X, y, seen = _check_rows(estimator, X, y, reset)
    targets, bounds = read_targets(estimator, y.reshape(len(y), -1))
    # Several quantiles of a vector are a matrix.
    y_ndim = y.ndim if targets.size == y.size else 2
    y = targets
    n_samples = len(y)
    weight, unit, kept = np.broadcast_to(1.0, n_samples), 1.0, ...
    if sample_weight is not None:
        weight, unit = _weights(sample_weight, y)
    # A row of weight 0 must count as one that is not there, in the guarantee too.
    if not weight.all():
        kept = np.flatnonzero(weight)
        X, y, weight = take_rows(X, kept), y[kept], weight[kept]
    _warn_of_former_name(estimator)
    report_violated_targets(y, bounds, on_violated_y(estimator))
    return TrainingData(
        X=X,
        y=y,
        weight=weight,
        bounds=bounds,
        kept=kept,
        n_samples=n_samples,
        y_ndim=y_ndim,
        seen=seen,
        unit=unit,
    )


def _check_rows(estimator, X, y, reset: bool) -> tuple[np.ndarray, np.ndarray, dict]:
    """Let scikit-learn validate; add the name of X or y to errors that lack it."""
    any_shape = check_dimensions(estimator.module, X)
    how = {**ROWS, "multi_output": True, "y_numeric": True, "allow_nd": any_shape}
    # Validation sets attributes at once, but a fit that fails must change nothing.
    twin = stand_in(estimator)
    if reset:
        # It would look for names of columns that an earlier fit has seen.
        vars(twin).pop("fitted_", None)
    try:
        if isinstance(X, ItemRows):
            read, targets = X, check_items(twin, X, y, reset)
        else:
            rows = as_plain(X, "X"), as_plain(y, "y")
            read, targets = validate_data(twin, *rows, reset=reset, **how)
        noted = {name: getattr(twin, name) for name in _SEEN if hasattr(twin, name)}
        targets = np.asarray(targets, dtype=np.float64)
        # None becomes NaN in this conversion only, behind scikit-learn's own check.
        if not np.isfinite(targets).all():
            raise ValueError("y contains NaN or infinity.")
        return for_torch(read), targets, noted
    except UNREADABLE as error:
        # X is validated first, so where X alone is fine it was y that failed.
        numeric = isinstance(X, ItemRows) or _is_numeric(X, any_shape)
        of_y = numeric and "feature names" not in str(error)
        with explaining(*((y, "y") if of_y else (X, "X"))):
            raise


def _weights(sample_weight, y) -> tuple[np.ndarray, float]:
    """Weights of largest 1, and the largest one as it was passed in."""
    how = {"dtype": np.float64, "ensure_non_negative": True}
    with explaining(sample_weight, "sample_weight"):
        plain = as_plain(sample_weight, "sample_weight")
        weight = _check_sample_weight(plain, y, **how)
    unit = float(weight.max())
    if unit == 0:
        raise ValueError("sample_weight is 0 in every row; at least one must be > 0.")
    # Only ratios matter; a largest weight of 1 keeps sums of weights finite.
    return weight / unit, unit


def _is_numeric(X, any_shape: bool) -> bool:
    try:
        check_array(as_plain(X, "X"), **ROWS, allow_nd=any_shape)
    except UNREADABLE:
        return False
    return True


def _warn_of_former_name(estimator) -> None:
    if estimator.on_negative_y != "deprecated":
        warn_user(
            f"on_negative_y={estimator.on_negative_y!r} is deprecated and will be "
            "removed in the next version; use on_violated_y, with the same values.",
            FutureWarning,
        )


def asks_for_positive_y(lower_bound) -> bool:
    """Whether targets below 0 violate a bound; False for what is no bound at all."""
    try:
        # None becomes NaN, which is not above any number.
        return bool((np.asarray(lower_bound, dtype=np.float64) >= 0).any())
    except UNREADABLE:
        return False
