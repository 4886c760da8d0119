"""Search for inputs with small outputs: projected gradient descent with restarts."""

from __future__ import annotations

import torch
from torch import Tensor

from sklpos.certificates.bounds.network import Network
from sklpos.certificates.domains.bodies import ConvexHull
from sklpos.certificates.domains.regions import Region

_STEPS = 60
_POLISH_ROUNDS = 30
# In half-widths of the part; the steps between them shrink geometrically.
_FIRST_STEP = 0.5
_LAST_STEP = 1e-3


def attack(
    network: Network,
    region: Region,
    *,
    restarts: int = 32,
    steps: int = _STEPS,
    seed: int = 0,
) -> Tensor:
    """Find inputs with small outputs, by projected gradient descent.

    On boxes, the steps follow the signs of the gradient (Madry et al. 2018,
    doi:10.48550/arXiv.1706.06083), on ellipsoids the gradient itself, and on hulls they
    go towards vertices. Half of the starts are extreme points.

    Parameters
    ----------
    network : Network
    region : Region
    restarts : int, default=32
        Number of starts for each part and output.
    steps : int, default=60
    seed : int, default=0
        The global random state is not used.

    Returns
    -------
    Tensor of shape (n_parts, n_outputs, n_features)
        The best points found, all inside the region.
    """
    points, values = local_minima(
        network, region, restarts=restarts, steps=steps, seed=seed
    )
    index = values.argmin(0, keepdim=True)[..., None].expand(1, *points.shape[1:])
    best = points.gather(0, index)[0].transpose(0, 1)
    return _polish(network, region, best)


def local_minima(
    network: Network,
    region: Region,
    *,
    restarts: int = 32,
    steps: int = _STEPS,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Descend from each start, see `attack`.

    Parameters
    ----------
    network, region, restarts, steps, seed
        As in `attack`.

    Returns
    -------
    points : Tensor of shape (restarts, n_outputs, n_parts, n_features)
    values : Tensor of shape (restarts, n_outputs, n_parts)
        Values of the output that was made small.
    """
    generator = torch.Generator().manual_seed(seed)
    m = network.n_outputs
    start = region.sample(restarts, generator)
    x = start[:, None].expand(-1, m, *start.shape[1:])
    best = x
    lowest = _own_outputs(network, x)
    decay = (_LAST_STEP / _FIRST_STEP) ** (1 / max(steps - 1, 1))
    for k in range(steps):
        x = region.descend(x, _gradient(network, x), _FIRST_STEP * decay**k)
        # Steps of a fixed length may overshoot, so the last point need not be the best.
        value = _own_outputs(network, x)
        better = value < lowest
        best = torch.where(better[..., None], x, best)
        lowest = torch.where(better, value, lowest)
    return best, lowest


def _polish(network: Network, region: Region, x: Tensor) -> Tensor:
    """In a hull, try points towards every row until none is better.

    Gradient steps zigzag where the minimum lies on a face (Wolfe 1970).
    """
    if not isinstance(region.body, ConvexHull):
        return x
    for _ in range(_POLISH_ROUNDS):
        points = torch.cat([x[:, :, None], region.body.neighbours(x)], dim=2)
        best = network(points).diagonal(dim1=1, dim2=3).argmin(1)
        # Point 0 is x itself.
        if not best.any():
            break
        index = best[:, :, None, None].expand(-1, -1, 1, points.shape[-1])
        x = points.gather(2, index)[:, :, 0]
    return x


def _own_outputs(network: Network, x: Tensor) -> Tensor:
    """Output j where the second axis is j, shape (restarts, n_outputs, n_parts)."""
    return network(x).diagonal(dim1=1, dim2=3).transpose(1, 2)


def _gradient(network: Network, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        # Each point enters one term of the sum, so its gradient is that of its term.
        total = _own_outputs(network, x).sum()
        return torch.autograd.grad(total, x)[0]
