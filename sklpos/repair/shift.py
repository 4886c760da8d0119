"""The smallest shift of the bias: for all rows, or all but a share of a population."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklpos.certificates.risk import certify_risk, smallest_shift
from sklpos.nets.head import read_head, write_head
from sklpos.nets.rows import predict_rows
from sklpos.nets.units import TargetScale

_ATTEMPTS = 8


def shifted_product(
    module: nn.Module,
    head: str,
    X: NDArray,
    targets: TargetScale,
    *,
    risk_level: float | None = None,
    confidence: float = 0.95,
) -> tuple[nn.Module, NDArray]:
    """Raise the bias as little as possible.

    Without a risk level by the largest violation of each output; with one, see
    `smallest_shift`. The predictions in the module's own dtype are what counts.

    Parameters
    ----------
    module : nn.Module
        The product; changed in place.
    head : str
        Dotted name of its head.
    X : ndarray of shape (n_samples, n_features)
        Rows, or a holdout.
    targets : TargetScale
    risk_level : float, optional
    confidence : float, default=0.95

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
    linear, bound = module.get_submodule(head), targets.lower_bound
    if linear.bias is None:
        raise ValueError("method='bias' needs a head with a bias; use method='head'.")
    risk = {"risk_level": risk_level, "confidence": confidence}
    start = read_head(linear)
    predictions = predict_rows(module, X).astype(np.float64)
    if risk_level is None:
        shift = np.maximum(bound - predictions.min(axis=0), 0.0)
    else:
        shift = smallest_shift(predictions, bound, scale=targets.scale, **risk)
        shift = np.where(targets.bounded, shift, 0.0)
    rounding = np.finfo(predict_rows(module, X[:1]).dtype).eps
    rounding = rounding * (np.abs(predictions).max(axis=0) + np.abs(start[:, -1]))
    rounding = np.where(shift > 0, rounding, 0.0)
    for _ in range(_ATTEMPTS):
        shifted = start.copy()
        shifted[:, -1] += shift
        write_head(linear, shifted)
        if _holds(predict_rows(module, X), bound, risk):
            return module, shift
        shift, rounding = shift + rounding, 4 * rounding
    raise ValueError(
        "no shift of the bias survives its rounding: the predictions are too large for "
        "their dtype; use dtype='float64'."
    )


def _holds(predictions: NDArray, bound: NDArray, risk: dict) -> bool:
    if risk["risk_level"] is None:
        return bool((predictions >= bound).all())
    return bool(certify_risk(predictions, bound, **risk))
