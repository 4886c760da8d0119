"""Bounds of the rounding errors in a network's values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sklpos.certificates.bounds.crown import (
    Interval,
    corner_image,
    image,
    weighted_sum,
)
from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.bounds.network import Network

# Error of an activation, in unit roundoffs of |g| + |z|.
_ACTIVATION_UNITS = 8
# Rounding of the bounds themselves, as a multiple of that of a float64 prediction.
_OWN_SHARE = 8


def rounding_error(
    network: Network,
    low: Tensor,
    high: Tensor,
    *,
    dtype: torch.dtype | None = None,
    hidden: dict[int, Interval] | None = None,
) -> Tensor:
    """Bound the distance between computed and exact outputs over boxes.

    An error e that enters a layer leaves it as ``|W| e + gamma (|W| |x| + |b|)`` with
    ``gamma = n u / (1 - n u)`` for n terms and unit roundoff u, in any order of
    summation (Higham 2002, section 3.1), or as the activation's Lipschitz constant on
    the interval times e, plus 8 u (|g| + |z|). The input is rounded to the dtype too.

    Parameters
    ----------
    network : Network
    low, high : Tensor of shape (n_parts, n_features)
        Finite.
    dtype : torch.dtype, optional
        By default, the dtype in which the network predicts.
    hidden : dict of int to (low, high), optional
        Bounds of what enters the activations, see `Propagation`.

    Returns
    -------
    Tensor of shape (n_parts, n_outputs)
    """
    # Rounding to nearest is off by half the distance between neighbours at most.
    unit = torch.finfo(network.dtype if dtype is None else dtype).eps / 2
    error = unit * torch.maximum(low.abs(), high.abs())
    for number, layer in enumerate(network.layers):
        if hidden is not None and number in hidden:
            low, high = hidden[number]
        size = torch.maximum(low.abs(), high.abs()) + error
        if isinstance(layer, Affine):
            error = _through_affine(layer, error, size, unit)
        else:
            error = _through_activation(layer, low - error, high + error, error, unit)
        low, high = image(layer, low, high)
    return error


def _gamma(layer: Affine, unit: float) -> float:
    share = layer.n_terms * unit
    # Half precision is too coarse for sums of thousands of terms.
    return share / (1 - share) if share < 1 else math.inf


def _through_affine(layer: Affine, error, size, unit):
    weight = layer.weight.abs().T
    rounding = _gamma(layer, unit) * (size @ layer.sizes.T + layer.bias_size)
    if layer.stored:
        # A constant is its bias, which is a parameter and not computed.
        rounding = torch.where((layer.sizes == 0).all(1), 0.0, rounding)
    return error @ weight + rounding


def _through_activation(layer, low, high, error, unit):
    passed = layer.steepness(low, high) * error + layer.error
    if layer.exact:
        return passed
    values = torch.maximum(*(end.abs() for end in layer.image(low, high)))
    size = torch.maximum(low.abs(), high.abs())
    return passed + _ACTIVATION_UNITS * unit * (values + size)


def numerical_slack(
    network: Network,
    low: Tensor,
    high: Tensor,
    hidden: dict[int, Interval] | None = None,
) -> Tensor:
    """Bound the effect of rounding on a proved bound, in predictions and in the proof.

    Bounds are computed in float64 from products of the same matrices, whose rounding
    is a small multiple of that of a float64 prediction.

    Parameters
    ----------
    network : Network
    low, high : Tensor of shape (n_parts, n_features)
    hidden : dict of int to (low, high), optional

    Returns
    -------
    Tensor of shape (n_parts, n_outputs)
    """
    predicted = rounding_error(network, low, high, hidden=hidden)
    slack = predicted + bound_rounding(network, low, high, hidden)
    # Where sums overflow, no margin is known.
    return slack.nan_to_num(nan=torch.inf, posinf=torch.inf)


def bound_rounding(
    network: Network,
    low: Tensor,
    high: Tensor,
    hidden: dict[int, Interval] | None = None,
) -> Tensor:
    """Bound the rounding of bounds that are computed in float64.

    Parameters
    ----------
    network, low, high, hidden
        As in `numerical_slack`.

    Returns
    -------
    Tensor of shape (n_parts, n_outputs)
    """
    own = rounding_error(network, low, high, hidden=hidden, dtype=torch.float64)
    return _OWN_SHARE * own


def lowest_everywhere(network: Network) -> Tensor:
    """Lower bounds of the computed outputs over all real inputs.

    Interval arithmetic from ``(-inf, inf)``, rounded outwards. A sum whose terms are
    all known to be non-negative needs no margin: rounding is monotone, so the computed
    ``w @ h + b`` is at least b, as it is stored.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Tensor of shape (n_outputs,)
        Minus infinity if nothing is known.
    """
    unit = torch.finfo(network.dtype).eps / 2
    high = torch.full((1, network.n_features), torch.inf, dtype=torch.float64)
    low = -high
    for layer in network.layers:
        before = low, high
        propagate = corner_image if isinstance(layer, Affine) else image
        low, high = propagate(layer, low, high)
        low, high = _rounded_outwards(layer, before, (low, high), unit)
    return low[0]


def _rounded_outwards(layer, before, after, unit):
    low, high = after
    if not isinstance(layer, Affine):
        if layer.exact:
            return after
        return _widened(layer, before, after, unit)
    gamma = _gamma(layer, unit)
    size = torch.maximum(before[0].abs(), before[1].abs())
    rise, fall = layer.positive.T, layer.negative.T
    reach = weighted_sum(size, layer.sizes.T)
    margin = gamma * (reach + layer.bias_size)
    # Terms of both signs may cancel in a weight.
    if layer.weight_size is not None:
        return low - margin, high + margin
    # Whether any term can be below 0.
    sinking = (before[0] != 0).double() @ rise - (before[1] != 0).double() @ fall
    # A bias that is a parameter is exact; that of batch norm is computed and rounded.
    least = torch.zeros_like(margin) if layer.stored else gamma * layer.bias_size
    return low - torch.where(sinking == 0, least, margin), high + margin


def _widened(layer, before, after, unit):
    """Widen the range of an activation by the rounding of its computed values."""
    low, high = after
    margin = layer.error + _ACTIVATION_UNITS * unit * (1 + low.abs())
    # A function that is never negative is not computed as negative either, and one
    # that tends to 1 not as more.
    floor = torch.where(low >= 0, 0.0, low - margin)
    above = high + layer.error + _ACTIVATION_UNITS * unit * (1 + high.abs())
    to_one = (high == 1) & torch.isposinf(before[1])
    return floor, torch.where(to_one, high, above)
