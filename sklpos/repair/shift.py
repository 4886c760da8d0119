"""The smallest shift of the bias: for all rows, or all but a share of a population."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklpos.certificates.risk import bound_risk, smallest_shift
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.nets.copies import copy_module
from sklpos.nets.head import read_head, write_head
from sklpos.nets.rows import obeys, predict_rows

# The allowance for rounding starts at 0, and about quadruples with each attempt.
_ATTEMPTS = 8


@dataclass(frozen=True)
class Risk:
    """The share of a population that may be out of bounds.

    Attributes
    ----------
    level : float
        Probability that is acceptable.
    confidence : float
    """

    level: float
    confidence: float = 0.95


def shift_bias(
    model: BoundedModel, X: NDArray, risk: Risk | None = None
) -> tuple[nn.Module, NDArray]:
    """Copy a module and shift its bias as little as possible.

    Without a risk, the shift of each output is the smallest one that puts all rows
    within both bounds; with one, see `smallest_shift`. What counts are the predictions
    in the module's own dtype.

    Parameters
    ----------
    model : BoundedModel
        With a known head.
    X : ndarray of shape (n_samples, n_features)
        Rows, or a holdout.
    risk : Risk, optional

    Returns
    -------
    module : nn.Module
    shift : ndarray of shape (n_outputs,)
        Unit of y.

    Raises
    ------
    ValueError
        If the head has no bias, if the predictions vary more than the bounds allow, or
        if the holdout is too small for any shift.
    """
    module = copy_module(model.module, {})
    linear = module.get_submodule(model.head)
    if linear.bias is None:
        raise ValueError("adjust='bias' needs a head with a bias; use adjust='head'.")
    start = read_head(linear)
    bounds = model.bounds.for_outputs(len(start)).in_dtype(linear.weight.dtype)
    predictions = predict_rows(module, X)
    least, most = _shifts(model, bounds, predictions.astype(np.float64), risk)
    rounding = np.abs(predictions).max(axis=0) + np.abs(start[:, -1])
    rounding = np.finfo(predictions.dtype).eps * rounding
    for k in range(_ATTEMPTS):
        # The sum with the new bias rounds, so only a new prediction can tell.
        shift = _smallest(least, most, (4.0**k - 1) * rounding)
        shifted = start.copy()
        shifted[:, -1] += shift
        write_head(linear, shifted)
        if _holds(module, X, bounds, risk, rounding):
            return module, shift
    raise ValueError(
        "no shift of the bias survives rounding: the predictions are too large for "
        "their dtype; use dtype='float64'."
    )


def _smallest(least: NDArray, most: NDArray, rounding: NDArray) -> NDArray:
    """Smallest shifts of an interval, which keep clear of its ends if they are not 0.

    An output that needs no shift must not get one.
    """
    inside = Bounds(least, most).narrowed(rounding)
    needed = (least > 0) | (most < 0)
    return np.where(needed, inside.clip(np.zeros_like(least)), 0.0)


def _shifts(model, bounds: Bounds, predictions: NDArray, risk: Risk | None):
    """Smallest and largest shifts that do in exact arithmetic."""
    if risk is None:
        least = bounds.lower - predictions.min(axis=0)
        most = bounds.upper - predictions.max(axis=0)
        _check_not_empty(bounds, predictions, least > most)
        return least, most
    shift = smallest_shift(
        predictions,
        bounds.lower,
        bounds.upper,
        risk_level=risk.level,
        confidence=risk.confidence,
        scale=model.scale,
    )
    return np.where(shift > 0, shift, -np.inf), np.where(shift < 0, shift, np.inf)


def _check_not_empty(bounds: Bounds, predictions: NDArray, wide: NDArray) -> None:
    if wide.any():
        j = np.flatnonzero(wide)[0]
        ends = predictions[:, j].min(), predictions[:, j].max()
        raise ValueError(
            f"the predictions of output {j} go from {ends[0]:.4g} to {ends[1]:.4g}, so "
            f"no shift of the bias puts all of them between {bounds.lower[j]:g} and "
            f"{bounds.upper[j]:g}; use adjust='head'."
        )


def _holds(
    module: nn.Module, X: NDArray, bounds: Bounds, risk: Risk | None, rounding: NDArray
) -> bool:
    if risk is None:
        # In large batches and row by row, which round in another way.
        return obeys(module, X, bounds, rounding)
    found = bound_risk(
        predict_rows(module, X),
        bounds.lower,
        bounds.upper,
        risk_level=risk.level,
        confidence=risk.confidence,
    )
    return bool(found)
