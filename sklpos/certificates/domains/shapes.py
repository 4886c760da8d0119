"""The sets of inputs that a certificate can be about, in the unit of X."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklpos.certificates.domains.bodies import ConvexHull, Ellipsoid, hull_surface
from sklpos.certificates.domains.domain import Domain
from sklpos.certificates.domains.regions import Region
from sklpos.docstrings import complete_docstrings
from sklpos.nets.floats import as_floats
from sklpos.nets.hints import literal, shown

_MAX_COMBINATIONS = 100_000


@complete_docstrings
@dataclass(frozen=True, eq=False)
class Box(Domain):
    """All inputs between two corners, where some features may be categorical.

    Parameters
    ----------
    low, high : array-like of shape (n_features,)
        Unit of X.
    categorical : sequence, optional
        Each entry is a feature that takes integer values only (an int), or a group of
        one-hot features, exactly one of which is 1 (a sequence of ints). The box is
        then split into one part for each combination.
    names : sequence of str, optional
        Of the features, to print.

    Examples
    --------
    >>> Box([0, 0], [1, 2])
    Box(2 features: 0 to 1, 0 to 2)
    >>> len(Box([0, 0, 0], [1, 1, 9], categorical=[(0, 1), 2]).region())
    20
    """

    low: NDArray
    high: NDArray
    categorical: tuple = ()
    names: tuple[str, ...] | None = None

    def __init__(self, low: ArrayLike, high: ArrayLike, categorical=(), names=None):
        low, high = _numbers(low, "low", 1), _numbers(high, "high", 1)
        if low.shape != high.shape:
            raise ValueError(
                f"low has {len(low)} features, but high has {len(high)}; pass "
                "one number per feature in each."
            )
        wrong = np.flatnonzero(low > high)
        if wrong.size:
            k = wrong[0]
            raise ValueError(
                f"low > high for feature {k} of the domain: {low[k]} > {high[k]}; pass "
                "the corner of the smallest values first."
            )
        groups = tuple(_as_group(group, len(low)) for group in categorical)
        names = None if names is None else tuple(names)
        _set(self, low=low, high=high, categorical=groups, names=names)
        # Too many combinations raise here, not later in the middle of a proof.
        self._choices()

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.low)

    def region(self) -> Region:
        """One box for each combination of categories."""
        low, high = np.atleast_2d(self.low), np.atleast_2d(self.high)
        for group, values in self._choices():
            low, high = (np.repeat(side, len(values), axis=0) for side in (low, high))
            tiled = np.tile(values, (len(low) // len(values), 1))
            # Fixed in each part: the box has no width along these features.
            low[:, group] = tiled
            high[:, group] = tiled
        return Region(_tensor(low), _tensor(high))

    def _choices(self) -> list[tuple[list[int], NDArray]]:
        """Features fixed together, and the rows of values that they may take."""
        choices = [(list(group), self._values(group)) for group in self.categorical]
        sizes = [len(values) for _, values in choices]
        if 0 in sizes:
            group = self.categorical[sizes.index(0)]
            raise ValueError(f"the box leaves no value for categorical {list(group)}.")
        # In floating point: the product of many integers would wrap around.
        if np.prod([1, *sizes], dtype=float) > _MAX_COMBINATIONS:
            raise ValueError(
                f"categorical makes more than {_MAX_COMBINATIONS} combinations; leave "
                "some features continuous."
            )
        return choices

    def _values(self, group) -> NDArray:
        low, high = self.low[list(group)], self.high[list(group)]
        if len(group) > 1:
            rows = np.eye(len(group))
            return rows[((rows >= low) & (rows <= high)).all(axis=1)]
        first, last = np.ceil(low[0]), np.floor(high[0])
        # One more than allowed fails the check, before a wide range fills the memory.
        count = min(max(last - first + 1, 0), _MAX_COMBINATIONS + 1)
        return first + np.arange(int(count))[:, None]

    def __repr__(self) -> str:
        grouped = {j for group in self.categorical if len(group) > 1 for j in group}
        labels = [""] * self.n_features
        if self.names is not None:
            labels = [f"{literal(name)} " for name in self.names]
        sides = [
            f"{labels[j]}{self.low[j]:.4g} to {self.high[j]:.4g}"
            for j in range(self.n_features)
            if self.names is None or j not in grouped
        ]
        sides[4:] = ["..."] if len(sides) > 4 else []
        groups = f", {len(self.categorical)} categorical" if self.categorical else ""
        return f"Box({self.n_features} features: {', '.join(sides)}{groups})"


@complete_docstrings
@dataclass(frozen=True, eq=False)
class Hull(Domain):
    """The convex hull of rows: all weighted means of them.

    Parameters
    ----------
    points : array-like of shape (n_samples, n_features)
        Unit of X.

    Examples
    --------
    >>> Hull([[0, 0], [1, 0], [0, 1]])
    Hull(3 rows, 2 features)
    """

    points: NDArray

    def __init__(self, points: ArrayLike):
        _set(self, points=_numbers(points, "points", 2))

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.points.shape[1]

    def region(self) -> Region:
        """Convert the hull to one part, inside its bounding box."""
        points, facets = hull_surface(np.unique(self.points, axis=0))
        points = _tensor(points)
        low, high = points.amin(0, keepdim=True), points.amax(0, keepdim=True)
        return Region(low, high, ConvexHull(points, facets))

    def __repr__(self) -> str:
        return f"Hull({len(self.points)} rows, {self.n_features} features)"


@complete_docstrings
@dataclass(frozen=True, eq=False)
class Ball(Domain):
    """A ball around each row; the certificate has a verdict for each of them.

    Parameters
    ----------
    center : array-like of shape (n_samples, n_features)
        Unit of X.
    radius : float or array-like of shape (n_features,)
        Unit of X; a vector stretches the ball, for instance 0.25 standard deviations.
    norm : {"linf", "l2"}, default="linf"
        Boxes ("linf") or ellipsoids ("l2").

    Examples
    --------
    >>> Ball([[0.0, 0.0], [1.0, 0.0]], radius=0.1)
    Ball(2 rows, 2 features, linf)
    """

    center: NDArray
    radius: NDArray
    norm: Literal["linf", "l2"] = "linf"

    def __init__(self, center: ArrayLike, radius: ArrayLike, norm="linf"):
        center = _numbers(center, "center", 2)
        radius = _numbers(np.atleast_1d(radius), "radius", 1)
        if len(radius) not in (1, center.shape[1]) or (radius < 0).any():
            raise ValueError(
                f"radius={shown(radius.tolist())} must be non-negative: one number, or "
                f"one for each of the {center.shape[1]} features."
            )
        if norm not in ("linf", "l2"):
            raise ValueError(f"norm={norm!r} must be 'linf' or 'l2'.")
        radius = np.broadcast_to(radius, center.shape[1:])
        _set(self, center=center, radius=radius, norm=norm)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.center.shape[1]

    def region(self) -> Region:
        """One part for each row."""
        center, radius = _tensor(self.center), _tensor(self.radius)
        round_body = Ellipsoid(center, radius.expand(center.shape))
        body = round_body if self.norm == "l2" else None
        return Region(center - radius, center + radius, body)

    def __repr__(self) -> str:
        return "Ball({} rows, {} features, {})".format(*self.center.shape, self.norm)


@complete_docstrings
@dataclass(frozen=True, eq=False)
class All(Domain):
    """Every real input.

    Parameters
    ----------
    n_features : int

    Examples
    --------
    >>> All(3)
    All(3 features)
    """

    n_features: int = 1

    def region(self) -> Region:
        """One infinite box."""
        high = torch.full((1, self.n_features), torch.inf, dtype=torch.float64)
        return Region(-high, high)

    def __repr__(self) -> str:
        return f"All({self.n_features} features)"


def _set(instance, **values) -> None:
    # The instances are frozen, so that a certificate keeps its domain.
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _tensor(array: NDArray) -> Tensor:
    return torch.tensor(array, dtype=torch.float64)


def _numbers(values: ArrayLike, name: str, ndim: int) -> NDArray:
    """Validate a finite float64 array with the right number of dimensions."""
    array = as_floats(values, name)
    shape = {1: "(n_features,)", 2: "(n_samples, n_features)"}[ndim]
    if array.ndim != ndim or not array.size:
        raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    # A copy that cannot change: a certificate refers to these numbers.
    array.flags.writeable = False
    return array


def _as_group(group, n_features: int) -> tuple[int, ...]:
    many = isinstance(group, Sequence | np.ndarray) and not isinstance(group, str)
    members = tuple(group) if many else (group,)
    numbers = all(isinstance(member, int | np.integer) for member in members)
    if not numbers or not all(0 <= member < n_features for member in members):
        raise ValueError(
            f"categorical={shown(group)} must name features by numbers from 0 to "
            f"{n_features - 1}."
        )
    return members
