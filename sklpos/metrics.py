"""Violations of bounds as metrics and scores, and the best feasible candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import root_mean_squared_error

from sklpos.nets.bounds import Bounds
from sklpos.nets.warnings import warn_user


def violation_rate(y_pred, lower_bound=0.0, upper_bound=None) -> float:
    """Share of the rows with a prediction outside the bounds.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples,) or (n_samples, n_outputs)
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None
        Same unit as y; 0 and None by default. None leaves a side free.

    Returns
    -------
    float
        In [0, 1]; NaN counts as a violation.

    Examples
    --------
    >>> violation_rate([1.0, -0.5, 0.0, 2.0])
    0.25
    >>> violation_rate([1.0, -0.5, 0.0, 2.0], upper_bound=1.5)
    0.5
    """
    rows, bounds = _read(y_pred, lower_bound, upper_bound)
    return float((~bounds.contain(rows)).any(axis=1).mean())


def max_violation(y_pred, lower_bound=0.0, upper_bound=None) -> float:
    """Largest amount by which a prediction misses its bounds.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples,) or (n_samples, n_outputs)
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None
        Same unit as y; 0 and None by default. None leaves a side free.

    Returns
    -------
    float
        Same unit as y; 0 if no prediction does.

    Examples
    --------
    >>> max_violation([1.0, -0.5, 0.0])
    0.5
    """
    rows, bounds = _read(y_pred, lower_bound, upper_bound)
    return float(bounds.violation(rows).max(initial=0.0))


def mean_violation(y_pred, lower_bound=0.0, upper_bound=None) -> float:
    """Mean amount by which predictions miss their bounds.

    ``mean_ij max(lower_bound_j - y_pred_ij, y_pred_ij - upper_bound_j, 0)``. An output
    without a bound adds nothing to the sum but counts in the mean.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples,) or (n_samples, n_outputs)
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None
        Same unit as y; 0 and None by default. None leaves a side free.

    Returns
    -------
    float
        Same unit as y; 0 if no prediction does.

    Examples
    --------
    >>> mean_violation([1.0, -0.5, 0.0, -1.5])
    0.5
    """
    rows, bounds = _read(y_pred, lower_bound, upper_bound)
    return float(np.maximum(bounds.violation(rows), 0.0).mean())


def _read(y_pred, lower_bound, upper_bound) -> tuple[NDArray, Bounds]:
    """Predictions as a matrix, and a bound on each side for each of its columns."""
    rows = np.asarray(y_pred)
    rows = rows.reshape(len(rows), -1)
    return rows, Bounds.read(lower_bound, upper_bound, rows.shape[1])


def feasible_root_mean_squared_error(
    y_true, y_pred, lower_bound=0.0, upper_bound=None, *, tolerance: float = 0.0
) -> float:
    """Root mean squared error, or infinity if a bound is broken.

    The objective of "the smallest error among the models that obey the bounds", for
    optimisers that minimise one number. For a search by scikit-learn, use
    `best_feasible` instead.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or (n_samples, n_outputs)
    y_pred : array-like of the same shape
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None
        Same unit as y; 0 and None by default. None leaves a side free.
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
    if violation_rate(y_pred, lower_bound, upper_bound) > tolerance:
        return float("inf")
    return float(root_mean_squared_error(y_true, y_pred))


# A class rather than closures, so that a search that holds a scorer can be pickled.
@dataclass(frozen=True, repr=False)
class _ViolationScorer:
    """Scorer of an estimator, a pipeline or a search: minus a violation.

    Call it as ``scorer(estimator, X, y=None)``; greater is better. The bounds of the
    estimator are read, 0 and None if it has none, and `y` is ignored.

    Attributes
    ----------
    measure : callable
        Takes predictions, the lower and the upper bound.
    """

    measure: Callable[..., float]

    def __repr__(self) -> str:
        return f"{self.measure.__name__}_scorer"

    def __call__(self, estimator, X, y=None) -> float:
        """Score an estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted.
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        float
            Greater is better.
        """
        return -self.measure(estimator.predict(X), *_bounds_of(estimator))


#: Minus the violation rate of an estimator, a pipeline or a search. Call it with
#: ``(estimator, X)``; its ``lower_bound`` and ``upper_bound`` are read, 0 and None if
#: it has none.
violation_rate_scorer = _ViolationScorer(violation_rate)

#: Minus the largest violation, see `violation_rate_scorer`.
max_violation_scorer = _ViolationScorer(max_violation)

#: Minus the mean violation, see `violation_rate_scorer`.
mean_violation_scorer = _ViolationScorer(mean_violation)


def feasible_rmse_scorer(estimator, X, y) -> float:
    """Minus `feasible_root_mean_squared_error`, without a tolerance.

    Parameters
    ----------
    estimator : estimator
        Its ``lower_bound`` and ``upper_bound`` are read, 0 and None if it has none.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)

    Returns
    -------
    float
        Greater is better; ``-inf`` if a prediction is outside the bounds.
    """
    return -feasible_root_mean_squared_error(
        y, estimator.predict(X), *_bounds_of(estimator)
    )


#: For the ``scoring`` of a search or of `cross_validate`; `best_feasible` reads it.
SCORERS = {
    "rmse": "neg_root_mean_squared_error",
    "violation_rate": violation_rate_scorer,
    "max_violation": max_violation_scorer,
    "mean_violation": mean_violation_scorer,
}


def _bounds_of(model) -> tuple:
    """Bounds of a regressor, of the last step of a pipeline, or of a search's best."""
    while hasattr(model, "best_estimator_") or hasattr(model, "steps"):
        # A search may wrap a pipeline and the other way round, at any depth.
        best = getattr(model, "best_estimator_", None)
        model = model.steps[-1][1] if best is None else best
    return getattr(model, "lower_bound", 0.0), getattr(model, "upper_bound", None)


def best_feasible(
    tolerance: float = 0.0, score: str = "rmse", violation: str = "violation_rate"
) -> Callable[[dict], int]:
    """Make a ``refit`` for a search: the best score among the feasible candidates.

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
        Maps ``cv_results_`` to ``best_index_``. If no candidate is feasible, it takes
        one with the smallest violation and warns.

    Examples
    --------
    >>> refit = best_feasible()
    >>> refit({"mean_test_rmse": [-1.0, -2.0], "mean_test_violation_rate": [-0.1, 0.0]})
    1
    """
    return _BestFeasible(tolerance, score, violation)


class _BestFeasible:
    """Choice of the best feasible candidate; a class so that it can be pickled."""

    def __init__(self, tolerance: float, score: str, violation: str):
        self.tolerance = tolerance
        self.score = score
        self.violation = violation

    def __call__(self, cv_results: dict) -> int:
        score = mean_score(cv_results, self.score)
        violation = -mean_score(cv_results, self.violation)
        # A failed fit scores NaN, which argmax would take for the best.
        failed = np.isnan(score) | np.isnan(violation)
        violation[failed] = np.inf
        score[failed] = -np.inf
        smallest = violation.min()
        if smallest > self.tolerance:
            warn_user(
                f"no candidate has {self.violation} <= {self.tolerance}; the smallest "
                f"is {smallest:.4g}, and the best candidate with that value is taken. "
                "Raise tolerance or extend the search."
            )
        allowed = violation <= max(self.tolerance, smallest)
        return int(np.argmax(np.where(allowed, score, -np.inf)))


def mean_score(cv_results: dict, name: str) -> np.ndarray:
    """Mean test score of each candidate of a search.

    Parameters
    ----------
    cv_results : dict
        ``cv_results_`` of the search.
    name : str
        Name of the scorer.

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
