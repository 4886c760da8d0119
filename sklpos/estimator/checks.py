"""Validation of data and callbacks; each error is one clear sentence."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    validate_data,
)
from skorch.callbacks import Callback

from sklpos.nets.arrays import (
    UNREADABLE,
    for_torch,
    largest_size,
    naming,
    without_torch,
)
from sklpos.nets.bounds import Bounds
from sklpos.nets.warnings import warn_user

#: Attributes that scikit-learn's validation sets on an estimator.
SEEN = ("n_features_in_", "feature_names_in_")
_FLOATS = [np.float64, np.float32]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Validated rows of positive weight.

    Attributes
    ----------
    X : ndarray of shape (n_kept, n_features)
    y : ndarray of shape (n_kept, n_outputs)
        float64, unit of y.
    weight : ndarray of shape (n_kept,)
        Positive, largest 1.
    bounds : Bounds
        Unit of y.
    kept : ndarray of shape (n_kept,)
        Their numbers among the rows passed in.
    n_samples : int
        Number of rows passed in.
    y_ndim : int
        1 if y came as a vector.
    seen : dict
        Attributes that scikit-learn's validation sets on an estimator:
        ``n_features_in_``, and ``feature_names_in_`` if X has string column names.
    """

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    bounds: Bounds
    kept: np.ndarray
    n_samples: int
    y_ndim: int
    seen: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """Hash of rows, targets, weights and bounds: equal for the same problem."""
        digest = hashlib.blake2b(digest_size=16)
        sides = self.bounds.arrays
        for array in (self.X, self.y, self.weight, *sides, self.kept):
            # The bytes alone do not tell (2, 3) from (3, 2), nor ints from floats.
            digest.update(repr((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


def check_training_data(estimator, X, y, sample_weight, *, reset: bool) -> TrainingData:
    """Validate what `fit` and `partial_fit` take.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Its ``lower_bound``, ``upper_bound`` and ``on_violated_y`` are read.
    X : array-like of shape (n_samples, n_features)
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
    y_ndim = y.ndim
    y = y.reshape(len(y), -1)
    with naming("sample_weight"):
        weight = _check_sample_weight(
            without_torch(sample_weight), X, dtype=np.float64, ensure_non_negative=True
        )
    if not weight.any():
        raise ValueError("sample_weight is 0 in every row; at least one must be > 0.")
    bounds = Bounds.read(estimator.lower_bound, estimator.upper_bound, y.shape[1])
    n_samples = len(y)
    kept = np.flatnonzero(weight)
    # A row of weight 0 must count as one that is not there, in the guarantee too.
    if len(kept) < n_samples:
        X, y, weight = X[kept], y[kept], weight[kept]
    _report_violated_targets(y, bounds, _on_violated_y(estimator))
    return TrainingData(
        X=for_torch(X),
        y=y,
        # Only ratios matter; a largest weight of 1 keeps sums of weights finite.
        weight=weight / weight.max(),
        bounds=bounds,
        kept=kept,
        n_samples=n_samples,
        y_ndim=y_ndim,
        seen=seen,
    )


def check_inputs(estimator, X) -> np.ndarray:
    """Validate what `predict` and `enforce` take.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Fitted.
    X : array-like of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_features)

    Raises
    ------
    ValueError
        If X is not valid, or too large for the net.
    """
    if not is_valid_as_it_is(estimator, X):
        # scikit-learn sums X up first: large numbers of both signs are inf - inf.
        with naming("X"), np.errstate(invalid="ignore"):
            X = validate_data(estimator, without_torch(X), reset=False, dtype=_FLOATS)
        X = for_torch(X)
    estimator.fitted_.ending.check_size(X)
    return X


def check_predictions(predictions: np.ndarray) -> None:
    """Raise ValueError if sums of a module overflowed that is not understood.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_outputs)

    Raises
    ------
    ValueError
        The message names the first row whose prediction is NaN.
    """
    # The largest of any numbers with a NaN is NaN.
    if math.isnan(predictions.max()):
        row = np.isnan(predictions).any(axis=1).argmax()
        raise ValueError(
            f"X[{row}] is predicted as NaN in {predictions.dtype}: a sum of the "
            "module overflowed; correct this row or leave it out."
        )


def is_valid_as_it_is(estimator, X) -> bool:
    """Whether scikit-learn's validation would be slow and return X unchanged."""
    if type(X) is not np.ndarray or hasattr(estimator, "feature_names_in_"):
        return False
    expected = X.ndim == 2 and len(X) and X.shape[1] == estimator.n_features_in_
    if not expected or X.dtype not in _FLOATS:
        return False
    return for_torch(X) is X and math.isfinite(largest_size(X))


def _check_rows(estimator, X, y, reset: bool) -> tuple[np.ndarray, np.ndarray, dict]:
    """Let scikit-learn validate; add the name of X or y to errors that lack it."""
    how = {"dtype": _FLOATS, "multi_output": True, "y_numeric": True}
    # Validation sets attributes at once, but a fit that fails must change nothing.
    stand_in = object.__new__(type(estimator))
    vars(stand_in).update(vars(estimator))
    try:
        rows = without_torch(X), without_torch(y)
        X, y = validate_data(stand_in, *rows, reset=reset, **how)
        noted = {name: vars(stand_in)[name] for name in SEEN if name in vars(stand_in)}
        return X, np.asarray(y, dtype=np.float64), noted
    except UNREADABLE:
        # X is validated first, so where X alone is fine it was y that failed.
        with naming("y" if _is_numeric(X) else "X"):
            raise


def _is_numeric(X) -> bool:
    try:
        check_array(without_torch(X), dtype=_FLOATS)
    except UNREADABLE:
        return False
    return True


def _on_violated_y(estimator) -> str:
    if estimator.on_negative_y == "deprecated":
        return estimator.on_violated_y
    warn_user(
        f"on_negative_y={estimator.on_negative_y!r} is deprecated and will be removed "
        "in the next version; use on_violated_y, with the same values.",
        FutureWarning,
    )
    return estimator.on_negative_y


def _report_violated_targets(y, bounds: Bounds, on_violated_y: str) -> None:
    sides = [
        (y < bounds.lower, "below lower_bound", bounds.lower),
        (y > bounds.upper, "above upper_bound", bounds.upper),
    ]
    found = [
        # Of many outputs, only the bounds that are violated.
        f"{side}={np.unique(own[outside.any(axis=0)]).tolist()} in "
        f"{outside.any(axis=1).sum()}"
        for outside, side, own in sides
        if outside.any()
    ]
    if on_violated_y == "ignore" or not found:
        return
    message = (
        f"y is {' and '.join(found)} of {len(y)} rows, which no feasible model can "
        "match"
    )
    if on_violated_y == "raise":
        raise ValueError(f"{message}; set on_violated_y='warn' to fit anyway.")
    warn_user(f"{message}; set on_violated_y='ignore' to silence this.")


def asks_for_positive_y(lower_bound) -> bool:
    """Whether targets below 0 violate a bound; False for what is no bound at all."""
    try:
        # None becomes NaN, which is not above any number.
        return bool((np.asarray(lower_bound, dtype=np.float64) >= 0).any())
    except UNREADABLE:
        return False


def check_callbacks(callbacks) -> None:
    """Raise TypeError unless these are skorch callbacks, or (name, callback) pairs."""
    for item in callbacks or []:
        callback = item[-1] if isinstance(item, tuple) and len(item) == 2 else item
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, Callback):
            raise TypeError(
                f"callbacks holds {item!r}; each must be a skorch callback, or a pair "
                "(name, callback)."
            )


def check_callback_params(params: dict, callbacks: list[tuple]) -> None:
    """Refuse ``callbacks__*`` of no callback, which skorch would ignore."""
    names = sorted(name for name, _ in callbacks)
    for name, value in params.items():
        if value is not None and name.partition("__")[0] not in names:
            raise ValueError(
                f"callbacks__{name} belongs to no callback; the callbacks are {names}."
            )
