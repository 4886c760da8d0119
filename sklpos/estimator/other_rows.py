"""Rows that are visibly not like those of the training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from torch import nn

from sklpos.nets.any_rows import Rows, chunks_of, column_parts, take_rows
from sklpos.nets.bounded import data_range
from sklpos.nets.items import ItemRows
from sklpos.nets.sparse import SparseRows
from sklpos.nets.stack import Stack
from sklpos.nets.warnings import warn_user

# Sorted values that are kept of each training feature: enough to see a difference of
# .2 between distributions, and few enough to be stored with every model.
_N_KEPT = 100
# Of wide rows fewer are kept: no more than 32 MB.
_MAX_VALUES_KEPT = 2**22
_N_LOOKED_AT = 10_000
# Widths of the training range by which a row must be outside of it to count.
_FAR = 0.5
# Share of such rows above which X looks like something else.
_MOST = 0.5
# That of validation rows, which may well come from another time or group.
_NEARLY_ALL = 0.9
# Chance that rows from the same distribution draw the warning.
_FALSE_ALARMS = 1e-3


def quantiles_of(X: Rows) -> NDArray | None:
    """Summarise the distribution of each feature; None of images and sequences.

    Parameters
    ----------
    X : ndarray or SparseRows of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_kept, n_features) or None
        At most 100 sorted values of each feature, evenly spread over its ranks; fewer
        of many features.
    """
    # A hundred images would be stored with the model, of which no pixel is comparable.
    if X.ndim > 2:
        return None
    # Every k-th row of a large set, as sorting all of them would take longer than it
    # is worth.
    X = take_rows(X, slice(None, None, max(len(X) // _N_LOOKED_AT, 1)))
    X = X[:] if isinstance(X, ItemRows) else X
    n = len(X)
    # The middle of each of equal parts, so that the ends are not over-represented.
    n_kept = min(n, _N_KEPT, max(_MAX_VALUES_KEPT // X.shape[1], 1))
    ranks = ((np.arange(n_kept) + 0.5) * n / n_kept).astype(np.intp)
    if isinstance(X, SparseRows):
        return X.sorted_columns(ranks).astype(np.float64)
    return np.partition(X, ranks, axis=0)[ranks].astype(np.float64)


def warn_of_far_rows(estimator, X: Rows, call: str) -> bool:
    """Warn if most rows are far outside the range of the training rows.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Fitted.
    X : ndarray or SparseRows of shape (n_samples, n_features)
    call : str
        The function of this package that takes a whole pipeline.

    Returns
    -------
    bool
        Whether it warned.
    """
    low, high = estimator.fitted_.input_range
    # Values at one place of an image or a sequence are no feature of their own.
    if low.ndim > 1:
        return False
    share, j = _far(X, low, high)
    if share <= _MOST:
        return False
    own = X.min(axis=0)[j], X.max(axis=0)[j]
    warn_user(
        f"{share:.0%} of the rows of X are far outside the range of the training rows: "
        f"{_name(estimator, j)} goes from {own[0]:.4g} to {own[1]:.4g}, "
        f"and from {low[j]:.4g} to {high[j]:.4g} in training. If the regressor is a "
        f"step of a Pipeline, call sklpos.{call} with the pipeline, and with rows as "
        "it takes them."
    )
    return True


def warn_of_far_validation_rows(data, valid) -> None:
    """Warn if nearly all validation rows are far outside of the training range.

    Parameters
    ----------
    data, valid : TrainingData
    """
    # Another pass through a large data set is too much for a warning.
    if data.X.ndim > 2 or isinstance(data.X, ItemRows):
        return
    low, high = data_range(data.X)
    share, j = _far(valid.X, low, high)
    if share <= _NEARLY_ALL:
        return
    own = valid.X.min(axis=0)[j], valid.X.max(axis=0)[j]
    warn_user(
        f"{share:.0%} of the rows of X_val are far outside the range of X: "
        f"{_named(data.seen.get('feature_names_in_'), j)} goes from {own[0]:.4g} to "
        f"{own[1]:.4g}, and from {low[j]:.4g} to {high[j]:.4g} in X; if a Pipeline "
        "transforms X, let it transform X_val as well: transform_input=['X_val']."
    )


def range_at_start(data, known: NDArray | None, module: nn.Module) -> NDArray | None:
    """Range of the rows from which a module was made; None if later ones were far off.

    Later calls of `partial_fit`, or of `fit` with a warm start, keep the encoding of a
    `Stack`, so the first of them whose rows are far outside of it draws a warning.

    Parameters
    ----------
    data : TrainingData
        Of the present call.
    known : ndarray of shape (2, n_features) or None
        The range so far.
    module : nn.Module

    Returns
    -------
    ndarray of shape (2, n_features) or None
    """
    if known is None or not isinstance(module, Stack):
        return known
    low, high = known
    share, j = _far(data.X, low, high)
    if share <= _MOST:
        return known
    own = data.X.min(axis=0)[j], data.X.max(axis=0)[j]
    names = data.seen.get("feature_names_in_")
    warn_user(
        f"{share:.0%} of the rows of X are far outside the range of the first call, "
        "which fixed the encoding of Stack: "
        f"{_named(names, j)} goes from {own[0]:.4g} to {own[1]:.4g}, and "
        f"from {low[j]:.4g} to {high[j]:.4g} in the first call; call fit on rows of "
        "both kinds, or use module=MLP."
    )
    return None


def _far(X: Rows, low: NDArray, high: NDArray) -> tuple[float, int]:
    """Share of the rows that are far outside of a range, and the feature to blame."""
    # A feature that was constant in training has no width to compare with.
    far = _FAR * np.where(high > low, high - low, np.inf)
    least, most = low - far, high + far
    n_rows, n_values = 0, np.zeros(len(low), dtype=np.intp)
    for chunk in chunks_of(X):
        outside = (least > chunk) | (most < chunk)
        n_rows += outside.any(axis=1).sum()
        n_values += outside.sum(axis=0)
    return n_rows / len(X), int(n_values.argmax())


def warn_of_other_distribution(estimator, X: Rows) -> None:
    """Warn if a feature of a holdout is distributed differently than in training.

    Each feature is compared by a two-sample test [1]_, at a level that is divided among
    the features. Predictions are not compared: those of a net that overfits differ
    between training rows and new ones of the same distribution.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Fitted.
    X : ndarray or SparseRows of shape (n_samples, n_features)

    References
    ----------
    .. [1] N. Smirnov (1948), "Table for estimating the goodness of fit of empirical
       distributions", doi:10.1214/aoms/1177730256.
    """
    known = estimator.fitted_.quantiles
    # A stream has no single sample to compare with.
    if known is None:
        return
    found = [
        ks_2samp(*sides, axis=0, method="asymp") for sides in column_parts(known, X)
    ]
    pvalue = np.concatenate([part.pvalue for part in found])
    statistic = np.concatenate([part.statistic for part in found])
    j = pvalue.argmin()
    if pvalue[j] * len(pvalue) < _FALSE_ALARMS:
        warn_user(
            f"{_name(estimator, j)} of the holdout is distributed differently than in "
            f"training (Kolmogorov-Smirnov statistic {statistic[j]:.2g}); the "
            "certificate only holds for future rows that are like the holdout."
        )


def _name(estimator, j: int) -> str:
    return _named(getattr(estimator, "feature_names_in_", None), j)


def _named(names, j: int) -> str:
    return f"feature {j}" if names is None else f"feature {names[j]!r}"
