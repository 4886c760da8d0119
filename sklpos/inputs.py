"""Scalers before a net: read as one affine map, which can go into its first layer."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklpos.pipelines import take_apart


@dataclass(frozen=True, eq=False)
class InputScale:
    """``x -> gain * x + offset``, feature by feature: what some scalers amount to.

    Attributes
    ----------
    gain : ndarray of shape (n_features,)
        Not 0.
    offset : ndarray of shape (n_features,)
    offset_size : ndarray of shape (n_features,)
        Sum of the absolute terms that make the offset.
    steps : tuple of transformer
        The scalers, first one first.

    Examples
    --------
    >>> scaler = StandardScaler().fit([[0.0], [4.0]])
    >>> scale = InputScale.from_steps([scaler], 1)
    >>> scale.gain.tolist(), scale.offset.tolist()
    ([0.5], [-1.0])
    """

    gain: NDArray
    offset: NDArray
    offset_size: NDArray
    steps: tuple

    @classmethod
    def from_steps(cls, steps: Iterable, n_features: int) -> InputScale:
        """Read fitted scalers.

        Parameters
        ----------
        steps : iterable of transformer
            StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler, a Pipeline of
            these, or "passthrough".
        n_features : int

        Returns
        -------
        InputScale

        Raises
        ------
        ValueError
            For any other step, by its name.
        """
        gain, offset, size = np.ones(n_features), *np.zeros((2, n_features))
        scalers = list(_flat(steps))
        for scaler in scalers:
            check_is_fitted(scaler)
            factor, shift = _affine(scaler)
            gain, offset = gain * factor, offset * factor + shift
            size = size * np.abs(factor) + np.abs(shift)
        return cls(gain, offset, size, tuple(scalers))

    @property
    def entry(self):
        """The first scaler, None if there is none."""
        return self.steps[0] if self.steps else None

    def transform(self, X: NDArray) -> NDArray:
        """Scale rows with the scalers themselves, rounding and all.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        for step in self.steps:
            X = np.asarray(_without_names(step).transform(X.copy()))
        return X

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the linear layer that does the scaling, too.

        ``weight @ (gain * x + offset) + bias``, in terms of x.

        Parameters
        ----------
        weight : torch.Tensor of shape (n_out, n_features)
        bias : torch.Tensor of shape (n_out,)

        Returns
        -------
        weight, bias : torch.Tensor
        """
        gain, offset = (torch.as_tensor(v).to(weight) for v in (self.gain, self.offset))
        return weight * gain, bias + weight @ offset

    def range_before(self, low: NDArray, high: NDArray) -> tuple[NDArray, NDArray]:
        """Return a range of scaled features in the unit before, rounded outwards.

        Parameters
        ----------
        low, high : ndarray of shape (n_features,)

        Returns
        -------
        low, high : ndarray of shape (n_features,)
        """
        ends = np.sort([(end - self.offset) / self.gain for end in (low, high)], axis=0)
        size = np.abs(ends) + np.abs(self.offset_size / self.gain)
        rounding = 4 * np.finfo(np.float64).eps * len(self.steps) * size
        return ends[0] - rounding[0], ends[1] + rounding[1]


def split_model(model) -> tuple[list, Any]:
    """Take a fitted model apart.

    Parameters
    ----------
    model : estimator, Pipeline or search

    Returns
    -------
    steps : list of transformer
        What comes first, in order.
    regressor : estimator
        What comes last.
    """
    steps, regressor = take_apart(model)
    check_is_fitted(regressor)
    if not hasattr(regressor, "module_"):
        raise ValueError(
            f"model={regressor!r} must be a PositiveOutputRegressor, or a Pipeline "
            "that ends in one."
        )
    return list(_flat(steps)), regressor


def is_affine(step) -> bool:
    """Whether a step is a scaler that `InputScale` understands."""
    return type(step) in _READERS and not getattr(step, "clip", False)


def _flat(steps: Iterable) -> Iterable:
    for step in steps:
        if isinstance(step, Pipeline):
            yield from _flat(inner for _, inner in step.steps)
        elif step is not None and not isinstance(step, str):  # "passthrough"
            yield step


def _affine(scaler) -> tuple[NDArray, NDArray]:
    """Factor and shift; exact types count, a subclass may compute something else."""
    if not is_affine(scaler):
        clips = " with clip=True" if getattr(scaler, "clip", False) else ""
        names = ", ".join(kind.__name__ for kind in _READERS)
        raise ValueError(
            f"the step {type(scaler).__name__}{clips} is not an affine scaler; before "
            f"the regressor only {names} are understood."
        )
    return _READERS[type(scaler)](scaler)


def _center_and_scale(center, scale) -> tuple[NDArray, NDArray]:
    factor = 1.0 if scale is None else 1 / np.asarray(scale, dtype=np.float64)
    return factor, 0.0 if center is None else -np.asarray(center) * factor


_READERS = {
    StandardScaler: lambda s: _center_and_scale(
        s.mean_ if s.with_mean else None, s.scale_
    ),
    MinMaxScaler: lambda s: (s.scale_, s.min_),
    RobustScaler: lambda s: _center_and_scale(s.center_, s.scale_),
    MaxAbsScaler: lambda s: _center_and_scale(None, s.scale_),
}


def _without_names(scaler):
    """Return a scaler that takes arrays without a warning, and gives arrays."""
    scaler = copy.copy(scaler)
    vars(scaler).pop("feature_names_in_", None)
    vars(scaler).pop("_sklearn_output_config", None)
    return scaler
