"""Plain heads that keep bounds, and an order of outputs, whatever rounding does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.order import spread


@torch.no_grad()
def keep_within(linear: nn.Linear, bounds: Bounds) -> None:
    """Clip the bias and shrink weights until rounding cannot break a bound, in place.

    Weights that move an output towards a bound keep a reserve for the rounding of the
    sum, in any order: ``b + sum(w) <= upper - (k + 2) * eps * (|b| + sum |w|)`` for k
    features in [0, 1]. Terms of one sign need none to stay on their side of the bias,
    so an output whose weights move it away from its only bound is left as it is.

    Outputs in an order keep a reserve between them as well, in each weight and bias.

    Parameters
    ----------
    linear : nn.Linear
        Over features in [0, 1], or over non-negative ones where all weights of an
        output move it away from its only bound.
    bounds : Bounds
        Unit of the output.

    Raises
    ------
    ValueError
        If two bounds are so close that the reserve takes all of their distance.
    """
    dtype = linear.weight.dtype
    unit = (linear.in_features + 2) * torch.finfo(dtype).eps
    _check_far_apart(bounds, unit, dtype)
    bounds = bounds.in_dtype(dtype)
    lower, upper = torch.as_tensor(bounds.sides)
    # To the CPU before float64, which some accelerators do not have.
    weight = linear.weight.cpu().double()
    bias = torch.zeros_like(lower)
    if linear.bias is not None:
        bias = linear.bias.cpu().double().clamp(lower, upper)
    if bounds.n_ordered > 1:
        weight, bias = spread(weight, bias, bounds, 2 * unit)
    if linear.bias is not None:
        linear.bias.copy_(bias)
    reserve = unit * (bias.abs() + weight.abs().sum(dim=1))
    up = _largest_share(upper - bias - reserve, weight.clamp(min=0))
    down = _largest_share(bias - lower - reserve, -weight.clamp(max=0))
    share = torch.where(weight > 0, up, torch.where(weight < 0, down, 1.0))
    if bounds.n_ordered > 1:
        # One share for all keeps the order of the weights.
        share = share.min()
    linear.weight.copy_(share * weight)


def _largest_share(room: Tensor, weight: Tensor) -> Tensor:
    """Largest factor, at most 1, for which weights sum up to the room at most."""
    total = weight.sum(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
    return (room / total).clamp(0, 1)[:, None]


def _check_far_apart(bounds: Bounds, unit: float, dtype: torch.dtype) -> None:
    distance = bounds.upper - bounds.lower
    # Equal bounds are meant to leave a constant.
    close = (distance > 0) & (unit * bounds.size >= distance)
    if close.any():
        lower, upper = bounds.sides[:, close][:, 0]
        raise ValueError(
            f"strategy='nonnegative_weights' has no room between lower_bound={lower} "
            f"and upper_bound={upper}, too close for the rounding of {dtype}; use "
            "dtype='float64' or subtract a constant from y and its bounds."
        )
