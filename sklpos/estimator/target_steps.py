"""Models inside a ``TransformedTargetRegressor``: numbers in the unit of its y."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from sklpos.estimator.pipelines import (
    fitted_regressor,
    take_apart,
    transforms_targets,
)
from sklpos.nets.bounds import Bounds
from sklpos.repair import Repair

# Steps on y that look at each output for itself, so that they order its values.
_AFFINE = (StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler)
_ORDERED = (*_AFFINE, PowerTransformer, QuantileTransformer, FunctionTransformer)


@dataclass(frozen=True, eq=False)
class TargetSteps:
    """Steps on y, inverted: from the unit of a regressor to that of the data.

    Attributes
    ----------
    steps : tuple of transformer
        Fitted, in the order in which their inverses are applied; empty without a
        ``TransformedTargetRegressor``.

    Examples
    --------
    >>> scaler = StandardScaler().fit([[1.0], [3.0]])
    >>> TargetSteps((scaler,)).inverse(np.array([[-1.0], [1.0]])).ravel().tolist()
    [1.0, 3.0]
    """

    steps: tuple[TransformerMixin, ...] = ()

    def inverse(self, values: NDArray) -> NDArray:
        """Values in the unit of the data.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_outputs)
            In the unit of the regressor.

        Returns
        -------
        ndarray of the same shape
        """
        for step in self.steps:
            values = np.asarray(step.inverse_transform(values)).reshape(values.shape)
        return values

    @property
    def is_affine(self) -> bool:
        """Whether one factor per output converts differences."""
        return all(isinstance(step, _AFFINE) for step in self.steps)

    def bounds(self, bounds: Bounds, dtype: np.dtype) -> Bounds:
        """Bounds in the unit of the data.

        Parameters
        ----------
        bounds : Bounds
            In the unit of the regressor.
        dtype : dtype
            That of the predictions, so that both are rounded alike.

        Returns
        -------
        Bounds
        """
        if not self.steps:
            return bounds
        finite = np.isfinite(bounds.sides)
        ends = np.where(finite, bounds.sides, 0.0).astype(dtype)
        ends = np.where(finite, self.inverse(ends), bounds.sides)
        # A step may turn the order of the values round.
        falls = self.falls(len(bounds))
        turned = np.where(finite[::-1], ends[::-1], -bounds.sides[::-1])
        sides = np.where(falls, turned, ends).astype(np.float64)
        return Bounds(*sides, n_ordered=bounds.n_ordered)

    def repair(self, found: Repair | None) -> Repair | None:
        """What a repair did, in the unit of the data.

        Parameters
        ----------
        found : Repair or None

        Returns
        -------
        Repair or None
        """
        if found is None or not self.steps:
            return found
        gain = self.gain(len(found.cost_))
        return replace(
            found,
            multipliers_=gain * found.multipliers_,
            smallest_violation_=gain * found.smallest_violation_,
            cost_=gain**2 * found.cost_,
            margin_=gain * found.margin_,
            # A mean is not kept by a step that bends.
            balanced_=found.balanced_ & self.is_affine,
        )

    def gain(self, n_outputs: int) -> NDArray:
        """Factors of differences of the outputs; NaN if the steps are not affine.

        Parameters
        ----------
        n_outputs : int

        Returns
        -------
        ndarray of shape (n_outputs,)
        """
        if not self.is_affine:
            return np.full(n_outputs, np.nan)
        zero, one = self.inverse(np.array([[0.0], [1.0]]) * np.ones(n_outputs))
        return one - zero

    def falls(self, n_outputs: int) -> NDArray:
        """Whether the steps turn the order of values round.

        Parameters
        ----------
        n_outputs : int

        Returns
        -------
        ndarray of bool of shape (n_outputs,)
        """
        # In the middle of what scalers and logarithms lead to.
        low, high = self.inverse(np.array([[0.25], [0.75]]) * np.ones(n_outputs))
        return high < low


def behind_targets(model: Any) -> tuple[list, Any, TargetSteps]:
    """Split a fitted model, also one with steps on y.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, TransformedTargetRegressor or search

    Returns
    -------
    before : list of transformer or "passthrough"
        The steps before the regressor.
    regressor : PositiveOutputRegressor
    targets : TargetSteps

    Raises
    ------
    NotFittedError
        If the model is not fitted.
    ValueError
        If the model is something else, or a step on y mixes the outputs or is unknown.
    """
    before, last = take_apart(model)
    steps: list = []
    while transforms_targets(last) and hasattr(last, "regressor_"):
        steps.insert(0, _checked(last.transformer_))
        inside, last = take_apart(last.regressor_)
        before += inside
    # The message of an error shows the whole model.
    _, regressor = fitted_regressor(last if steps else model)
    return before, regressor, TargetSteps(tuple(steps))


def _checked(step: TransformerMixin) -> TransformerMixin:
    if not isinstance(step, _ORDERED):
        raise ValueError(
            f"transformer={step!r} of the TransformedTargetRegressor may mix the "
            "outputs, so that they have no bounds any more; known are scalers, "
            "FunctionTransformer, PowerTransformer and QuantileTransformer."
        )
    return step
