"""Bounds per row: how far outputs can go, and how far inputs may move."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.bounds.rounding import numerical_slack
from sklpos.certificates.certify import network_of
from sklpos.certificates.domains.regions import Region
from sklpos.nets.bounded import BoundedModel, as_bounded_model
from sklpos.nets.floats import as_floats
from sklpos.nets.hints import shown
from sklpos.nets.process import leaves_no_trace
from sklpos.nets.rules import Number, check_rules

# Rows that are bounded together.
_CHUNK = 512
# They bring the radius to a millionth of the largest one.
_BISECTIONS = 20


@leaves_no_trace
def output_bounds(
    model: Any, X_low: ArrayLike, X_high: ArrayLike
) -> tuple[NDArray, NDArray]:
    """Bound the predictions over a box for each row, by CROWN and intervals.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, search or nn.Module
        Fitted; see `certify` for the steps that a Pipeline may have.
    X_low, X_high : array-like of shape (n_samples, n_features)
        In the unit of the data that the model takes.

    Returns
    -------
    lower, upper : ndarray of shape (n_samples, n_outputs)
        Unit of y; every prediction in the dtype of the module lies between them. They
        are not the tightest bounds: `certify` finds tighter ones for a single box.

    Raises
    ------
    ValueError
        If the model is not understood, or the boxes are not valid.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(module.weight)
    >>> output_bounds(module, [[0.0], [1.0]], [[1.0], [3.0]])[1].round(6)
    array([[1.],
           [3.]])
    """
    bounded = as_bounded_model(model)
    network = network_of(bounded)
    low = _as_rows(bounded, X_low, "X_low", network)
    high = _as_rows(bounded, X_high, "X_high", network)
    if low.shape != high.shape:
        raise ValueError(f"X_low has {len(low)} rows, but X_high has {len(high)}.")
    _check_categories(bounded, low, high)
    wrong = (low > high).any(dim=1).nonzero()
    if len(wrong):
        raise ValueError(f"X_low > X_high in row {wrong[0].item()}.")
    chunks = zip(low.split(_CHUNK), high.split(_CHUNK), strict=True)
    found = [_proved_bounds(network, *chunk) for chunk in chunks]
    lower, upper = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return lower, upper


@leaves_no_trace
def certified_radius(
    model: Any,
    X: ArrayLike,
    lower_bound: ArrayLike | None = None,
    upper_bound: ArrayLike | None = None,
    *,
    scale: ArrayLike | None = None,
    max_radius: float = 10.0,
) -> NDArray:
    """Find how far each row may move while its predictions are provably in bounds.

    Bisection finds the largest r for which CROWN proves the bounds over the box
    ``x - r * scale <= x' <= x + r * scale``. The true radius may be larger.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, search or nn.Module
        Fitted; see `certify` for the steps that a Pipeline may have.
    X : array-like of shape (n_samples, n_features)
        In the unit of the data that the model takes.
    lower_bound, upper_bound : float or array-like of shape (n_outputs,), optional
        Unit of y; ``-inf`` and ``inf`` leave an output free. By default the bounds that
        the model was fitted with; for a module, 0 and no upper one.
    scale : float or array-like of shape (n_features,), optional
        Unit in which each feature moves, such as its standard deviation; 0 holds one
        still. By default 1, in the unit of X.
    max_radius : float, default=10.0
        Largest radius that is tried, in scales.

    Returns
    -------
    ndarray of shape (n_samples,)
        In scales; 0 if the bounds are not proved for the row itself.

    Raises
    ------
    ValueError
        If the model, X or the parameters are not valid.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(module.weight)
    >>> certified_radius(module, [[1.0], [-1.0], [99.0]]).round(4)
    array([ 1.,  0., 10.])
    """
    bounded = as_bounded_model(model)
    network = network_of(bounded)
    X = _as_rows(bounded, X, "X", network)
    check_rules({"max_radius": max_radius}, {"max_radius": Number(above=True)})
    scale = as_floats(1.0 if scale is None else scale, "scale")
    if bounded.columns is not None:
        scale = bounded.columns.spread(scale, "scale")
    unit = torch.as_tensor(scale)
    if unit.shape not in ((), (1,), (network.n_features,)) or not (unit >= 0).all():
        raise ValueError(
            f"scale={shown(scale)} must be non-negative: one number, or one for each "
            f"of the {network.n_features} features."
        )
    bounds = bounded.bounds.for_outputs(network.n_outputs, lower_bound, upper_bound)
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


def _check_categories(model: BoundedModel, low: Tensor, high: Tensor) -> None:
    for group in () if model.columns is None else model.columns.groups:
        wrong = (low[:, group] != high[:, group]).any(dim=1).nonzero()
        if len(wrong):
            raise ValueError(
                "X_low and X_high have different categories in row "
                f"{wrong[0].item()}; a box of a row has one of each column."
            )


def _as_rows(
    model: BoundedModel, values: ArrayLike, name: str, network: Network
) -> Tensor:
    rows = model.check_rows(values, name)
    if rows.shape[1] != network.n_features:
        raise ValueError(
            f"{name} has {rows.shape[1]} features, but the module takes "
            f"{network.n_features}."
        )
    return torch.as_tensor(rows)
