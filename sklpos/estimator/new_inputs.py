"""Validation of the inputs of a fitted model."""

from __future__ import annotations

import math

import numpy as np
from sklearn.utils.validation import validate_data

from sklpos.estimator.checks import FLOATS, ROWS
from sklpos.estimator.datasets import inputs_of
from sklpos.nets.any_rows import Rows
from sklpos.nets.arrays import for_torch, largest_size
from sklpos.nets.items import ItemRows
from sklpos.nets.misfit import check_dimensions, check_row
from sklpos.nets.values import as_plain, explaining


def check_inputs(estimator, X) -> Rows:
    """Validate what `predict` and `enforce` take.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Fitted.
    X : array-like or sparse matrix of shape (n_samples, ...), or Dataset

    Returns
    -------
    ndarray, SparseRows or ItemRows of shape (n_samples, ...)

    Raises
    ------
    ValueError
        If X is not valid, or too large for the net.
    """
    if not is_valid_as_it_is(estimator, X):
        X = _validated(estimator, inputs_of(estimator, X))
    estimator.fitted_.ending.check_size(X)
    return X


def _validated(estimator, X) -> Rows:
    if isinstance(X, ItemRows):
        # Only the first row, to compare the number of its features.
        validate_data(estimator, X[:1], reset=False, allow_nd=True)
        return X
    how = {**ROWS, "allow_nd": check_dimensions(estimator.module, X)}
    # scikit-learn sums X up first: large numbers of both signs are inf - inf.
    with explaining(X, "X"), np.errstate(invalid="ignore"):
        X = as_plain(X, "X")
        X = for_torch(validate_data(estimator, X, reset=False, **how))
    if X.shape[1:] != _trained_shape(estimator):
        check_row(estimator.module_, X)
    return X


def check_predictions(predictions: np.ndarray, *, finite: bool = False) -> None:
    """Raise ValueError if sums of a module overflowed that is not understood.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_outputs)
    finite : bool, default=False
        Whether infinity is refused, too, as in training rows.

    Raises
    ------
    ValueError
        The message names the first row whose prediction is NaN, or not finite.
    """
    largest = predictions.max()
    # The largest of any numbers with a NaN is NaN.
    if math.isnan(largest) or (finite and not np.isfinite(predictions).all()):
        valid = np.isfinite(predictions) if finite else ~np.isnan(predictions)
        row = valid.all(axis=1).argmin()
        found = predictions[row][~valid[row]][0]
        shown = "NaN" if math.isnan(found) else f"{found}"
        raise ValueError(
            f"X[{row}] is predicted as {shown} in {predictions.dtype}: a sum of the "
            "module overflowed; correct this row or leave it out."
        )


def is_valid_as_it_is(estimator, X) -> bool:
    """Whether scikit-learn's validation would be slow and return X unchanged."""
    if type(X) is not np.ndarray or hasattr(estimator, "feature_names_in_"):
        return False
    expected = X.size and X.shape[1:] == _trained_shape(estimator)
    if not expected or X.dtype not in FLOATS:
        return False
    return for_torch(X) is X and math.isfinite(largest_size(X))


def _trained_shape(estimator) -> tuple[int, ...]:
    """Shape of a row of the training."""
    return estimator.fitted_.ending.model.input_range.shape[1:]
