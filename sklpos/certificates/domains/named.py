"""Domains by name: the range of the data, their hull, balls around them, all inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.domains.shapes import All, Ball, Box, Domain, Hull
from sklpos.nets.arrays import naming, without_torch
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.outputs import BoundedOutput

_NAMES = ("box", "hull", "ball", "all")


def make_domain(
    model: BoundedModel,
    domain: Any,
    *,
    X: ArrayLike | None = None,
    radius: ArrayLike | None = None,
    categorical: Any = None,
    margin: float | None = None,
) -> Domain:
    """Make the domain that the arguments of `certify` describe.

    Parameters
    ----------
    model : BoundedModel
    domain : {"box", "hull", "ball", "all"}, (low, high) or Domain
    X, radius, categorical, margin
        As in `certify`.

    Returns
    -------
    Domain
        In the unit of the data that the model takes.

    Raises
    ------
    ValueError
        If the domain is unknown or needs an argument that is missing.
    """
    if isinstance(domain, Domain):
        return domain
    if not isinstance(domain, str):
        return Box(*_low_and_high(domain), categorical=categorical or ())
    if domain not in _NAMES:
        raise ValueError(
            f"domain={domain!r} is unknown; choose one of {_NAMES} or pass (low, high)."
        )
    if domain in ("hull", "ball") and X is None:
        raise ValueError(f"domain={domain!r} needs X, the rows that define it.")
    if domain == "ball" and radius is None:
        raise ValueError("domain='ball' needs radius, in the unit of X.")
    if domain == "hull":
        # Repeated rows would pull the centre of the widening towards them.
        return Hull(_widened(np.unique(model.check_rows(X), axis=0), margin))
    if domain == "ball":
        return Ball(model.check_rows(X), radius)
    if domain == "all":
        return All(_n_features(model))
    return Box(*_widened(_range(model, X), margin), categorical=categorical or ())


def _range(model: BoundedModel, X: ArrayLike | None) -> NDArray:
    """Corners of the box of the training rows, or of X where these are not known."""
    # The range was taken behind the scalers; the domain is in the unit before them.
    if model.input_range is not None and model.inputs is not None:
        return np.stack(model.inputs.range_before(*model.input_range))
    if model.input_range is not None:
        return model.input_range
    if X is None:
        raise ValueError(
            "domain='box' of a bare module needs X, the rows whose range it is; or "
            "pass domain=(low, high)."
        )
    rows = model.check_rows(X)
    return np.stack([rows.min(axis=0), rows.max(axis=0)])


def _n_features(model: BoundedModel) -> int:
    if model.input_range is not None:
        return model.input_range.shape[1]
    module = model.module
    return read_network(
        module.module if type(module) is BoundedOutput else module
    ).n_features


def _widened(points: NDArray, margin: float | None) -> NDArray:
    """Move points away from their mean, by a share of the width on both sides."""
    if not margin:
        return points
    centre = points.mean(axis=0)
    return centre + (1 + 2 * margin) * (points - centre)


def _low_and_high(domain: Any) -> tuple[NDArray, NDArray]:
    try:
        low, high = domain
    except (TypeError, ValueError):
        raise ValueError(
            f"domain={domain!r} must be one of {_NAMES} or a pair (low, high)."
        ) from None
    # A list of (low, high) for each of two features unpacks as well, but wrongly.
    if isinstance(domain, list) and isinstance(low, tuple):
        raise ValueError(
            f"domain={domain!r} looks like a pair (low, high) for each feature; pass "
            "one pair of arrays, the lows of all features and their highs."
        )
    with naming("domain"):
        return tuple(np.array(without_torch(side), np.float64) for side in (low, high))
