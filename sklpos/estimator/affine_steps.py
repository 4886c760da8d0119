"""Steps of scikit-learn that are affine, read as maps that fit into a first layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array, diags_array
from sklearn.decomposition import PCA, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from sklearn.utils.validation import check_is_fitted

from sklpos.nets.input_map import InputMap

NOTHING_MISSING = "no value is missing, so that nothing is imputed"


def is_affine(step: Any) -> bool:
    """Whether a step is understood, whatever rows it is given.

    Parameters
    ----------
    step : transformer

    Returns
    -------
    bool
    """
    return _reader_of(step) is not None and type(step) is not SimpleImputer


def read_affine(step: Any, n_features: int) -> InputMap:
    """Read a fitted step as an affine map.

    Parameters
    ----------
    step : transformer
        A scaler, a linear projection such as PCA, or a selection of columns.
    n_features : int
        Number of columns that it takes.

    Returns
    -------
    InputMap

    Raises
    ------
    ValueError
        For any other step, by its name.

    Examples
    --------
    >>> scaler = StandardScaler().fit([[0.0], [4.0]])
    >>> scale = read_affine(scaler, 1)
    >>> scale.gain.toarray().tolist(), scale.offset.tolist()
    ([[0.5]], [-1.0])
    """
    check_is_fitted(step)
    reader = _reader_of(step)
    if reader is None:
        raise refusal(step)
    return replace(reader(step, n_features), steps=(step,))


def refusal(step: Any, reason: str = "is not affine") -> ValueError:
    """Make the error that refuses a step.

    Parameters
    ----------
    step : transformer
    reason : str, default="is not affine"

    Returns
    -------
    ValueError
    """
    clips = " with clip=True" if getattr(step, "clip", False) else ""
    names = ", ".join(kind.__name__ for kind in _READERS)
    return ValueError(
        f"the step {type(step).__name__}{clips} {reason}; before the regressor only "
        f"{names}, selections of columns, encoders of categories and ColumnTransformer "
        "of these are understood."
    )


def _reader_of(step: Any) -> Callable[[Any, int], InputMap] | None:
    if getattr(step, "clip", False):
        return None
    if type(step) is FunctionTransformer and step.func is not None:
        return None
    # Their own transform, as a subclass may compute something else.
    if type(step).__module__.startswith("sklearn.") and isinstance(step, SelectorMixin):
        return _read_selection
    return _READERS.get(type(step))


def _center_and_scale(n_features: int, center, scale) -> InputMap:
    factor = (
        np.ones(n_features) if scale is None else 1 / np.asarray(scale, dtype=float)
    )
    shift = np.zeros(n_features) if center is None else -np.asarray(center) * factor
    return InputMap.scaling(factor, shift)


def _read_standard(step: StandardScaler, n_features: int) -> InputMap:
    mean = step.mean_ if step.with_mean else None
    return _center_and_scale(n_features, mean, step.scale_)


def _read_min_max(step: MinMaxScaler, n_features: int) -> InputMap:
    return InputMap.scaling(step.scale_, step.min_)


def _read_robust(step: RobustScaler, n_features: int) -> InputMap:
    return _center_and_scale(n_features, step.center_, step.scale_)


def _read_max_abs(step: MaxAbsScaler, n_features: int) -> InputMap:
    return _center_and_scale(n_features, None, step.scale_)


def _projection(matrix, mean=None) -> InputMap:
    """Map of ``matrix @ (x - mean)``."""
    gain = csr_array(matrix, dtype=np.float64)
    center = np.zeros(gain.shape[1]) if mean is None else np.asarray(mean, dtype=float)
    return InputMap.linear(gain, -(gain @ center), abs(gain) @ np.abs(center))


def _read_pca(step: PCA, n_features: int) -> InputMap:
    found = _projection(step.components_, step.mean_)
    if not step.whiten:
        return found
    scale = np.sqrt(step.explained_variance_)
    # As in its transform: a component without variance is not divided by 0.
    scale = np.maximum(scale, np.finfo(scale.dtype).eps)
    return found.then(_center_and_scale(len(scale), None, scale))


def _read_ica(step: FastICA, n_features: int) -> InputMap:
    return _projection(step.components_, step.mean_ if step.whiten else None)


def _read_components(step: Any, n_features: int) -> InputMap:
    return _projection(step.components_)


def _read_selection(step: SelectorMixin, n_features: int) -> InputMap:
    return selection(np.flatnonzero(step.get_support()), n_features)


def _read_imputer(step: SimpleImputer, n_features: int) -> InputMap:
    missing = step.missing_values
    if step.indicator_ is not None or not (missing is None or missing != missing):
        raise refusal(step, "with an indicator or with missing_values is not affine")
    statistics = np.asarray(step.statistics_, dtype=object)
    # Columns without any value are left out, unless they are kept.
    empty = np.array([value != value for value in statistics], dtype=bool)
    kept = np.arange(n_features) if step.keep_empty_features else np.flatnonzero(~empty)
    return replace(selection(kept, n_features), assumptions=(NOTHING_MISSING,))


def _read_nothing(step: Any, n_features: int) -> InputMap:
    return InputMap.identity(n_features)


def selection(kept, n_features: int) -> InputMap:
    """Make a map that takes some columns.

    Parameters
    ----------
    kept : sequence of int
    n_features : int

    Returns
    -------
    InputMap
    """
    unit = csr_array(diags_array(np.ones(n_features)))[np.asarray(kept, dtype=int)]
    nothing = np.zeros(len(kept))
    return InputMap(unit, nothing, unit, nothing, 0)


_READERS = {
    StandardScaler: _read_standard,
    MinMaxScaler: _read_min_max,
    RobustScaler: _read_robust,
    MaxAbsScaler: _read_max_abs,
    PCA: _read_pca,
    IncrementalPCA: _read_pca,
    TruncatedSVD: _read_components,
    FastICA: _read_ica,
    GaussianRandomProjection: _read_components,
    SparseRandomProjection: _read_components,
    SimpleImputer: _read_imputer,
    FunctionTransformer: _read_nothing,
}
