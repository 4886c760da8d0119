"""Bounds of a network's values by intervals and by linear functions (CROWN).

Sources: Gowal et al. (2018), doi:10.48550/arXiv.1810.12715 (intervals); Zhang et al.
(2018), doi:10.48550/arXiv.1811.00866 (CROWN).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.bounds.relaxations import Lines, Relaxation
from sklpos.certificates.domains.bodies import apply
from sklpos.certificates.domains.regions import Region

Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Propagation:
    """What bound propagation found over each part of a region.

    Attributes
    ----------
    lower, upper : Tensor of shape (n_parts, n_outputs)
    slope : Tensor of shape (1 or n_parts, 2 * n_outputs, n_features)
        Coefficients of the linear lower bounds of the outputs, then of their negatives.
    blame : Tensor of shape (n_parts, n_features)
        How much each feature's extent contributes to the gaps of the relaxations.
    hidden : dict of int to (low, high)
        Bounds of the inputs of each activation, by the number of its layer.
    """

    lower: Tensor
    upper: Tensor
    slope: Tensor
    blame: Tensor
    hidden: dict[int, Interval]


def interval_bounds(network: Network, low: Tensor, high: Tensor) -> Interval:
    """Bound the outputs over boxes by interval arithmetic.

    Parameters
    ----------
    network : Network
    low, high : Tensor of shape (n_parts, n_features)
        May be infinite.

    Returns
    -------
    lower, upper : Tensor of shape (n_parts, n_outputs)
    """
    for layer in network.layers:
        low, high = image(layer, low, high)
    return low, high


def image(layer: Affine | Relaxation, low: Tensor, high: Tensor) -> Interval:
    """Bound the outputs of one layer over boxes.

    Parameters
    ----------
    layer : Affine or Relaxation
    low, high : Tensor of shape (n_parts, n_in)

    Returns
    -------
    lower, upper : Tensor of shape (n_parts, n_out)
    """
    if not isinstance(layer, Affine):
        return layer.image(low, high)
    # The centre of an infinite interval is NaN.
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        return corner_image(layer, low, high)
    return finite_image(layer, low, high)


def finite_image(layer: Affine, low: Tensor, high: Tensor) -> Interval:
    """Bound an affine map as `image` does, without waiting for the device.

    Parameters
    ----------
    layer : Affine
    low, high : Tensor of shape (n_parts, n_in)
        Finite, or the bounds may be NaN.
    """
    # Half sums and differences inside the products, to save kernels.
    center = torch.addmm(layer.bias, low + high, layer.weight.T, alpha=0.5)
    width = (high - low) @ layer.weight.abs().T
    return torch.sub(center, width, alpha=0.5), torch.add(center, width, alpha=0.5)


def corner_image(layer: Affine, low: Tensor, high: Tensor) -> Interval:
    """Bound an affine map by the sums of its extreme terms; ``0 * inf`` counts as 0.

    Slower than by centre and radius, but exact where all extreme terms are 0.

    Parameters
    ----------
    layer : Affine
    low, high : Tensor of shape (n_parts, n_in)
        May be infinite.

    Returns
    -------
    lower, upper : Tensor of shape (n_parts, n_out)
    """
    rise, fall = layer.positive.T, layer.negative.T
    lower = weighted_sum(low, rise) + weighted_sum(high, fall)
    upper = weighted_sum(high, rise) + weighted_sum(low, fall)
    return lower + layer.bias, upper + layer.bias


def weighted_sum(x: Tensor, weight: Tensor) -> Tensor:
    """Compute ``x @ weight``, where ``0 * inf`` counts as 0.

    Parameters
    ----------
    x : Tensor of shape (n_parts, n_in)
        Its infinite values have one sign.
    weight : Tensor of shape (n_in, n_out)
        Of one sign.

    Returns
    -------
    Tensor of shape (n_parts, n_out)
    """
    infinite = torch.isinf(x)
    if not infinite.any():
        return x @ weight
    finite = torch.where(infinite, 0.0, x) @ weight
    # Any weight but 0 makes the sum infinite.
    sign = (x.sign() * infinite) @ weight
    return torch.where(sign == 0, finite, sign * torch.inf)


def crown_bounds(
    network: Network,
    region: Region,
    known: dict[int, Interval] | None = None,
) -> Propagation:
    """Bound the outputs by linear functions, intersected with interval bounds.

    Each activation is put between two lines. Going backwards, the outputs are bounded
    by linear functions of the input, whose minima over the region are known. The inputs
    of the activations are bounded in the same way, starting with the first layer.

    Parameters
    ----------
    network : Network
    region : Region
    known : dict of int to (low, high), optional
        Bounds that are known to hold for the region, see `Propagation.hidden`.

    Returns
    -------
    Propagation
    """
    hidden: dict[int, Interval] = {}
    lines: dict[int, Lines] = {}
    slopes: dict[int, Tensor] = {}
    low, high = region.low, region.high
    for number, layer in enumerate(network.layers):
        if not isinstance(layer, Affine):
            bounds, slopes[number], _ = _linear_bounds(network, number, lines, region)
            # Neither is always tighter: a line may leave the range of its activation.
            bounds = _intersect((low, high), bounds)
            if known is not None:
                bounds = _intersect(bounds, known[number])
            hidden[number] = low, high = bounds
            lines[number] = layer.lines(low, high)
        low, high = image(layer, low, high)
    last = len(network.layers)
    bounds, slope, rows = _linear_bounds(network, last, lines, region)
    blame = region.high - region.low
    if hidden:
        parts = [_blame(rows[k], lines[k], hidden[k], slopes[k]) for k in hidden]
        blame = blame * sum(parts)
    return Propagation(*_intersect((low, high), bounds), slope, blame, hidden)


def _blame(rows: Tensor, lines: Lines, bounds: Interval, slope: Tensor) -> Tensor:
    """Gap of the lines times its weight, per unit of each feature."""
    low, high = bounds
    middle, width = (low + high) / 2, (high - low).clamp(min=1e-300)
    gap = (lines.upper_slope - lines.lower_slope) * middle
    gap = gap + lines.upper_intercept - lines.lower_intercept
    # The second half of the rows has the same size, with the opposite sign.
    weight = rows[:, : rows.shape[1] // 2].abs().sum(1) * gap / width
    size = slope[:, : low.shape[1]].abs()
    return apply(size.transpose(1, 2), weight)


def _intersect(first: Interval, second: Interval) -> Interval:
    low = torch.maximum(first[0], second[0])
    # Never empty: rounding may cross the ends of an interval of one point.
    return low, torch.maximum(torch.minimum(first[1], second[1]), low)


def _linear_bounds(network, number, lines, region):
    """Bound the inputs of a layer, backwards and then over the region."""
    width = _width(network, number)
    unit = torch.eye(width, dtype=torch.float64)
    slope, offset, rows = backward(
        network, number, lines, torch.cat([unit, -unit])[None]
    )
    # Refined for the outputs only: each step passes over the body again.
    outputs = number == len(network.layers)
    lowest = region.lowest(slope, refine=outputs) + offset
    return (lowest[:, :width], -lowest[:, width:]), slope, rows


def _width(network: Network, number: int) -> int:
    for layer in reversed(network.layers[:number]):
        if isinstance(layer, Affine):
            return len(layer.bias)
    return network.n_features


def backward(
    network: Network,
    number: int,
    lines: dict[int, Lines],
    rows: Tensor,
    forces: dict[int, Tensor] | None = None,
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Bound linear functions of a layer's input by linear functions of the net's input.

    Parameters
    ----------
    network : Network
    number : int
        Number of the layer; the one after the last stands for the outputs.
    lines : dict of int to Lines
    rows : Tensor of shape (1 or n_parts, n_rows, width)
    forces : dict of int to Tensor of shape (n_parts, width), optional
        Added to the coefficients of what enters each activation.

    Returns
    -------
    slope : Tensor of shape (1 or n_parts, n_rows, n_features)
    offset : Tensor of shape (1 or n_parts, n_rows)
        ``rows @ z >= slope @ x + offset``; with forces, ``rows @ z`` plus the sum of
        each force times what it acts on is.
    seen : dict of int to Tensor
        The coefficients of what leaves each activation, by the number of its layer.
    """
    offset = torch.zeros(rows.shape[:2], dtype=torch.float64)
    seen = {}
    for k in reversed(range(number)):
        layer = network.layers[k]
        if isinstance(layer, Affine):
            # While the rows are the same for all parts, one matrix does both steps.
            if k + 1 in seen and len(rows) == 1 and forces is None:
                rows, part = _through_both(rows, lines[k + 1], layer)
            else:
                part = rows @ layer.bias
                rows = rows @ layer.weight
            offset = offset + part
            continue
        seen[k] = rows
        # Otherwise this activation is passed together with the affine layer before it.
        before = network.layers[k - 1] if k else None
        apart = len(rows) > 1 or forces is not None
        if apart or not isinstance(before, Affine):
            rows, part = _through_lines(rows, lines[k])
            offset = offset + part
        if forces is not None:
            rows = rows + forces[k][:, None]
    return rows, offset, seen


def _through_lines(rows: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
    # A lower bound takes the lower line where the coefficient is positive, and the
    # upper one where it is negative.
    positive = rows.clamp(min=0)
    negative = rows.clamp(max=0)
    offset = apply(positive, lines.lower_intercept)
    offset = offset + apply(negative, lines.upper_intercept)
    below = positive * lines.lower_slope[:, None]
    return below.addcmul_(negative, lines.upper_slope[:, None]), offset


def _through_both(rows: Tensor, lines: Lines, layer: Affine) -> tuple[Tensor, Tensor]:
    """Pass an activation and the affine layer before it, with the same rows for all.

    The lines multiply the layer's matrix instead of the rows, of which there are more.
    """
    signs = torch.cat([rows[0].clamp(min=0), rows[0].clamp(max=0)], 1)
    slopes = torch.cat([lines.lower_slope, lines.upper_slope], 1)
    offset = torch.cat([lines.lower_intercept, lines.upper_intercept], 1)
    augmented = torch.cat([layer.weight, layer.bias[:, None]], 1).T.repeat(1, 2)
    joint = (slopes[:, None] * augmented) @ signs.T
    joint = joint.transpose(1, 2)
    return joint[..., :-1], offset @ signs.T + joint[..., -1]
