"""What comes in is checked here; each refusal is one clear sentence."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    validate_data,
)
from skorch.callbacks import Callback

from sklpos.nets.arrays import UNREADABLE, check_range, for_torch, naming, without_torch
from sklpos.strategies import STRATEGIES, ConstraintStrategy

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
    lower_bound : ndarray of shape (n_outputs,)
    kept : ndarray of shape (n_kept,)
        Their numbers among the rows passed in.
    n_samples : int
        Number of rows passed in.
    y_ndim : int
        1 if y came as a vector.
    """

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    lower_bound: np.ndarray
    kept: np.ndarray
    n_samples: int
    y_ndim: int

    @cached_property
    def key(self) -> str:
        """Hash of rows, targets, weights and bound: equal for the same problem."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.X, self.y, self.weight, self.lower_bound, self.kept):
            digest.update(repr((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


def check_training_data(estimator, X, y, sample_weight, *, reset: bool) -> TrainingData:
    """Validate what `fit` and `partial_fit` take.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Its ``lower_bound`` and ``on_negative_y`` are read.
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
    X, y = _check_rows(estimator, X, y, reset)
    y_ndim, y = y.ndim, y.reshape(len(y), -1)
    with naming("sample_weight"):
        weight = _check_sample_weight(
            without_torch(sample_weight), X, dtype=np.float64, ensure_non_negative=True
        )
    if not weight.any():
        raise ValueError("sample_weight is 0 in every row; at least one must be > 0.")
    lower_bound = check_lower_bound(estimator.lower_bound, y.shape[1])
    n_samples, kept = len(y), np.flatnonzero(weight)
    if len(kept) < n_samples:
        X, y, weight = X[kept], y[kept], weight[kept]
    rows = (for_torch(X), y, weight / weight.max())
    _report_low_targets(rows[1], lower_bound, estimator.on_negative_y)
    return TrainingData(*rows, lower_bound, kept, n_samples, y_ndim)


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
    """
    if not is_valid_as_it_is(estimator, X):
        with naming("X"):
            X = validate_data(estimator, without_torch(X), reset=False, dtype=_FLOATS)
        X = for_torch(X)
    check_range(X, next(estimator.module_.parameters()).dtype)
    return X


def is_valid_as_it_is(estimator, X) -> bool:
    """Whether scikit-learn would look at X for long, and return it unchanged."""
    if type(X) is not np.ndarray or hasattr(estimator, "feature_names_in_"):
        return False
    expected = X.ndim == 2 and len(X) and X.shape[1] == estimator.n_features_in_
    if not expected or X.dtype not in _FLOATS:
        return False
    with np.errstate(all="ignore"):
        return for_torch(X) is X and bool(np.isfinite(X.sum()))


def _check_rows(estimator, X, y, reset: bool) -> tuple[np.ndarray, np.ndarray]:
    """Let scikit-learn validate; where it names neither X nor y, name it."""
    how = {"dtype": _FLOATS, "multi_output": True, "y_numeric": True}
    try:
        rows = without_torch(X), without_torch(y)
        X, y = validate_data(estimator, *rows, reset=reset, **how)
        return X, np.asarray(y, dtype=np.float64)
    except UNREADABLE:
        with naming("y" if _is_numeric(X) else "X"):
            raise


def _is_numeric(X) -> bool:
    try:
        check_array(without_torch(X), dtype=_FLOATS)
    except UNREADABLE:
        return False
    return True


def check_lower_bound(lower_bound, n_outputs: int) -> np.ndarray:
    """Return the bound as a float64 array of shape (n_outputs,)."""
    try:
        bound = np.asarray(lower_bound, dtype=np.float64)
    except (TypeError, ValueError):
        bound = np.array(np.nan)
    if bound.ndim > 1 or (bound.ndim == 1 and len(bound) != n_outputs):
        raise ValueError(
            f"lower_bound={lower_bound!r} has shape {bound.shape}; pass one number, or "
            f"one for each of the {n_outputs} outputs."
        )
    if np.isnan(bound).any() or np.isposinf(bound).any():
        raise ValueError(
            f"lower_bound={lower_bound!r} must be a finite number, or -inf for no "
            "bound; or one of these for each output, in their order."
        )
    return np.broadcast_to(bound, (n_outputs,)).copy()


def _report_low_targets(y, lower_bound, on_negative_y: str) -> None:
    low = (y < lower_bound).any(axis=1)
    if on_negative_y == "ignore" or not low.any():
        return
    message = (
        f"y is below lower_bound={np.unique(lower_bound).tolist()} in {low.sum()} of "
        f"{len(y)} rows, which no feasible model can match"
    )
    if on_negative_y == "raise":
        raise ValueError(f"{message}; set on_negative_y='warn' to fit all the same.")
    warnings.warn(
        f"{message}; set on_negative_y='ignore' to silence this.",
        UserWarning,
        stacklevel=5,  # whoever called fit
    )


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
                f"callbacks__{name} is the parameter of no callback; the callbacks are "
                f"{names}."
            )


def check_strategy(strategy, alpha: float) -> ConstraintStrategy:
    """Return a strategy of one's own for a registry name or an instance.

    Parameters
    ----------
    strategy : str or ConstraintStrategy
    alpha : float

    Returns
    -------
    ConstraintStrategy
        Without state.
    """
    if isinstance(strategy, str) and strategy in STRATEGIES:
        made = STRATEGIES[strategy]()
    elif isinstance(strategy, ConstraintStrategy):
        made = clone(strategy)
    else:
        raise ValueError(
            f"strategy={strategy!r} is unknown; choose one of {sorted(STRATEGIES)} or "
            "pass an instance of ConstraintStrategy."
        )
    if made.needs_alpha and alpha == 0:
        raise ValueError(
            f"alpha=0 would switch strategy={strategy!r} off; pass alpha > 0, or "
            "strategy='unconstrained'."
        )
    return made
