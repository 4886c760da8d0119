"""Scalers before a net, read as one affine map that fits into its first layer."""

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
        The transformers before the regressor, in order.
    regressor : estimator
        The last step.
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
    gain = np.ones(n_features)
    offset = np.zeros(n_features)
    # Sum of the magnitudes of all terms, which bounds their rounding.
    size = np.zeros(n_features)
    scalers = list(_flat(steps))
    for scaler in scalers:
        check_is_fitted(scaler)
        factor, shift = _affine(scaler)
        gain = gain * factor
        offset = offset * factor + shift
        size = size * np.abs(factor) + np.abs(shift)
    return InputScale(gain, offset, size, tuple(map(_without_names, scalers)))


def is_affine(step) -> bool:
    """Whether a step is a scaler that `InputScale` understands."""
    # Exact types only: a subclass may compute something else.
    return type(step) in _READERS and not getattr(step, "clip", False)


def _flat(steps: Iterable) -> Iterable:
    for step in steps:
        if isinstance(step, Pipeline):
            yield from _flat(inner for _, inner in step.steps)
        # The only string that a fitted pipeline may hold is "passthrough".
        elif step is not None and not isinstance(step, str):
            yield step


def _affine(scaler) -> tuple[NDArray, NDArray]:
    """Factor and shift of a scaler."""
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


def _read_standard(scaler: StandardScaler) -> tuple[NDArray, NDArray]:
    mean = scaler.mean_ if scaler.with_mean else None
    return _center_and_scale(mean, scaler.scale_)


def _read_min_max(scaler: MinMaxScaler) -> tuple[NDArray, NDArray]:
    return scaler.scale_, scaler.min_


def _read_robust(scaler: RobustScaler) -> tuple[NDArray, NDArray]:
    return _center_and_scale(scaler.center_, scaler.scale_)


def _read_max_abs(scaler: MaxAbsScaler) -> tuple[NDArray, NDArray]:
    return _center_and_scale(None, scaler.scale_)


_READERS = {
    StandardScaler: _read_standard,
    MinMaxScaler: _read_min_max,
    RobustScaler: _read_robust,
    MaxAbsScaler: _read_max_abs,
}


def _without_names(scaler):
    """Copy a scaler that takes arrays without a warning and returns arrays."""
    # A shallow copy will do: attributes are dropped, and none is changed.
    scaler = copy.copy(scaler)
    vars(scaler).pop("feature_names_in_", None)
    vars(scaler).pop("_sklearn_output_config", None)
    return scaler


def take_apart(model) -> tuple[list, object]:
    """Split a model into the steps before the last one, in order, and the last one.

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
        The input of the regressor.
    """
    for step in steps:
        if step not in (None, "passthrough"):
            X = step.transform(X)
    return X
