"""Sets of inputs as bound propagation needs them: batches of convex sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklpos.certificates.domains.bodies import (
    ConvexHull,
    Ellipsoid,
    apply,
    box_candidates,
)

_DUAL_STEPS = 12


@dataclass(frozen=True, eq=False)
class Region:
    """A batch of boxes, each intersected with a convex body if there is one.

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
        """Lower bounds of linear functions over each part.

        They are exact for boxes and for whole bodies. Over the intersection of a box
        and a body, the larger of the two bounds holds. With `refine`, it is compared
        with the minimum of ``(a - mu) x`` over the body plus that of ``mu x`` over the
        box, which is a bound for any ``mu`` (weak duality); a few subgradient steps
        look for a good one.

        Parameters
        ----------
        coefficients : Tensor of shape (1 or n_parts, n_rows, n_features)
        refine : bool, default=False

        Returns
        -------
        Tensor of shape (n_parts, n_rows)
        """
        center = (self.low + self.high) / 2
        radius = (self.high - self.low) / 2
        lowest = apply(coefficients, center) - apply(coefficients.abs(), radius)
        if self.body is None:
            return lowest
        lowest = torch.maximum(lowest, self.body.lowest(coefficients)[0])
        spread = self.body.spread()
        # A box that contains its body cuts nothing off: the bound is exact.
        if not refine or (self.high - self.low >= spread * (1 - 1e-9)).all():
            return lowest
        return torch.maximum(lowest, self._lowest_in_both(coefficients, spread))

    def _lowest_in_both(self, coefficients: Tensor, spread: Tensor) -> Tensor:
        # Around 0, as the terms of far inputs would lose their digits in the sum.
        body, middle = self.body.centred()
        low, high = ((end - middle)[:, None] for end in (self.low, self.high))
        spread = spread[:, None].clamp(min=1e-300)
        size = (coefficients * spread).abs().amax(-1, keepdim=True)
        mu = torch.zeros((len(self), *coefficients.shape[1:]), dtype=torch.float64)
        best = torch.tensor(-torch.inf, dtype=torch.float64)
        for k in range(_DUAL_STEPS):
            value, vertex = body.lowest(coefficients - mu)
            corner = torch.where(mu > 0, low, high)
            best = torch.maximum(best, value + (mu * corner).sum(-1))
            # Where mu is 0, every point of the box is a minimiser: the nearest to the
            # vertex gives the smallest subgradient.
            corner = torch.where(mu == 0, vertex.clamp(low, high), corner)
            ascent = (corner - vertex) / spread
            length = ascent.norm(dim=-1, keepdim=True).clamp(min=1e-300)
            # Steps that fall as 1 / sqrt(k), as subgradient ascent needs to converge.
            mu = mu + size * (1 + k) ** -0.5 * ascent / length / spread
        return best + apply(coefficients, middle)

    def lowest_points(self, coefficients: Tensor) -> Tensor:
        """Where linear functions are smallest, over the body if there is one.

        Parameters
        ----------
        coefficients : Tensor of shape (n_parts, n_features)

        Returns
        -------
        Tensor of shape (n_parts, n_features)
        """
        if self.body is None:
            return torch.where(coefficients > 0, self.low, self.high)
        return self.body.lowest(coefficients[:, None])[1][:, 0]

    def take(self, index: Tensor) -> Region:
        """Select some of the parts."""
        body = None if self.body is None else self.body.take(index)
        return Region(self.low[index], self.high[index], body)

    def halves(self, feature: Tensor) -> Region:
        """Cut each part in two, at the middle of its own feature.

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
        low[part, feature] = middle
        high[part, feature] = middle
        both = self.take(part.repeat(2))
        return Region(
            torch.cat([self.low, low]), torch.cat([high, self.high]), both.body
        )

    def joined(self, other: Region) -> Region:
        """Combine the parts of both, which have bodies of the same kind."""
        body = None if self.body is None else self.body.joined(other.body)
        low = torch.cat([self.low, other.low])
        high = torch.cat([self.high, other.high])
        return Region(low, high, body)

    def candidates(self, slope: Tensor) -> Tensor:
        """Points of each part where a function with this slope may be small.

        Parameters
        ----------
        slope : Tensor of shape (n_parts, n_features)

        Returns
        -------
        Tensor of shape (n_candidates, n_parts, n_features)
        """
        if self.body is not None:
            return self.body.candidates(slope, self.low, self.high)
        return box_candidates(slope, self.low, self.high)

    def misses(self) -> Tensor:
        """Which parts are certainly empty, shape (n_parts,)."""
        if self.body is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return self.body.misses(self.low, self.high)

    def descend(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Step against a gradient without leaving the parts.

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
        """Random points of shape (count, n_parts, n_features).

        In a box, half of them are corners.
        """
        if self.body is not None:
            return self.body.sample(count, generator)
        shape = (count, *self.low.shape)
        mix = torch.rand(shape, generator=generator, dtype=torch.float64)
        mix[::2] = mix[::2].round()
        return self.low + mix * (self.high - self.low)
