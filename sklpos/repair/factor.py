"""The mean of heads whose weights have one sign: exact, by one factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.nets.copies import copy_module
from sklpos.nets.head import head_input, read_head, write_head
from sklpos.nets.precision import full_precision
from sklpos.nets.rows import predict_rows
from sklpos.nets.tensors import without_torch
from sklpos.nets.within import keep_within
from sklpos.repair.summary import warn_of_lost_balance

# The later ones correct what the rounding of weights left of the first.
_N_CORRECTIONS = 3
# A factor so near to 1 corrects nothing but rounding.
_ROUNDED = 1e-15
_MAX_FACTOR = 10.0
_ROUNDING = 1e-12
# Bytes of features that are kept.
_MAX_KEPT = 2**22


def scale_to_mean(
    model: BoundedModel,
    X: NDArray,
    y: NDArray,
    average: Callable[[NDArray], NDArray],
) -> BoundedModel:
    """Make the mean prediction that of y, and keep the sign of all weights of the head.

    The distance of each prediction from a bound is multiplied by one factor per output.
    With both bounds, the distances are those from the bound to which the mean has to
    move, so that the factor is at most 1 and the other bound holds as well. A model
    that obeys its bounds for every input still does. A free output is shifted. Warns of
    outputs whose mean cannot be that of y.

    Parameters
    ----------
    model : BoundedModel
        Not changed.
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples, n_outputs)
    average : callable
        Maps values of shape (n_samples, n_outputs) to their means over the rows.

    Returns
    -------
    BoundedModel
    """
    module = copy_module(model.module, {})
    head = module.get_submodule(model.head)
    predict = _predictor(module, model.head, X)
    mean = average(y)
    target = model.bounds.clip(mean)
    # The mean of targets that are all on a bound may be rounded to beyond it.
    kept = np.isclose(mean, target, rtol=_ROUNDING, atol=0)
    for number in range(_N_CORRECTIONS):
        mean = average(predict().astype(np.float64))
        start = _start(mean, target, model.bounds, has_bias=head.bias is not None)
        factor, shift = _factor_and_shift(mean - start, target - start, model.bounds)
        if number and np.allclose(factor, 1, rtol=_ROUNDED, atol=0) and not shift.any():
            break
        if head.bias is None and number == 0:
            # A shift has no place, and a larger factor may break the other bound. Later
            # factors differ from 1 by rounding alone.
            kept &= (shift == 0) & ((factor <= 1) | ~model.bounds.two_sided)
        coef = read_head(head)
        moved = factor[:, None] * coef
        if head.bias is not None:
            moved[:, -1] += (1 - factor) * start + shift
        write_head(head, np.where(kept[:, None], moved, coef))
        # Rounding may have put the bias on the wrong side of the bound.
        keep_within(head, model.bounds)
    warn_of_lost_balance(kept)
    return replace(model, module=module)


def _predictor(module: nn.Module, head: str, X: NDArray) -> Callable[[], NDArray]:
    """Predicts rows anew while nothing but the head changes."""
    linear = module.get_submodule(head)
    if len(X) * linear.weight[:1].nbytes > _MAX_KEPT:
        return partial(predict_rows, module, X)
    with head_input(module, head) as seen:
        predict_rows(module, X)

    @torch.inference_mode()
    @full_precision()
    def predict() -> NDArray:
        return np.concatenate([without_torch(linear(part)) for part in seen])

    return predict


def _start(
    mean: NDArray, target: NDArray, bounds: Bounds, *, has_bias: bool
) -> NDArray:
    """Where the distances are measured from: a bound, or 0 without a bias."""
    if not has_bias:
        return np.zeros_like(mean)
    lower, upper = (np.where(np.isfinite(side), side, 0.0) for side in bounds.sides)
    falls = np.where(bounds.two_sided, target <= mean, np.isfinite(bounds.lower))
    return np.where(falls, lower, upper)


def _factor_and_shift(
    mean: NDArray, target: NDArray, bounds: Bounds
) -> tuple[NDArray, NDArray]:
    """Take a mean distance to its target: by a factor where it can, else by a shift."""
    # A model that stays close to the bound has nothing to scale.
    scaled = bounds.bounded & (mean * target >= 0) & (abs(mean) > 0)
    scaled &= abs(target) < _MAX_FACTOR * abs(mean)
    factor = np.ones_like(mean)
    np.divide(target, mean, out=factor, where=scaled)
    return factor, np.where(scaled, 0.0, target - mean)
