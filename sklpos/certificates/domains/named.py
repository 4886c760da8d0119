"""Domains by name: the range of the data, their hull, balls around them, all inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.domains.shapes import All, Ball, Box, Domain, Hull
from sklpos.nets.arrays import naming
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.columns import Columns
from sklpos.nets.hints import did_you_mean, shown
from sklpos.nets.outputs import BoundedOutput
from sklpos.nets.rules import Number, check_rules
from sklpos.nets.values import as_plain

# Combinations of categories that a box is split into from the start.
_MAX_PARTS = 10_000
# What describes each domain further; a box may be given by its corners.
_USED = {
    "box": ("categorical", "margin"),
    "hull": ("margin",),
    "ball": ("radius",),
    "all": (),
    "": ("categorical",),
}
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
    _refuse_unused(domain, radius=radius, categorical=categorical, margin=margin)
    if isinstance(domain, Domain):
        return domain
    if categorical is not None and not _is_sequence(categorical):
        raise ValueError(
            f"categorical={shown(categorical)} must be a sequence of columns, by "
            "position or name, and of groups of these."
        )
    if model.input_range is not None and model.input_range.ndim > 2:
        raise ValueError(
            "a domain needs X of shape (n_samples, n_features), but the model was "
            f"trained on rows of shape {model.input_range.shape[1:]}."
        )
    columns = model.columns or Columns(())
    names = columns.names if columns.named or columns.groups else None
    if categorical is not None and model.columns is not None:
        categorical = [columns.find(entry) for entry in categorical]
    groups = (*_few(columns.groups), *(categorical or ()))
    if not isinstance(domain, str):
        return Box(*_corners(columns, domain), categorical=groups, names=names)
    if domain not in _NAMES:
        listed = f"; choose one of {_NAMES} or pass (low, high)."
        raise ValueError(
            f"domain={shown(domain)} is unknown{did_you_mean(domain, _NAMES) or listed}"
        )
    if margin is not None:
        check_rules({"margin": margin}, {"margin": Number(most=1e6)})
    if domain in ("hull", "ball") and X is None:
        raise ValueError(f"domain={domain!r} needs X, the rows that define it.")
    if domain == "ball" and radius is None:
        raise ValueError("domain='ball' needs radius, in the unit of X.")
    if domain == "hull" and columns.groups:
        mixed = next(c.name for c in columns.columns if c.categories is not None)
        raise ValueError(
            "domain='hull' mixes rows, but a mixture of categories is none, as in "
            f"column {mixed!r}; use domain='box' or 'ball'."
        )
    if domain == "hull":
        # Repeated rows would pull the centre of the widening towards them.
        return Hull(_widened(np.unique(model.check_rows(X), axis=0), margin))
    if domain == "ball":
        return Ball(model.check_rows(X), columns.spread(radius))
    if domain == "all":
        return All(_n_features(model))
    corners = _widened(_range(model, X), margin)
    return Box(*corners, categorical=groups, names=names)


def _refuse_unused(domain: Any, **given: Any) -> None:
    """Refuse what would be ignored: the promise would not be the one asked for."""
    if isinstance(domain, str) and domain not in _NAMES:
        return
    named = domain if isinstance(domain, str) else ""
    used = _USED[named] if not isinstance(domain, Domain) else ()
    for name, value in given.items():
        if value is not None and name not in used:
            owners = [f"domain={key!r}" for key, own in _USED.items() if name in own]
            what = f"domain={named!r}" if named else "the domain that was passed"
            raise ValueError(
                f"{name}={shown(value)} has no meaning for {what}; it belongs to "
                f"{' or '.join(owners).replace(repr(''), '(low, high)')}."
            )


def _range(model: BoundedModel, X: ArrayLike | None) -> NDArray:
    """Corners of the box of the training rows, or of X where these are not known."""
    known = model.input_range
    # The range was taken behind the steps; the domain is in the unit before them.
    if known is not None and model.inputs is not None:
        known = np.stack(model.inputs.range_before(*known))
        for group in model.columns.groups if model.columns is not None else ():
            # Every category is within the range.
            known[:, list(group)] = [[0.0], [1.0]]
    if known is not None and not np.isnan(known).any():
        return known
    if X is None:
        mixed = "of a pipeline with a step that mixes features"
        what = "of a bare module" if known is None else mixed
        raise ValueError(
            f"domain='box' {what} needs X, the rows whose range it is; or pass "
            "domain=(low, high)."
        )
    rows = model.check_rows(X)
    rows = np.stack([rows.min(axis=0), rows.max(axis=0)])
    return rows if known is None else np.where(np.isnan(known), rows, known)


def _few(groups: tuple) -> list[tuple[int, ...]]:
    """Groups with few combinations; the others stay continuous, which proves more."""
    few: list[tuple[int, ...]] = []
    for group in sorted(groups, key=len):
        if math.prod(map(len, [*few, group])) <= _MAX_PARTS:
            few.append(group)
    return sorted(few)


def _corners(columns: Columns, domain: Any) -> tuple[NDArray, NDArray]:
    """Corners of a box, given as two rows of the data or two vectors of features."""
    low, high = _pair(domain)
    plain = not any(hasattr(side, "keys") for side in (low, high))
    widths = {len(low), len(high)} if plain else set()
    if plain and (columns.are_features or widths == {columns.n_features}):
        sides = [as_plain(side, "domain") for side in (low, high)]
        with naming("domain"):
            return tuple(np.array(side, np.float64) for side in sides)
    return tuple(columns.corners(low, high))


def _n_features(model: BoundedModel) -> int:
    if model.inputs is not None:
        return model.inputs.n_features
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


def _is_sequence(values: Any) -> bool:
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    return listed or (isinstance(values, np.ndarray) and values.ndim > 0)


def _pair(domain: Any) -> tuple[Any, Any]:
    try:
        low, high = domain
    # A tensor has errors of its own.
    except (TypeError, ValueError, RuntimeError):
        low = high = None
    if not all(hasattr(side, "keys") or np.ndim(side) for side in (low, high)):
        raise ValueError(
            f"domain={shown(domain)} must be one of {_NAMES} or a pair (low, high)."
        )
    # A list of (low, high) for each of two features unpacks as well, but wrongly.
    if isinstance(domain, list) and isinstance(low, tuple):
        raise ValueError(
            f"domain={shown(domain)} looks like a pair (low, high) for each feature; "
            "pass one pair of arrays, the lows of all features and their highs."
        )
    return low, high
