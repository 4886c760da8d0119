"""CROWN with the best slopes: alpha-CROWN.

Source: Xu et al. (2021), doi:10.48550/arXiv.2011.13824.
"""

from __future__ import annotations

import time
from math import inf

import torch
from torch import Tensor

from sklpos.certificates.bounds.crown import Interval, backward
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.bounds.relaxations import Lines
from sklpos.certificates.domains.regions import Region

_STEPS = 30
# Bounds of one part that are improved together.
_CHUNK = 128
# Of a mix, which goes from 0 to 1.
_FIRST_STEP = 0.5


def alpha_crown_bounds(
    network: Network,
    region: Region,
    hidden: dict[int, Interval],
    *,
    steps: int = _STEPS,
    deadline: float = inf,
) -> Tensor:
    """Tighten the bounds of hidden units, layer by layer, and bound the outputs.

    Each bound of each unit has its own slopes (see `ascend`), so none is loosened for
    the sake of another.

    Parameters
    ----------
    network : Network
    region : Region
    hidden : dict of int to (low, high)
        Bounds of what enters the activations, see `Propagation.hidden`.
    steps : int, default=30
    deadline : float, default=inf
        See `tightened`.

    Returns
    -------
    Tensor of shape (n_parts, n_outputs)
        Lower bounds.
    """
    tight = tightened(network, region, hidden, steps=steps, deadline=deadline)
    return raised_bounds(network, region, tight, steps=steps)


def tightened(
    network: Network,
    region: Region,
    hidden: dict[int, Interval],
    *,
    steps: int = _STEPS,
    deadline: float = inf,
) -> dict[int, Interval]:
    """Tighten the bounds of hidden units, layer by layer, by `ascend`.

    Parameters
    ----------
    network : Network
    region : Region
    hidden : dict of int to (low, high)
        Bounds of what enters the activations, see `Propagation.hidden`.
    steps : int, default=30
    deadline : float, default=inf
        In the time of `time.monotonic`. After it, a single step is made for each unit.

    Returns
    -------
    dict of int to (low, high)
    """
    tight: dict[int, Interval] = {}
    for number, (low, high) in hidden.items():
        # Before the first activation everything is linear, and its bounds are exact.
        if tight:
            unit = torch.eye(low.shape[1], dtype=torch.float64)
            bounds = []
            for rows in torch.cat([unit, -unit]).split(_CHUNK):
                count = steps if time.monotonic() < deadline else 1
                bounds.append(ascend(network, number, rows, region, tight, steps=count))
            below, above = torch.cat(bounds, dim=1).chunk(2, dim=1)
            low = torch.maximum(low, below)
            # Rounding may cross the ends of a narrow interval.
            high = torch.maximum(low, torch.minimum(high, -above))
        tight[number] = low, high
    return tight


def raised_bounds(
    network: Network,
    region: Region,
    hidden: dict[int, Interval],
    *,
    steps: int = _STEPS,
) -> Tensor:
    """Bound the outputs by `ascend`, without tightening the bounds of hidden units.

    For ReLU networks, the limit is the minimum over the triangles that contain the
    graphs of the activations (a linear programme).

    Parameters
    ----------
    network : Network
    region : Region
    hidden : dict of int to (low, high)
    steps : int, default=30

    Returns
    -------
    Tensor of shape (n_parts, n_outputs)
    """
    rows = torch.eye(network.n_outputs, dtype=torch.float64)
    return ascend(network, len(network.layers), rows, region, hidden, steps=steps)


def ascend(
    network: Network,
    number: int,
    rows: Tensor,
    region: Region,
    hidden: dict[int, Interval],
    *,
    steps: int = _STEPS,
) -> Tensor:
    """Bound linear functions of the input of a layer, with the best slopes found.

    Where an activation admits several lines, any choice is sound, so gradient ascent
    on the choices gives a proved bound at every step, of which the best is returned.
    From CROWN's choice, steps go along the signs of the gradient, by 1/2, 1/4, 1/6,
    ..., and are cut off at the ends. (Adam, as in the source, was nearer to the optimum
    on some networks, farther on others, and slower.)

    Parameters
    ----------
    network : Network
    number : int
        Number of the layer; the one after the last stands for the outputs.
    rows : Tensor of shape (n_rows, width)
        Coefficients of the functions.
    region : Region
    hidden : dict of int to (low, high)
        Bounds of what enters the activations before the layer.
    steps : int, default=30

    Returns
    -------
    Tensor of shape (n_parts, n_rows)
        Lower bounds.
    """
    shape = len(region), len(rows)
    families = {
        k: network.layers[k].family(low[:, None], high[:, None])
        for k, (low, high) in hidden.items()
    }
    mixes = {
        k: network.layers[k].usual_mix(low, high)[:, None].repeat(1, len(rows), 1)
        for k, (low, high) in hidden.items()
    }
    # A batch of one row each, as `backward` shares the lines among the rows of a batch.
    rows = rows.repeat(len(region), 1)[:, None]

    def bounds(mixes: dict[int, Tensor]) -> Tensor:
        lines = {k: _flat(families[k](mix)) for k, mix in mixes.items()}
        slope, offset, _ = backward(network, number, lines, rows)
        return region.lowest(slope.view(*shape, -1)) + offset.view(shape)

    if not mixes:
        return bounds(mixes)
    best = torch.tensor(-torch.inf, dtype=torch.float64)
    for k in range(steps):
        # Signed steps may overshoot, so the best bound is kept and not the last.
        value, mixes = _step(bounds, mixes, _FIRST_STEP / (k + 1))
        best = torch.maximum(best, value)
    return best


def _step(bounds, mixes, size):
    """Compute the bounds, and mixes that should give higher ones."""
    with torch.enable_grad():
        free = {k: mix.requires_grad_() for k, mix in mixes.items()}
        value = bounds(free)
        # No two bounds share a mix, so the gradient of the sum has that of each.
        gradients = torch.autograd.grad(value.sum(), list(free.values()))
    moved = {
        k: (mix.detach() + size * gradient.sign()).clamp(0, 1)
        for (k, mix), gradient in zip(free.items(), gradients, strict=True)
    }
    return value.detach(), moved


def _flat(lines: Lines) -> Lines:
    """From (n_parts, n_rows, width) to (n_parts * n_rows, width)."""
    return Lines(*(part.flatten(0, 1) for part in torch.broadcast_tensors(*lines)))
