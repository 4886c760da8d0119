"""Scalers before a net: read as one affine map, which can go into its first layer."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.validation import check_is_fitted

from sklpos.nets.units import InputScale


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


def read_scalers(steps: Iterable, n_features: int) -> InputScale:
    """Read fitted scalers as one affine map.

    Parameters
    ----------
    steps : iterable of transformer
        StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler, a Pipeline of these,
        or "passthrough".
    n_features : int

    Returns
    -------
    InputScale

    Raises
    ------
    ValueError
        For any other step, by its name.

    Examples
    --------
    >>> scaler = StandardScaler().fit([[0.0], [4.0]])
    >>> scale = read_scalers([scaler], 1)
    >>> scale.gain.tolist(), scale.offset.tolist()
    ([0.5], [-1.0])
    """
    gain, offset, size = np.ones(n_features), *np.zeros((2, n_features))
    scalers = list(_flat(steps))
    for scaler in scalers:
        check_is_fitted(scaler)
        factor, shift = _affine(scaler)
        gain, offset = gain * factor, offset * factor + shift
        size = size * np.abs(factor) + np.abs(shift)
    return InputScale(gain, offset, size, tuple(map(_without_names, scalers)))


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


def take_apart(model) -> tuple[list, object]:
    """Return the steps before the last one, in order, and the last one.

    Parameters
    ----------
    model : estimator, Pipeline or search
        Of a fitted search, its best estimator counts.

    Returns
    -------
    before : list of transformer or "passthrough"
    last : estimator

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> take_apart(make_pipeline("passthrough", LinearRegression()))
    (['passthrough'], LinearRegression())
    """
    before: list = []
    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif isinstance(model, Pipeline):
            *steps, (_, model) = model.steps
            before += [step for _, step in steps]
        else:
            return before, model


def transform(steps: list, X: ArrayLike):
    """Pass rows through the steps that come before a regressor.

    Parameters
    ----------
    steps : list of transformer or "passthrough"
        Fitted.
    X : array-like of shape (n_samples, n_features)

    Returns
    -------
    array-like of shape (n_samples, n_features_in)
        What the regressor takes.
    """
    for step in steps:
        if step not in (None, "passthrough"):
            X = step.transform(X)
    return X
