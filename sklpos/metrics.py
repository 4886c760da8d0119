"""How far predictions miss a bound, and the best search candidate that does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.metrics import root_mean_squared_error

from sklpos.estimator.pipelines import take_apart


def violation_rate(y_pred, lower_bound=0.0) -> float:
    """Return the share of rows with a prediction below the bound.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples,) or (n_samples, n_outputs)
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Same unit as y.

    Returns
    -------
    float
        In [0, 1]; NaN counts as a violation.

    Examples
    --------
    >>> violation_rate([1.0, -0.5, 0.0, 2.0])
    0.25
    """
    low = ~(np.asarray(y_pred) >= np.atleast_1d(lower_bound))
    return float(low.reshape(len(low), -1).any(axis=1).mean())


def max_violation(y_pred, lower_bound=0.0) -> float:
    """Return the largest amount by which a prediction misses the bound.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples,) or (n_samples, n_outputs)
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Same unit as y.

    Returns
    -------
    float
        Same unit as y; 0 if none does.

    Examples
    --------
    >>> max_violation([1.0, -0.5, 0.0])
    0.5
    """
    return float(np.max(np.atleast_1d(lower_bound) - np.asarray(y_pred), initial=0.0))


def mean_violation(y_pred, lower_bound=0.0) -> float:
    """Return the mean amount by which predictions miss the bound.

    ``mean_ij max(lower_bound_j - y_pred_ij, 0)``; an output without a bound counts as
    one that obeys it.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples,) or (n_samples, n_outputs)
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Same unit as y.

    Returns
    -------
    float
        Same unit as y; 0 if none does.

    Examples
    --------
    >>> mean_violation([1.0, -0.5, 0.0, -1.5])
    0.5
    """
    return float(np.maximum(np.atleast_1d(lower_bound) - np.asarray(y_pred), 0).mean())


def feasible_root_mean_squared_error(
    y_true, y_pred, lower_bound=0.0, *, tolerance: float = 0.0
) -> float:
    """Return the root mean squared error, or infinity where the bound is broken.

    The objective of "the smallest error among the models that obey the bound", for
    optimisers that take one number; a search by scikit-learn wants `best_feasible`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or (n_samples, n_outputs)
    y_pred : array-like of the same shape
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Same unit as y.
    tolerance : float, default=0.0
        Violation rate that still counts as feasible.

    Returns
    -------
    float
        Same unit as y, the mean over outputs; ``inf`` if infeasible.

    Examples
    --------
    >>> feasible_root_mean_squared_error([0.0, 2.0], [1.0, 1.0])
    1.0
    >>> feasible_root_mean_squared_error([0.0, 2.0], [-0.1, 2.0])
    inf
    """
    if violation_rate(y_pred, lower_bound) > tolerance:
        return float("inf")
    return float(root_mean_squared_error(y_true, y_pred))


def violation_rate_scorer(estimator, X, y=None) -> float:
    """Score by minus the violation rate of an estimator, a pipeline or a search.

    Parameters
    ----------
    estimator : estimator
        Its ``lower_bound`` is read, 0 if it has none.
    X : array-like of shape (n_samples, n_features)
    y : ignored

    Returns
    -------
    float
        Greater is better.
    """
    return -violation_rate(estimator.predict(X), _bound_of(estimator))


def max_violation_scorer(estimator, X, y=None) -> float:
    """Score by minus the largest violation; see `violation_rate_scorer`.

    Parameters
    ----------
    estimator : estimator
    X : array-like of shape (n_samples, n_features)
    y : ignored

    Returns
    -------
    float
        Greater is better.
    """
    return -max_violation(estimator.predict(X), _bound_of(estimator))


def mean_violation_scorer(estimator, X, y=None) -> float:
    """Score by minus the mean violation; see `violation_rate_scorer`.

    Parameters
    ----------
    estimator : estimator
    X : array-like of shape (n_samples, n_features)
    y : ignored

    Returns
    -------
    float
        Greater is better.
    """
    return -mean_violation(estimator.predict(X), _bound_of(estimator))


def feasible_rmse_scorer(estimator, X, y) -> float:
    """Score by minus `feasible_root_mean_squared_error`, without a tolerance.

    Parameters
    ----------
    estimator : estimator
        Its ``lower_bound`` is read, 0 if it has none.
    X : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)

    Returns
    -------
    float
        Greater is better; ``-inf`` if a prediction is below the bound.
    """
    return -feasible_root_mean_squared_error(
        y, estimator.predict(X), _bound_of(estimator)
    )


#: For the ``scoring`` of a search or of `cross_validate`; `best_feasible` reads it.
SCORERS = {
    "rmse": "neg_root_mean_squared_error",
    "violation_rate": violation_rate_scorer,
    "max_violation": max_violation_scorer,
    "mean_violation": mean_violation_scorer,
}


def _bound_of(model):
    return getattr(take_apart(model)[1], "lower_bound", 0.0)


def best_feasible(
    tolerance: float = 0.0, score: str = "rmse", violation: str = "violation_rate"
) -> Callable[[dict], int]:
    """Make a ``refit`` for a search: the best score among feasible candidates.

    Parameters
    ----------
    tolerance : float, default=0.0
        Mean violation that still counts as feasible.
    score : str, default="rmse"
        Name of the scorer to maximise (error scorers are negated, as usual).
    violation : str, default="violation_rate"
        Name of the scorer that measures violation, negated.

    Returns
    -------
    callable
        Maps ``cv_results_`` to ``best_index_``. If no candidate is feasible it takes
        the smallest violation, with a warning.

    Examples
    --------
    >>> refit = best_feasible()
    >>> refit({"mean_test_rmse": [-1.0, -2.0], "mean_test_violation_rate": [-0.1, 0.0]})
    1
    """
    return _BestFeasible(tolerance, score, violation)


class _BestFeasible:
    """A class, so that a search that holds it can be pickled."""

    def __init__(self, tolerance: float, score: str, violation: str):
        self.tolerance = tolerance
        self.score = score
        self.violation = violation

    def __call__(self, cv_results: dict) -> int:
        score = mean_score(cv_results, self.score)
        violation = -mean_score(cv_results, self.violation)
        failed = np.isnan(score) | np.isnan(violation)
        violation[failed], score[failed] = np.inf, -np.inf
        smallest = violation.min()
        if smallest > self.tolerance:
            warnings.warn(
                f"no candidate has {self.violation} <= {self.tolerance}; the smallest "
                f"is {smallest:.4g}, and its candidate is taken.",
                UserWarning,
                stacklevel=2,
            )
        allowed = violation <= max(self.tolerance, smallest)
        return int(np.argmax(np.where(allowed, score, -np.inf)))


def mean_score(cv_results: dict, name: str) -> np.ndarray:
    """Return the mean test score of each candidate of a search.

    Parameters
    ----------
    cv_results : dict
        ``cv_results_`` of the search.
    name : str
        Of the scorer.

    Returns
    -------
    ndarray of shape (n_candidates,)
        A copy.

    Raises
    ------
    ValueError
        If the search has no scorer of that name.
    """
    column = f"mean_test_{name}"
    if column not in cv_results:
        raise ValueError(
            f"the search has no scorer named {name!r}; pass scoring={{{name!r}: ...}} "
            "to it."
        )
    return np.array(cv_results[column], dtype=float)
