"""Rows that are visibly not like those of the training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from sklpos.nets.warnings import warn_user

# Sorted values that are kept of each training feature: enough to see a difference of
# .2 between distributions, and few enough to be stored with every model.
_N_KEPT = 100
_N_LOOKED_AT = 10_000
# Widths of the training range by which a row must be outside of it to count.
_FAR = 0.5
# Chance that rows from the same distribution draw the warning.
_FALSE_ALARMS = 1e-3


def quantiles_of(X: NDArray) -> NDArray:
    """Summarise the distribution of each feature.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_kept, n_features)
        At most 100 sorted values of each feature, evenly spread over its ranks.
    """
    # Every k-th row of a large set, as sorting all of them would take longer than it
    # is worth.
    X = X[:: max(len(X) // _N_LOOKED_AT, 1)]
    n = len(X)
    # The middle of each of equal parts, so that the ends are not over-represented.
    ranks = (np.arange(min(n, _N_KEPT)) + 0.5) * n / min(n, _N_KEPT)
    ranks = ranks.astype(np.intp)
    return np.partition(X, ranks, axis=0)[ranks].astype(np.float64)


def warn_of_far_rows(estimator, X: NDArray, call: str) -> bool:
    """Warn if most rows are far outside the range of the training rows.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Fitted.
    X : ndarray of shape (n_samples, n_features)
    call : str
        The function of this package that takes a whole pipeline.

    Returns
    -------
    bool
        Whether it warned.
    """
    low, high = estimator.fitted_.ending.model.input_range
    # A feature that was constant in training has no width to compare with.
    far = _FAR * np.where(high > low, high - low, np.inf)
    least, most = low - far, high + far
    outside = (least > X) | (most < X)
    share = outside.any(axis=1).mean()
    if share <= 0.5:
        return False
    j = outside.sum(axis=0).argmax()
    warn_user(
        f"{share:.0%} of the rows of X are far outside the range of the training rows: "
        f"{_name(estimator, j)} goes from {X[:, j].min():.4g} to {X[:, j].max():.4g}, "
        f"and from {low[j]:.4g} to {high[j]:.4g} in training. If the regressor is a "
        f"step of a Pipeline, call sklpos.{call} with the pipeline, and with rows as "
        "it takes them."
    )
    return True


def warn_of_other_distribution(estimator, X: NDArray) -> None:
    """Warn if a feature of a holdout is distributed differently than in training.

    Each feature is compared by a two-sample test [1]_, at a level that is divided among
    the features. Predictions are not compared: those of a net that overfits differ
    between training rows and new ones of the same distribution.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Fitted.
    X : ndarray of shape (n_samples, n_features)

    References
    ----------
    .. [1] N. Smirnov (1948), "Table for estimating the goodness of fit of empirical
       distributions", doi:10.1214/aoms/1177730256.
    """
    known = estimator.fitted_.quantiles
    # A stream has no single sample to compare with.
    if known is None:
        return
    found = ks_2samp(known, X, axis=0, method="asymp")
    j = found.pvalue.argmin()
    if found.pvalue[j] * len(found.pvalue) < _FALSE_ALARMS:
        warn_user(
            f"{_name(estimator, j)} of the holdout is distributed differently than in "
            f"training (Kolmogorov-Smirnov statistic {found.statistic[j]:.2g}); the "
            "certificate only holds for future rows that are like the holdout."
        )


def _name(estimator, j: int) -> str:
    names = getattr(estimator, "feature_names_in_", None)
    return f"feature {j}" if names is None else f"feature {names[j]!r}"
