"""Targets with a column per quantile, their bounds, and the score of such outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import d2_pinball_score
from sklearn.utils.validation import check_array, check_is_fitted

from sklpos.estimator.parameters import criterion_of, stand_in
from sklpos.nets.bounds import Bounds
from sklpos.nets.tensors import without_torch
from sklpos.nets.warnings import warn_user
from sklpos.strategies.base import ConstraintStrategy


def read_targets(estimator, y: NDArray) -> tuple[NDArray, Bounds]:
    """Repeat a column of targets for each quantile, and read the bounds.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    y : ndarray of shape (n_samples, n_targets)

    Returns
    -------
    y : ndarray of shape (n_samples, n_outputs)
    bounds : Bounds
        Of the outputs; quantiles of one column are in an order.

    Raises
    ------
    ValueError
        If the quantiles do not increase, if their bounds differ, if their means are to
        be balanced, or if there are neither one nor as many columns as quantiles.
    """
    levels = tuple(getattr(criterion_of(estimator), "levels", ()))
    n_ordered = 1
    if len(levels) > 1:
        n_ordered = len(levels) // y.shape[1]
        _check_levels(levels, y.shape[1])
        y = np.repeat(y, n_ordered, axis=1)
    bounds = Bounds.read(estimator.lower_bound, estimator.upper_bound, y.shape[1])
    bounds = replace(bounds, n_ordered=n_ordered)
    if n_ordered > 1:
        _check_for_quantiles(estimator, bounds)
    return y, bounds


def warn_of_crossing(bounds: Bounds, strategy: ConstraintStrategy) -> None:
    """Warn if nothing keeps quantiles in their order.

    Parameters
    ----------
    bounds : Bounds
    strategy : ConstraintStrategy
    """
    if bounds.n_ordered > 1 and not strategy.keeps_order:
        warn_user(
            f"the quantiles may cross, because strategy={type(strategy).__name__} does "
            "not keep them in order; 'nonnegative_weights' does, for every input."
        )


def match_outputs(bounds: Bounds, y: ArrayLike) -> NDArray:
    """Targets as a matrix with a column per output.

    Parameters
    ----------
    bounds : Bounds
        Of the outputs.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)

    Returns
    -------
    ndarray of shape (n_samples, n_targets * n_ordered)
    """
    checked = check_array(
        without_torch(y), ensure_2d=False, dtype=np.float64, input_name="y"
    )
    columns = np.asarray(checked).reshape(len(checked), -1)
    if columns.shape[1] == len(bounds):
        return columns
    return np.repeat(columns, bounds.n_ordered, axis=1)


class ScoreMixin(RegressorMixin):
    """Score of a regressor whose outputs may be quantiles."""

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """R2 of `predict`, or for several quantiles of a target the mean of their D2.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
            At most 1, and 0 for a constant; for quantiles, the share of the pinball
            loss that is explained, see ``sklearn.metrics.d2_pinball_score``.
        """
        check_is_fitted(self)
        # Another thread may put a new model in its place.
        own = stand_in(self)
        bounds = own.fitted_.ending.model.bounds
        if bounds.n_ordered == 1:
            return super(ScoreMixin, own).score(X, y, sample_weight)
        columns = match_outputs(bounds, y).T, own.predict(X).T
        scores = [
            d2_pinball_score(own, found, alpha=level, sample_weight=sample_weight)
            for level, own, found in zip(own.criterion_.levels, *columns, strict=True)
        ]
        return float(np.mean(scores))


def _check_levels(levels: tuple[float, ...], n_targets: int) -> None:
    if n_targets not in (1, len(levels)):
        raise ValueError(
            f"criterion asks for {len(levels)} quantiles, but y has {n_targets} "
            "columns; pass one column for all quantiles, or one for each."
        )
    if n_targets == 1 and not (np.diff(levels) > 0).all():
        raise ValueError(
            f"criterion asks for the quantiles {list(levels)}, which must increase."
        )


def _check_for_quantiles(estimator, bounds: Bounds) -> None:
    if (bounds.sides != bounds.sides[:, :1]).any():
        raise ValueError(
            f"lower_bound={estimator.lower_bound!r} and "
            f"upper_bound={estimator.upper_bound!r} must be one number each for all "
            "quantiles of a target."
        )
    if estimator.balance is True:
        raise ValueError(
            "balance=True would move each of several quantiles to the mean of y; use "
            "balance='auto'."
        )
