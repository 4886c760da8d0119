"""The smallest shift of the bias: for all rows, or all but a share of a population."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklpos.certificates.risk import certify_risk, smallest_shift
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.head import read_head, write_head
from sklpos.nets.rows import predict_rows

# The allowance for rounding grows fourfold after each attempt.
_ATTEMPTS = 8


@dataclass(frozen=True)
class Risk:
    """The share of a population that may be below the bound.

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
    """Copy a module and raise its bias as little as possible.

    Without a risk, the shift is the largest violation of each output; with one, see
    `smallest_shift`. What counts are the predictions in the module's own dtype.

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
        If the head has no bias, or the holdout is too small for any shift.
    """
    module = copy.deepcopy(model.module)
    linear = module.get_submodule(model.head)
    if linear.bias is None:
        raise ValueError("method='bias' needs a head with a bias; use method='head'.")
    start = read_head(linear)
    predictions = predict_rows(module, X)
    shift = _wanted_shift(model, predictions.astype(np.float64), risk)
    size = np.abs(predictions).max(axis=0) + np.abs(start[:, -1])
    # An output that needs no shift must not get one.
    rounding = np.where(shift > 0, np.finfo(predictions.dtype).eps * size, 0.0)
    for _ in range(_ATTEMPTS):
        shifted = start.copy()
        shifted[:, -1] += shift
        write_head(linear, shifted)
        # The sum with the new bias rounds, so only a new prediction can tell.
        if _holds(predict_rows(module, X), model.lower_bound, risk):
            return module, shift
        shift = shift + rounding
        rounding = 4 * rounding
    raise ValueError(
        "no shift of the bias survives rounding: the predictions are too large for "
        "their dtype; use dtype='float64'."
    )


def _wanted_shift(model: BoundedModel, predictions: NDArray, risk) -> NDArray:
    """Smallest shift in exact arithmetic."""
    bound = model.lower_bound
    if risk is None:
        return np.maximum(bound - predictions.min(axis=0), 0.0)
    shift = smallest_shift(
        predictions,
        bound,
        risk_level=risk.level,
        confidence=risk.confidence,
        scale=model.scale,
    )
    # The shift of a free output is not defined.
    return np.where(np.isfinite(bound), shift, 0.0)


def _holds(predictions: NDArray, bound: NDArray, risk: Risk | None) -> bool:
    if risk is None:
        return bool((predictions >= bound).all())
    found = certify_risk(
        predictions, bound, risk_level=risk.level, confidence=risk.confidence
    )
    return bool(found)
