"""Bounds per row: how far outputs can go, and how far inputs may move."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import Network, read_network
from sklpos.certificates.bounds.rounding import numerical_slack
from sklpos.certificates.domains.regions import Region
from sklpos.nets.bounds import Bounds

# Rows that are bounded together.
_CHUNK = 512
# They bring the radius to a millionth of the largest one.
_BISECTIONS = 20


def output_bounds(
    module: nn.Module, low: ArrayLike, high: ArrayLike
) -> tuple[NDArray, NDArray]:
    """Bound the predictions over a box for each row, by CROWN and intervals.

    Parameters
    ----------
    module : nn.Module
        In eval mode, with outputs in the unit of y; see `read_network`.
    low, high : array-like of shape (n_samples, n_features)
        Unit of X.

    Returns
    -------
    lower, upper : ndarray of shape (n_samples, n_outputs)
        Unit of y; every prediction in the dtype of the module lies between them. They
        are not the tightest bounds: `certify_module` finds tighter ones.

    Raises
    ------
    ValueError
        If the module is not understood, or the boxes are not valid.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(module.weight)
    >>> output_bounds(module, [[0.0], [1.0]], [[1.0], [3.0]])[1].round(6)
    array([[1.],
           [3.]])
    """
    network = read_network(module)
    low = _as_rows(low, "low", network)
    high = _as_rows(high, "high", network)
    if low.shape != high.shape:
        raise ValueError(f"low has {len(low)} rows, but high has {len(high)}.")
    wrong = (low > high).any(dim=1).nonzero()
    if len(wrong):
        raise ValueError(f"low > high in row {wrong[0].item()}.")
    chunks = zip(low.split(_CHUNK), high.split(_CHUNK), strict=True)
    found = [_proved_bounds(network, *chunk) for chunk in chunks]
    lower, upper = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return lower, upper


def certified_radius(
    module: nn.Module,
    X: ArrayLike,
    lower_bound: ArrayLike | None = 0.0,
    upper_bound: ArrayLike | None = None,
    *,
    scale: ArrayLike = 1.0,
    max_radius: float = 10.0,
) -> NDArray:
    """Find how far each row may move while its predictions are provably in bounds.

    Bisection finds the largest r for which CROWN proves the bounds over the box
    ``x - r * scale <= x' <= x + r * scale``. The true radius may be larger.

    Parameters
    ----------
    module : nn.Module
        In eval mode, with outputs in the unit of y; see `read_network`.
    X : array-like of shape (n_samples, n_features)
    lower_bound : float, array-like of shape (n_outputs,) or None, default=0.0
        Unit of y; ``-inf`` leaves an output free, None all of them.
    upper_bound : float, array-like of shape (n_outputs,) or None, default=None
        Unit of y; ``inf`` leaves an output free, None all of them.
    scale : float or array-like of shape (n_features,), default=1.0
        Unit in which each feature moves, such as its standard deviation.
    max_radius : float, default=10.0
        Largest radius that is tried, in scales.

    Returns
    -------
    ndarray of shape (n_samples,)
        In scales; 0 if the bounds are not proved for the row itself.

    Raises
    ------
    ValueError
        If the module, X or the parameters are not valid.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(module.weight)
    >>> certified_radius(module, [[1.0], [-1.0], [99.0]]).round(4)
    array([ 1.,  0., 10.])
    """
    network = read_network(module)
    X = _as_rows(X, "X", network)
    if not max_radius > 0:
        raise ValueError(f"max_radius={max_radius!r} must be positive.")
    unit = torch.as_tensor(np.array(scale, dtype=np.float64))
    if unit.shape not in ((), (1,), (network.n_features,)) or not (unit >= 0).all():
        raise ValueError(
            f"scale={scale!r} must be non-negative: one number, or one for each of the "
            f"{network.n_features} features."
        )
    bounds = Bounds.read(lower_bound, upper_bound, network.n_outputs)
    radii = [_bisect(network, x, bounds, unit, max_radius) for x in X.split(_CHUNK)]
    return torch.cat(radii).numpy()


def _bisect(network, X, bounds, unit, max_radius) -> Tensor:
    def holds(radius):
        reach = radius[:, None] * unit
        proved = _proved_bounds(network, X - reach, X + reach)
        within = [bounds.contain(side.numpy()).all(axis=1) for side in proved]
        return torch.as_tensor(np.logical_and(*within))

    proved = X.new_zeros(len(X))
    refuted = X.new_full((len(X),), max_radius)
    # Where the largest radius holds, both ends are equal and bisection changes nothing.
    proved = torch.where(holds(refuted), refuted, proved)
    for _ in range(_BISECTIONS):
        middle = (proved + refuted) / 2
        held = holds(middle)
        proved = torch.where(held, middle, proved)
        refuted = torch.where(held, refuted, middle)
    return proved


def _proved_bounds(network: Network, low: Tensor, high: Tensor):
    found = crown_bounds(network, Region(low, high))
    slack = numerical_slack(network, low, high, found.hidden)
    return found.lower - slack, found.upper + slack


def _as_rows(values: ArrayLike, name: str, network: Network) -> Tensor:
    rows = np.array(values, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(
            f"{name} must have shape (n_samples, n_features); got {rows.shape}."
        )
    if rows.shape[1] != network.n_features:
        raise ValueError(
            f"{name} has {rows.shape[1]} features, but the module takes "
            f"{network.n_features}."
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return torch.as_tensor(rows)
