"""The mean of heads whose weights have one sign: exact, by one factor."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.nets.head import read_head, write_head
from sklpos.nets.nonnegative import keep_within
from sklpos.nets.rows import predict_rows
from sklpos.repair.summary import warn_of_lost_balance

# The later ones correct what the rounding of weights left of the first.
_N_CORRECTIONS = 3
_MAX_FACTOR = 10.0


def scale_to_mean(
    model: BoundedModel, X: NDArray, y: NDArray, weight: NDArray
) -> BoundedModel:
    """Make the weighted mean prediction that of y, and keep the sign of all weights.

    The distance of each prediction from the bound is multiplied by one factor per
    output, so a model that obeys the bound for every input still does. A free output
    is shifted. Warns of outputs whose mean of y is out of bounds; they stay.

    Parameters
    ----------
    model : BoundedModel
        With at most one bound per output; not changed.
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,)

    Returns
    -------
    BoundedModel
    """
    module = copy.deepcopy(model.module)
    head = module.get_submodule(model.head)
    target = np.average(y, axis=0, weights=weight)
    possible = model.bounds.contain(target)
    for _ in range(_N_CORRECTIONS):
        predictions = predict_rows(module, X).astype(np.float64)
        mean = np.average(predictions, axis=0, weights=weight)
        moved = _moved(read_head(head), mean, target, model.bounds)
        write_head(head, np.where(possible[:, None], moved, read_head(head)))
        # Rounding may have put the bias on the wrong side of the bound.
        keep_within(head, model.bounds)
    warn_of_lost_balance(possible)
    return replace(model, module=module)


def _moved(coef: NDArray, mean: NDArray, target: NDArray, bounds: Bounds) -> NDArray:
    """Coefficients of heads whose mean is the target, from those with a mean."""
    start = np.where(np.isfinite(bounds.lower), bounds.lower, bounds.upper)
    start = np.where(bounds.bounded, start, 0.0)
    # A model that hardly leaves the bound has nothing to scale.
    scaled = bounds.bounded & (abs(mean - start) > abs(target - start) / _MAX_FACTOR)
    factor = np.ones_like(mean)
    np.divide(target - start, mean - start, out=factor, where=scaled)
    weight, bias = coef[:, :-1], coef[:, -1]
    bias = np.where(scaled, start + factor * (bias - start), bias + target - mean)
    return np.column_stack([factor[:, None] * weight, bias])
