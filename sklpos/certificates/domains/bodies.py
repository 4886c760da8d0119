"""Convex bodies inside boxes: ellipsoids, and hulls of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_MOST_ROWS = 1000  # of a hull, tried as directions
_SEPARATION_STEPS = 20


def apply(coefficients: Tensor, points: Tensor) -> Tensor:
    """Multiply matrices and vectors of a batch.

    Parameters
    ----------
    coefficients : Tensor of shape (1 or n_parts, n_rows, n)
    points : Tensor of shape (1 or n_parts, n)

    Returns
    -------
    Tensor of shape (n_parts, n_rows)
    """
    if len(coefficients) == 1:
        return points @ coefficients[0].T
    return (coefficients @ points[..., None]).squeeze(-1)


def box_candidates(slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the center, and the corner where a linear function is smallest.

    Parameters
    ----------
    slope, low, high : Tensor of shape (n_parts, n_features)

    Returns
    -------
    Tensor of shape (2, n_parts, n_features)
    """
    return torch.stack([(low + high) / 2, torch.where(slope > 0, low, high)])


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """``sum(((x - center) / radius)**2) <= 1``, one for each part.

    Attributes
    ----------
    center, radius : Tensor of shape (n_parts, n_features)
    """

    center: Tensor
    radius: Tensor

    def take(self, index: Tensor) -> Ellipsoid:
        """Return some of the parts."""
        return Ellipsoid(self.center[index], self.radius[index])

    def joined(self, other: Ellipsoid) -> Ellipsoid:
        """Return the parts of both."""
        return Ellipsoid(
            torch.cat([self.center, other.center]),
            torch.cat([self.radius, other.radius]),
        )

    def candidates(self, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return points of the body near those of each box, see `Region`."""
        points = box_candidates(slope, low, high)
        return self.descend(points, torch.zeros_like(points), 0.0)

    def lowest(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the minima of linear functions, ``a c - ||a * r||``, and where."""
        scaled = coefficients * self.radius[:, None]
        reach = scaled.norm(dim=-1)
        unit = scaled / reach.clamp(min=1e-300)[..., None]
        where = self.center[:, None] - self.radius[:, None] * unit
        return apply(coefficients, self.center) - reach, where

    def spread(self) -> Tensor:
        """Return the extent along each feature, shape (n_parts, n_features)."""
        return 2 * self.radius

    def misses(self, low: Tensor, high: Tensor) -> Tensor:
        """Return which parts do not meet their box."""
        nearest = torch.minimum(torch.maximum(self.center, low), high)
        safe = torch.where(self.radius > 0, self.radius, 1.0)
        return ((nearest - self.center) / safe).norm(dim=-1) > 1 + 1e-9

    def descend(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Step against the gradient in the metric of the ellipsoid, and project."""
        scaled = gradient * self.radius
        length = scaled.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        away = x - step * self.radius * scaled / length - self.center
        safe = torch.where(self.radius > 0, self.radius, 1.0)
        excess = (away / safe).norm(dim=-1, keepdim=True).clamp(min=1)
        return self.center + away / excess

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return points (count, n_parts, n_features), half of them on the surface."""
        shape = (count, *self.center.shape)
        direction = torch.randn(shape, generator=generator, dtype=torch.float64)
        direction = direction / direction.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        length = torch.rand((*shape[:2], 1), generator=generator, dtype=torch.float64)
        length[::2] = 1
        return self.center + self.radius * direction * length


@dataclass(frozen=True, eq=False)
class ConvexHull:
    """The convex hull of rows, the same for each part.

    Attributes
    ----------
    points : Tensor of shape (n_points, n_features)
    facets : Tensor of shape (n_facets, n_features + 1) or None
        The points obey ``normal @ (x - origin) + offset <= 0``, up to rounding, if
        known.
    """

    points: Tensor
    facets: Tensor | None = None

    @cached_property
    def origin(self) -> Tensor:
        """A point nearby: differences from it are not lost to rounding."""
        return (self.points.amin(0) + self.points.amax(0)) / 2

    def take(self, index: Tensor) -> ConvexHull:
        """Return some of the parts: there is nothing to choose."""
        return self

    def joined(self, other: ConvexHull) -> ConvexHull:
        """Return the parts of both."""
        return self

    def candidates(self, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the vertex where the linear function of each part is smallest."""
        return self.points[(slope @ self.points.T).argmin(-1)][None]

    def lowest(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the minima of linear functions, over the points, and where."""
        values, corner = (coefficients @ self.points.T).min(-1)
        return values, self.points[corner]

    def spread(self) -> Tensor:
        """Return the extent along each feature, shape (1, n_features)."""
        return self.points.amax(0, keepdim=True) - self.points.amin(0, keepdim=True)

    def misses(self, low: Tensor, high: Tensor) -> Tensor:
        """Return which parts certainly do not meet their box.

        A facet between the two settles it; where facets are not known, a point of the
        hull moves towards the box (Gilbert 1966, doi:10.1137/0304007).
        """
        low, high = low - self.origin, high - self.origin
        if self.facets is not None:
            normal, offset = self.facets[:, :-1], self.facets[:, -1]
            centre, radius = (low + high) / 2, (high - low) / 2
            nearest = centre @ normal.T - radius @ normal.abs().T + offset
            return (nearest > 1e-9).any(-1)
        spread = self.spread()
        spread = torch.where(spread > 0, spread, 1.0)  # a feature may be constant
        points = (self.points - self.origin) / spread
        low, high = low / spread, high / spread
        x = points.mean(0).expand(low.shape)
        apart = torch.zeros(len(low), dtype=torch.bool)
        for _ in range(_SEPARATION_STEPS):
            nearest = torch.minimum(torch.maximum(x, low), high)
            towards = nearest - x
            vertex = points[(towards @ points.T).argmax(-1)]
            margin = (towards * (nearest - vertex)).sum(-1)
            apart |= margin > 1e-9 * towards.norm(dim=-1)
            step, length = vertex - x, (vertex - x).square().sum(-1)
            share = (towards * step).sum(-1) / length.clamp(min=1e-300)
            x = x + share.clamp(0, 1)[:, None] * step
        return apart

    def descend(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Move towards the best vertex (Frank and Wolfe 1956)."""
        vertex = self.points[(gradient @ self.points.T).argmin(-1)]
        return x + step * (vertex - x)

    def neighbours(self, x: Tensor) -> Tensor:
        """Return points between x (..., n_features) and rows, (..., k, n_features)."""
        rows = self.points[:: 1 + len(self.points) // _MOST_ROWS]
        steps = torch.logspace(0, -3, 8, dtype=torch.float64)[:, None, None]
        moved = x[..., None, None, :] + steps * (rows - x[..., None, None, :])
        return moved.flatten(-3, -2)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return points (count, 1, n_features): rows, and mixtures of two rows."""
        pick = torch.randint(len(self.points), (2, count, 1), generator=generator)
        mix = torch.rand((count, 1, 1), generator=generator, dtype=torch.float64)
        mix[::2] = 1
        return mix * self.points[pick[0]] + (1 - mix) * self.points[pick[1]]
