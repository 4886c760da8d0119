"""Bounds of a network's values: by intervals, and by linear bounds (CROWN).

Sources: Gowal et al. (2018), doi:10.48550/arXiv.1810.12715 (intervals); Zhang et al.
(2018), doi:10.48550/arXiv.1811.00866 (CROWN); Xu et al. (2021),
doi:10.48550/arXiv.2011.13824 (optimised slopes, alpha-CROWN).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklpos.certificates.layers import Affine, Network
from sklpos.certificates.regions import Region, apply
from sklpos.certificates.relaxations import Relaxation

Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Propagation:
    """What bound propagation found over each part of a region.

    Attributes
    ----------
    lower, upper : Tensor of shape (n_parts, n_outputs)
    slope : Tensor of shape (1 or n_parts, 2 * n_outputs, n_features)
        Coefficients of the linear lower bounds of the outputs, then of their negatives.
    hidden : dict of int to (low, high)
        Bounds of what enters each activation, by the number of its layer.
    """

    lower: Tensor
    upper: Tensor
    slope: Tensor
    hidden: dict[int, Interval]


def interval_bounds(network: Network, low: Tensor, high: Tensor) -> Interval:
    """Return bounds of the outputs over boxes, by interval arithmetic.

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
    """Return bounds of what one layer makes of boxes.

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
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        return _infinite_image(layer, low, high)
    center = layer((low + high) / 2)
    radius = (high - low) / 2 @ layer.weight.abs().T
    return center - radius, center + radius


def _infinite_image(layer: Affine, low: Tensor, high: Tensor) -> Interval:
    """Interval of an affine map where ``0 * inf`` is 0."""
    ends = torch.stack([low, high])[:, :, None, :] * layer.weight
    ends = torch.where(layer.weight == 0, 0.0, ends)
    return (
        ends.amin(0).sum(-1) + layer.bias,
        ends.amax(0).sum(-1) + layer.bias,
    )


def crown_bounds(
    network: Network,
    region: Region,
    known: dict[int, Interval] | None = None,
) -> Propagation:
    """Return bounds of the outputs by linear bounds, intersected with intervals.

    Each activation is put between two lines; going backwards, the outputs are bounded
    by linear functions of the input, whose minima over the region are known. What
    enters the activations is bounded in the same way, first layers first.

    Parameters
    ----------
    network : Network
    region : Region
    known : dict of int to (low, high), optional
        Bounds that hold for the whole region already, see `Propagation.hidden`.

    Returns
    -------
    Propagation
    """
    hidden: dict[int, Interval] = {}
    lines: dict[int, tuple] = {}
    low, high = region.low, region.high
    for number, layer in enumerate(network.layers):
        if not isinstance(layer, Affine):
            bounds = low, high
            if number > 1 or region.body is not None:  # else intervals are exact
                bounds = _intersect(bounds, _by_lines(network, number, lines, region))
            if known is not None:
                bounds = _intersect(bounds, known[number])
            hidden[number] = low, high = bounds
            lines[number] = layer.lines(low, high)
        low, high = image(layer, low, high)
    last = len(network.layers)
    bounds, slope = _linear_bounds(network, last, lines, region)
    return Propagation(*_intersect((low, high), bounds), slope, hidden)


def _intersect(first: Interval, second: Interval) -> Interval:
    low = torch.maximum(first[0], second[0])
    return low, torch.maximum(torch.minimum(first[1], second[1]), low)


def _by_lines(network, number, lines, region) -> Interval:
    return _linear_bounds(network, number, lines, region)[0]


def _linear_bounds(network, number, lines, region) -> tuple[Interval, Tensor]:
    """Bound what enters a layer: backwards, then over the region."""
    width = _width(network, number)
    unit = torch.eye(width, dtype=torch.float64)
    slope, offset = backward(network, number, lines, torch.cat([unit, -unit])[None])
    lowest = region.lowest(slope) + offset
    return (lowest[:, :width], -lowest[:, width:]), slope


def _width(network: Network, number: int) -> int:
    for layer in reversed(network.layers[:number]):
        if isinstance(layer, Affine):
            return len(layer.bias)
    return network.n_features


def backward(
    network: Network, number: int, lines: dict[int, tuple], rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Bound linear functions of what enters a layer by linear functions of the input.

    Parameters
    ----------
    network : Network
    number : int
        Number of the layer; that after the last stands for the outputs.
    lines : dict of int to Lines
    rows : Tensor of shape (1 or n_parts, n_rows, width)

    Returns
    -------
    slope : Tensor of shape (1 or n_parts, n_rows, n_features)
    offset : Tensor of shape (1 or n_parts, n_rows)
        ``rows @ z >= slope @ x + offset``.
    """
    offset = torch.zeros(rows.shape[:2], dtype=torch.float64)
    for k in reversed(range(number)):
        layer = network.layers[k]
        if isinstance(layer, Affine):
            offset = offset + rows @ layer.bias
            rows = rows @ layer.weight
        else:
            rows, part = _through_lines(rows, lines[k])
            offset = offset + part
    return rows, offset


def _through_lines(rows: Tensor, lines) -> tuple[Tensor, Tensor]:
    positive, negative = rows.clamp(min=0), rows.clamp(max=0)
    offset = apply(positive, lines.lower_intercept)
    offset = offset + apply(negative, lines.upper_intercept)
    below = positive * lines.lower_slope[:, None]
    return below + negative * lines.upper_slope[:, None], offset
