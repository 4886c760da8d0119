"""Where inputs may lie, as bound propagation needs it: batches of convex sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_DUAL_STEPS = 12
_MOST_ROWS = 1000  # of a hull, tried as directions


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
        points = _box_candidates(slope, low, high)
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
    """

    points: Tensor

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
        """Return which parts certainly do not meet their box."""
        outside = (self.points.amax(0) < low) | (self.points.amin(0) > high)
        return outside.any(-1)

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


@dataclass(frozen=True, eq=False)
class Region:
    """A batch of boxes, each cut with a convex body if there is one.

    Attributes
    ----------
    low, high : Tensor of shape (n_parts, n_features)
        float64.
    body : Ellipsoid, ConvexHull or None
    """

    low: Tensor
    high: Tensor
    body: Ellipsoid | ConvexHull | None = None

    def __len__(self) -> int:
        return len(self.low)

    def lowest(self, coefficients: Tensor, *, refine: bool = False) -> Tensor:
        """Return lower bounds of linear functions over each part.

        They are exact for boxes and for whole bodies. Over a box cut with a body it is
        the larger of the two; refined, for any ``mu``, that of ``(a - mu) x`` over the
        body plus that of ``mu x`` over the box (weak duality), where a few subgradient
        steps look for a good ``mu``.

        Parameters
        ----------
        coefficients : Tensor of shape (1 or n_parts, n_rows, n_features)
        refine : bool, default=False

        Returns
        -------
        Tensor of shape (n_parts, n_rows)
        """
        center, radius = (self.low + self.high) / 2, (self.high - self.low) / 2
        lowest = apply(coefficients, center) - apply(coefficients.abs(), radius)
        if self.body is None:
            return lowest
        lowest = torch.maximum(lowest, self.body.lowest(coefficients)[0])
        spread = self.body.spread()
        if not refine or (self.high - self.low >= spread * (1 - 1e-9)).all():
            return lowest
        return torch.maximum(lowest, self._lowest_in_both(coefficients, spread))

    def _lowest_in_both(self, coefficients: Tensor, spread: Tensor) -> Tensor:
        low, high, spread = self.low[:, None], self.high[:, None], spread[:, None]
        spread = spread.clamp(min=1e-300)
        size = (coefficients * spread).abs().amax(-1, keepdim=True)
        mu = torch.zeros((len(self), *coefficients.shape[1:]), dtype=torch.float64)
        best = torch.tensor(-torch.inf, dtype=torch.float64)
        for k in range(_DUAL_STEPS):
            value, vertex = self.body.lowest(coefficients - mu)
            corner = torch.where(mu > 0, low, high)
            best = torch.maximum(best, value + (mu * corner).sum(-1))
            corner = torch.where(mu == 0, vertex.clamp(low, high), corner)
            ascent = (corner - vertex) / spread
            length = ascent.norm(dim=-1, keepdim=True).clamp(min=1e-300)
            mu = mu + size * (1 + k) ** -0.5 * ascent / length / spread
        return best

    def take(self, index: Tensor) -> Region:
        """Return some of the parts."""
        body = None if self.body is None else self.body.take(index)
        return Region(self.low[index], self.high[index], body)

    def halves(self, feature: Tensor) -> Region:
        """Return each part cut in two, at the middle of a feature of its own.

        Parameters
        ----------
        feature : Tensor of shape (n_parts,)

        Returns
        -------
        Region
            The lower halves, then the upper ones.
        """
        part = torch.arange(len(self))
        middle = (self.low[part, feature] + self.high[part, feature]) / 2
        low, high = self.low.clone(), self.high.clone()
        low[part, feature], high[part, feature] = middle, middle
        both = self.take(part.repeat(2))
        return Region(
            torch.cat([self.low, low]), torch.cat([high, self.high]), both.body
        )

    def joined(self, other: Region) -> Region:
        """Return the parts of both, which have bodies of the same kind."""
        body = None if self.body is None else self.body.joined(other.body)
        low, high = torch.cat([self.low, other.low]), torch.cat([self.high, other.high])
        return Region(low, high, body)

    def candidates(self, slope: Tensor) -> Tensor:
        """Return points of each part where a function of this slope may be small.

        Parameters
        ----------
        slope : Tensor of shape (n_parts, n_features)

        Returns
        -------
        Tensor of shape (n_candidates, n_parts, n_features)
        """
        if self.body is not None:
            return self.body.candidates(slope, self.low, self.high)
        return _box_candidates(slope, self.low, self.high)

    def misses(self) -> Tensor:
        """Return which parts are certainly empty, shape (n_parts,)."""
        if self.body is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return self.body.misses(self.low, self.high)

    def descend(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Step against a gradient and stay inside.

        Parameters
        ----------
        x, gradient : Tensor of shape (..., n_parts, n_features)
        step : float
            In half-widths of the part.
        """
        if self.body is not None:
            return self.body.descend(x, gradient, step)
        width = (self.high - self.low) / 2
        return (x - step * width * gradient.sign()).clamp(self.low, self.high)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return random points of shape (count, n_parts, n_features).

        Of a box, half of them are corners.
        """
        if self.body is not None:
            return self.body.sample(count, generator)
        shape = (count, *self.low.shape)
        mix = torch.rand(shape, generator=generator, dtype=torch.float64)
        mix[::2] = mix[::2].round()
        return self.low + mix * (self.high - self.low)


def _box_candidates(slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the center, and the corner where the linear function is smallest."""
    return torch.stack([(low + high) / 2, torch.where(slope > 0, low, high)])
