"""Convex bodies inside boxes: ellipsoids and hulls of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from scipy import spatial
from torch import Tensor

from sklpos.nets.lazy import lazy

# Rows of a hull that are tried as directions.
_MAX_DIRECTIONS = 1000
_SEPARATION_STEPS = 20
# With more features, nearly all rows are on the surface of their hull.
_MAX_FACET_FEATURES = 5
# Share of the width by which rows may lie above their facets.
_MAX_HEIGHT = 1e-10


def apply(coefficients: Tensor, points: Tensor) -> Tensor:
    """Multiply the matrices and vectors of a batch.

    Parameters
    ----------
    coefficients : Tensor of shape (1 or n_parts, n_rows, n)
    points : Tensor of shape (1 or n_parts, n)

    Returns
    -------
    Tensor of shape (n_parts, n_rows)
    """
    # One matrix for all parts: a single product instead of a batch of them.
    if len(coefficients) == 1:
        return points @ coefficients[0].T
    return (coefficients @ points[..., None]).squeeze(-1)


def box_candidates(slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Stack the centers, and the corners where a linear function is smallest.

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
        """Select some of the parts."""
        return Ellipsoid(self.center[index], self.radius[index])

    def joined(self, other: Ellipsoid) -> Ellipsoid:
        """Combine the parts of both."""
        return Ellipsoid(
            torch.cat([self.center, other.center]),
            torch.cat([self.radius, other.radius]),
        )

    def centred(self) -> tuple[Ellipsoid, Tensor]:
        """The body around 0, and where it was, shape (n_parts, n_features)."""
        return Ellipsoid(torch.zeros_like(self.center), self.radius), self.center

    def candidates(self, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Points of the body near those of each box, see `Region`."""
        # A step of length 0 is only the projection.
        points = box_candidates(slope, low, high)
        return self.descend(points, torch.zeros_like(points), 0.0)

    def lowest(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Minima of linear functions, ``a c - ||a * r||``, and where they are."""
        scaled = coefficients * self.radius[:, None]
        reach = scaled.norm(dim=-1)
        # A function that is constant has its minimum anywhere, not at 0 / 0.
        unit = scaled / reach.clamp(min=1e-300)[..., None]
        where = self.center[:, None] - self.radius[:, None] * unit
        return apply(coefficients, self.center) - reach, where

    def spread(self) -> Tensor:
        """Extent along each feature, shape (n_parts, n_features)."""
        return 2 * self.radius

    def misses(self, low: Tensor, high: Tensor) -> Tensor:
        """Which parts do not meet their box."""
        # Only parts that miss beyond rounding: to keep a part too many is safe.
        nearest = torch.minimum(torch.maximum(self.center, low), high)
        safe = torch.where(self.radius > 0, self.radius, 1.0)
        return ((nearest - self.center) / safe).norm(dim=-1) > 1 + 1e-9

    def descend(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Step against the gradient in the metric of the ellipsoid, and project."""
        scaled = gradient * self.radius
        length = scaled.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        # Steps in units of the radius: a narrow feature moves less than a wide one.
        away = x - step * self.radius * scaled / length - self.center
        safe = torch.where(self.radius > 0, self.radius, 1.0)
        excess = (away / safe).norm(dim=-1, keepdim=True).clamp(min=1)
        return self.center + away / excess

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Random points (count, n_parts, n_features), half of them on the surface."""
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
        If known, the points obey ``normal @ (x - origin) + offset <= 0``, up to
        rounding.
    """

    points: Tensor
    facets: Tensor | None = None

    @lazy
    def origin(self) -> Tensor:
        """A point near the rows, so that differences from it keep their digits."""
        return (self.points.amin(0) + self.points.amax(0)) / 2

    def take(self, index: Tensor) -> ConvexHull:
        """Select some of the parts, which all have the same hull."""
        return self

    def joined(self, other: ConvexHull) -> ConvexHull:
        """Combine the parts of both, which have the same hull."""
        return self

    def centred(self) -> tuple[ConvexHull, Tensor]:
        """The body around 0, and where it was, shape (1, n_features)."""
        return ConvexHull(self.points - self.origin), self.origin[None]

    def candidates(self, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The vertex where the linear function of each part is smallest."""
        return self.points[(slope @ self.points.T).argmin(-1)][None]

    def lowest(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Minima of linear functions, and where they are."""
        # A linear function over a hull is smallest at one of its points.
        values, corner = (coefficients @ self.points.T).min(-1)
        return values, self.points[corner]

    def mean(self, weights: Tensor) -> Tensor:
        """Weighted mean of the points.

        A solver's weights may be a little below 0, and their sum a little off 1, which
        would lead out of the hull.
        """
        shares = weights.clamp(min=0)
        return shares / shares.sum() @ self.points

    def spread(self) -> Tensor:
        """Extent along each feature, shape (1, n_features)."""
        return self.points.amax(0, keepdim=True) - self.points.amin(0, keepdim=True)

    def misses(self, low: Tensor, high: Tensor) -> Tensor:
        """Which parts certainly do not meet their box.

        A facet that separates the two decides it. If facets are not known, a point of
        the hull moves towards the box (Gilbert 1966, doi:10.1137/0304007).
        """
        low, high = low - self.origin, high - self.origin
        if self.facets is not None:
            normal, offset = self.facets[:, :-1], self.facets[:, -1]
            centre = (low + high) / 2
            radius = (high - low) / 2
            nearest = centre @ normal.T - radius @ normal.abs().T + offset
            return (nearest > 1e-9).any(-1)
        spread = self.spread()
        # A feature may be constant.
        spread = torch.where(spread > 0, spread, 1.0)
        points = (self.points - self.origin) / spread
        low, high = low / spread, high / spread
        x = points.mean(0).expand(low.shape)
        apart = torch.zeros(len(low), dtype=torch.bool)
        for _ in range(_SEPARATION_STEPS):
            nearest = torch.minimum(torch.maximum(x, low), high)
            towards = nearest - x
            vertex = points[(towards @ points.T).argmax(-1)]
            # Positive where a plane across `towards` has the box on its far side and
            # the whole hull, of which this vertex is the farthest, on the near one.
            margin = (towards * (nearest - vertex)).sum(-1)
            apart |= margin > 1e-9 * towards.norm(dim=-1)
            step = vertex - x
            length = step.square().sum(-1)
            share = (towards * step).sum(-1) / length.clamp(min=1e-300)
            # To the nearest point of the segment, and so never out of the hull.
            x = x + share.clamp(0, 1)[:, None] * step
        return apart

    def descend(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Move towards the best vertex (Frank and Wolfe 1956)."""
        vertex = self.points[(gradient @ self.points.T).argmin(-1)]
        return x + step * (vertex - x)

    def neighbours(self, x: Tensor) -> Tensor:
        """Points (..., k, n_features) between x (..., n_features) and the rows."""
        rows = self.points[:: 1 + len(self.points) // _MAX_DIRECTIONS]
        steps = torch.logspace(0, -3, 8, dtype=torch.float64)[:, None, None]
        moved = x[..., None, None, :] + steps * (rows - x[..., None, None, :])
        return moved.flatten(-3, -2)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Random points (count, 1, n_features): rows and mixtures of two rows."""
        pick = torch.randint(len(self.points), (2, count, 1), generator=generator)
        mix = torch.rand((count, 1, 1), generator=generator, dtype=torch.float64)
        mix[::2] = 1
        return mix * self.points[pick[0]] + (1 - mix) * self.points[pick[1]]


def hull_surface(points: NDArray) -> tuple[NDArray, Tensor | None]:
    """Points on the surface, and ``normal, offset`` of each facet.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_features)
        Distinct rows.

    Returns
    -------
    points : ndarray of shape (n_kept, n_features)
        All of them if there are many features or the hull is nearly flat.
    facets : Tensor of shape (n_facets, n_features + 1) or None
        As in `ConvexHull`; None in the same cases.
    """
    n, d = points.shape
    low, high = points.min(axis=0), points.max(axis=0)
    width = high - low
    if not 2 <= d <= _MAX_FACET_FEATURES or n <= d or not width.all():
        return points, None
    # In unit width, the rounding of the facets is about 1e-15 for every feature.
    unit = (points - (low + high) / 2) / width
    try:
        facets = spatial.ConvexHull(unit).equations
    except spatial.QhullError:
        # The hull is flat.
        return points, None
    height = unit @ facets[:, :-1].T + facets[:, -1]
    # Qhull merges facets that are nearly parallel, and leaves points above them.
    if height.max() > _MAX_HEIGHT:
        return points, None
    # Back to the unit of X; the centre is the origin of `ConvexHull`.
    facets[:, :-1] /= width
    return points[height.max(axis=1) > -1e-9], torch.tensor(facets, dtype=torch.float64)
