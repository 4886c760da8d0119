"""Violations and errors on some rows, as trained and after the repair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklpos.estimator.new_inputs import check_inputs
from sklpos.estimator.pipelines import transform
from sklpos.estimator.target_steps import TargetSteps, behind_targets
from sklpos.estimator.targets import match_outputs
from sklpos.nets.any_rows import slices_of
from sklpos.nets.bounds import Bounds
from sklpos.nets.rows import predict_rows

Pair = tuple[NDArray, NDArray | None]


@dataclass(frozen=True, eq=False)
class RowSummary:
    """Summary of the predictions for some rows.

    Attributes
    ----------
    n_samples : int
    violation_rate : float
        Share of the rows with a prediction outside the bounds; NaN, as for the other
        violations, where nobody looked at the rows.
    max_violation : ndarray of shape (n_outputs,)
        Largest amount by which a prediction misses its bounds, at least 0. Unit of y.
    rmse : ndarray of shape (n_outputs,) or None
        Root of the (weighted) mean squared error, unit of y; None without targets.
    below_rate, above_rate : float
        Share of the rows with a prediction below its lower bound, and with one above
        its upper bound.

    Examples
    --------
    >>> predictions = np.array([[1.0], [-1.0]])
    >>> RowSummary.from_predictions(predictions, Bounds()).violation_rate
    0.5
    """

    n_samples: int
    violation_rate: float
    max_violation: NDArray
    rmse: NDArray | None
    below_rate: float = 0.0
    above_rate: float = 0.0

    @classmethod
    def from_error(cls, n_samples: int, rmse: NDArray, *, obeys: bool) -> RowSummary:
        """Summarise rows that are no longer there.

        Parameters
        ----------
        n_samples : int
        rmse : ndarray of shape (n_outputs,)
            Unit of y.
        obeys : bool
            Whether it is proved that none of them is outside the bounds.

        Returns
        -------
        RowSummary
        """
        rate = 0.0 if obeys else np.nan
        return cls(n_samples, rate, np.full_like(rmse, rate), rmse, rate, rate)

    @classmethod
    def from_predictions(
        cls,
        predictions: NDArray,
        bounds: Bounds,
        y: NDArray | None = None,
        weight: NDArray | None = None,
    ) -> RowSummary:
        """Summarise predictions.

        Parameters
        ----------
        predictions : ndarray of shape (n_samples, n_outputs)
        bounds : Bounds
        y : ndarray of shape (n_samples, n_outputs), optional
        weight : ndarray of shape (n_samples,), optional

        Returns
        -------
        RowSummary
        """
        largest, counts = np.zeros(predictions.shape[1]), np.zeros(3)
        for rows in slices_of(predictions):
            own = predictions[rows].astype(np.float64)
            worst = bounds.violation(own).max(axis=0)
            largest = np.maximum(largest, worst)
            sides = own < bounds.lower, own > bounds.upper
            for number, marked in enumerate((~bounds.contain(own), *sides)):
                counts[number] += marked.any(axis=1).sum()
        outside, below, above = (counts / len(predictions)).tolist()
        rmse = None if y is None else _root_mean_square_error(predictions, y, weight)
        return cls(len(predictions), outside, largest, rmse, below, above)


def _root_mean_square_error(
    predictions: NDArray, y: NDArray, weight: NDArray | None
) -> NDArray:
    if weight is None:
        weight = np.broadcast_to(1.0, len(y))

    def errors() -> Iterator[tuple[NDArray, NDArray]]:
        for rows in slices_of(predictions):
            yield predictions[rows] - y[rows].astype(np.float64), weight[rows]

    largest = np.max([np.abs(own).max(axis=0) for own, _ in errors()], axis=0)
    # In units of the largest error, so that squares stay finite.
    unit = np.where(largest > 0, largest, 1.0)
    squares = sum(share @ (own / unit) ** 2 for own, share in errors())
    return unit * np.sqrt(squares / weight.sum())


def predict_twice(model, X: ArrayLike) -> Pair:
    """Predict with the head as trained, and with the repaired one.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, TransformedTargetRegressor or search
        Fitted.
    X : array-like or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    as_trained : ndarray of shape (n_samples, n_outputs)
    repaired : ndarray of shape (n_samples, n_outputs) or None
        None if nothing was repaired. Otherwise, these are what `predict` returns, as a
        matrix.
    """
    steps, regressor, targets = behind_targets(model)
    X = check_inputs(regressor, transform(steps, X))
    fit = regressor.fitted_
    now = targets.inverse(predict_rows(fit.ending.model.module, X))
    if fit.ending.repair is None:
        return now, None
    return targets.inverse(predict_rows(fit.as_trained.module, X)), now


def bounds_of(model) -> Bounds:
    """Bounds of what a model predicts.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, TransformedTargetRegressor or search
        Fitted.

    Returns
    -------
    Bounds
    """
    _, regressor, targets = behind_targets(model)
    dtype = next(regressor.module_.parameters()).detach().cpu().numpy().dtype
    return targets.bounds(regressor.fitted_.ending.model.bounds, dtype)


def in_data_unit(found: RowSummary | None, targets: TargetSteps) -> RowSummary | None:
    """Summary of training rows, in the unit of the data.

    Parameters
    ----------
    found : RowSummary or None
        In the unit of the regressor.
    targets : TargetSteps

    Returns
    -------
    RowSummary or None
        Sizes of errors are NaN if the steps are not affine.
    """
    if found is None or not targets.steps:
        return found
    n_outputs = len(found.max_violation)
    gain = targets.gain(n_outputs)
    rates = [found.below_rate, found.above_rate]
    if targets.falls(n_outputs).all():
        rates.reverse()
    return replace(
        found,
        max_violation=gain * found.max_violation,
        rmse=None if found.rmse is None else gain * found.rmse,
        below_rate=rates[0],
        above_rate=rates[1],
    )


def summarise_rows(
    model, X: ArrayLike, y: ArrayLike | None = None
) -> tuple[RowSummary, RowSummary | None]:
    """Summarise the predictions for any rows.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, TransformedTargetRegressor or search
        Fitted.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional

    Returns
    -------
    as_trained : RowSummary
    repaired : RowSummary or None
        None if nothing was repaired.

    Raises
    ------
    ValueError
        If y does not have the rows and outputs of the predictions.
    """
    predictions = predict_twice(model, X)
    bounds = bounds_of(model)
    if y is not None:
        shape, given = predictions[0].shape, np.shape(y)
        y = match_outputs(bounds, y)
        if y.shape != shape:
            raise ValueError(
                f"y has shape {given}, but the predictions for X have shape {shape}."
            )
    return summarise_pair(predictions, bounds, y)


def summarise_pair(
    predictions: Pair,
    bounds: Bounds,
    y: NDArray | None = None,
    weight: NDArray | None = None,
) -> tuple[RowSummary, RowSummary | None]:
    """Summarise predictions as trained and repaired.

    Parameters
    ----------
    predictions : pair of ndarray of shape (n_samples, n_outputs), or None
    bounds, y, weight
        As in `RowSummary.from_predictions`.

    Returns
    -------
    as_trained : RowSummary
    repaired : RowSummary or None
        None without such predictions.
    """
    as_trained, repaired = (
        None if rows is None else RowSummary.from_predictions(rows, bounds, y, weight)
        for rows in predictions
    )
    return as_trained, repaired
