"""Bounds of subproblems as functions of slopes and multipliers, and their maxima."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from sklpos.certificates.bounds.crown import backward
from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.domains.bodies import ConvexHull
from sklpos.certificates.search.subproblems import Subproblems, Units

# Of a mix, and of a multiplier in its own unit; the steps fall as 1 / k.
_FIRST_STEP = 0.5
# Price of a violated constraint, in ranges of the output per range of the constraint.
_PRICE = 1e4


def ascended(
    units: Units, some: Subproblems, enough: Tensor, *, steps: int
) -> tuple[Subproblems, Tensor]:
    """Raise the bounds of subproblems by gradient ascent on slopes and multipliers.

    Any slopes from 0 to 1 and any multipliers that are not negative give a proved
    bound, so the best one found is kept. Steps go along the signs of the gradient, as
    in `ascend`.

    Parameters
    ----------
    units : Units
    some : Subproblems
    enough : Tensor of shape (n,)
        The ascent ends when all bounds are this high.
    steps : int

    Returns
    -------
    some : Subproblems
        With new bounds, slopes and multipliers, and the units to split next.
    points : Tensor of shape (n, n_features)
        The last minimisers of the linear functions.
    """
    dual = _Dual(units, some)
    mix, multiplier = some.mix, some.multiplier
    best = some
    for k in range(1, steps + 1):
        found = dual(mix, multiplier)
        # Signed steps may overshoot; and a bound that is NaN is never better.
        better = found.bound > best.bound
        best = replace(
            best,
            bound=torch.where(better, found.bound, best.bound),
            mix=torch.where(better[:, None], mix, best.mix),
            multiplier=torch.where(better[:, None], multiplier, best.multiplier),
        )
        if k == steps or (best.bound >= enough).all():
            break
        if k == 1:
            unit = dual.multiplier_unit(found)
        size = _FIRST_STEP / k
        mix = (mix + size * found.mix_gradient.sign()).clamp(0, 1)
        step = size * unit * found.multiplier_gradient.sign()
        multiplier = (multiplier + step).clamp(min=0)
    return replace(best, unit=dual.most_costly(found)), found.points


@dataclass(frozen=True, eq=False)
class _Found:
    """Bounds, and where and how they change; all but `points` unit by unit."""

    bound: Tensor
    points: Tensor
    # Coefficients of what leaves the units.
    rows: Tensor
    mix_gradient: Tensor
    multiplier_gradient: Tensor


class _Dual:
    """The bounds of subproblems as functions of slopes and multipliers."""

    def __init__(self, units: Units, some: Subproblems):
        self.units = units
        self.some = some
        self.region = units.region.take(some.part)
        self.crossing = (some.low < 0) & (some.high > 0)
        self.rounding = units.rounding[some.part] * some.sign.abs()
        lows, highs = units.by_layer(some.low), units.by_layer(some.high)
        self.families = {
            k: units.network.layers[k].family(lows[k], highs[k]) for k in units.sizes
        }

    def __call__(self, mix: Tensor, multiplier: Tensor) -> _Found:
        mixes = self.units.by_layer(mix)
        lines = {k: family(mixes[k]) for k, family in self.families.items()}
        # Where sign * z >= 0, f - multiplier * sign * z is at most f.
        forces = self.units.by_layer(-multiplier * self.some.sign)
        network = self.units.network
        output = torch.ones((1, 1, 1), dtype=torch.float64)
        slope, offset, seen = backward(
            network, len(network.layers), lines, output, forces
        )
        lowest = (self.region.lowest(slope) + offset)[:, 0]
        # A large multiplier enlarges the rounding of what it multiplies.
        bound = lowest - (multiplier * self.rounding).sum(1)
        points = self.region.lowest_points(slope.expand(len(self.some), 1, -1)[:, 0])
        rows = {k: row[:, 0].expand(len(self.some), -1) for k, row in seen.items()}
        inputs = self._inputs(points, lines, rows)
        return self._found(bound, points, self.units.joined(rows), inputs)

    def _inputs(self, points, lines, rows) -> Tensor:
        """What enters the units if each computes its line instead of its function."""
        inputs = {}
        x = points
        for k, layer in enumerate(self.units.network.layers):
            if isinstance(layer, Affine):
                x = layer(x)
                continue
            inputs[k] = x
            below = lines[k].lower_slope * x + lines[k].lower_intercept
            above = lines[k].upper_slope * x + lines[k].upper_intercept
            x = torch.where(rows[k] > 0, below, above)
        return self.units.joined(inputs)

    def _found(self, bound, points, rows, inputs) -> _Found:
        # The minimiser does not move at first order (Danskin), so the derivatives are
        # those of the linear function at it, of which the inputs are factors.
        steeper = (1 - self.units.negative_slope) * inputs * self.crossing
        return _Found(
            bound=bound,
            points=points,
            rows=rows,
            mix_gradient=rows.clamp(min=0) * steeper,
            multiplier_gradient=-self.some.sign * inputs - self.rounding,
        )

    def multiplier_unit(self, found: _Found) -> Tensor:
        """Size of the multipliers: a mean share of the output per range of the unit."""
        width = self.units.width[self.some.part]
        shares = self.units.by_layer(found.rows.abs() * width)
        means = {k: s.mean(1, keepdim=True).expand_as(s) for k, s in shares.items()}
        size = self.units.joined(means) / width.clamp(min=1e-300)
        return torch.where(self.some.sign == 0, 0.0, size)

    def most_costly(self, found: _Found) -> Tensor:
        """The unit whose upper line costs most; -1 if no unit may switch."""
        low, high = self.some.low, self.some.high
        gap = -low * high / torch.where(self.crossing, high - low, 1.0)
        gap = gap * (1 - self.units.negative_slope)
        # The slope of the lower line was chosen well, so its gap only decides ties.
        cost = gap * (found.rows.clamp(max=0).abs() + 1e-3 * found.rows.clamp(min=0))
        cost = torch.where(self.crossing, cost, -1.0)
        return torch.where(self.crossing.any(1), cost.argmax(1), -1)


def solved(units: Units, some: Subproblems) -> tuple[Subproblems, Tensor]:
    """Take the multipliers of subproblems without free units from linear programmes.

    The solver is not trusted: its multipliers are only a choice, which gives a proved
    bound as any other does. Where constraints contradict each other, they may be
    violated for a price, which makes the bound high.

    Parameters
    ----------
    units : Units
        Over boxes or a hull.
    some : Subproblems

    Returns
    -------
    some : Subproblems
        With the larger bounds.
    points : Tensor of shape (n, n_features)
        The solutions.
    """
    each = [_programme(units, some.take(torch.tensor([i]))) for i in range(len(some))]
    multiplier = torch.stack([found[0] for found in each])
    points = torch.stack([found[1] for found in each])
    found = _Dual(units, some)(some.mix, multiplier)
    better = found.bound > some.bound
    return replace(some, bound=torch.where(better, found.bound, some.bound)), points


def _programme(units: Units, one: Subproblems) -> tuple[Tensor, Tensor]:
    """Multipliers and solution of a subproblem that is linear."""
    held = one.sign[0].nonzero()[:, 0]
    slope, offset, output = _linear_maps(units, one)
    sign = one.sign[0, held]
    # The columns are weights of the rows of a hull, or shares of the sides of a box.
    sides, origin, total = _sides(units, one)
    rows = (sign[:, None] * (slope[held] @ sides.T)).numpy()
    least = -(sign * (slope[held] @ origin + offset[held])).numpy()
    objective = (output @ sides.T).numpy()
    size = max(np.ptp(np.append(objective, 0.0)), 1e-300)
    unit = np.maximum(np.abs(rows).max(axis=1, initial=0.0), np.abs(least))
    unit = np.where(unit > 0, unit, 1.0)
    violation = np.ones((len(rows), 1))
    result = linprog(
        np.append(objective / size, _PRICE),
        A_ub=np.hstack([-rows / unit[:, None], -violation]),
        b_ub=-least / unit,
        A_eq=None if total is None else np.append(np.ones(len(sides)), 0.0)[None],
        b_eq=total,
        bounds=[(0.0, 1.0)] * len(sides) + [(0.0, None)],
    )
    multiplier = torch.zeros_like(one.sign[0])
    if result.status != 0:
        return multiplier, origin
    marginals = np.maximum(-result.ineqlin.marginals, 0.0)
    multiplier[held] = torch.as_tensor(marginals / unit * size)
    return multiplier, _point(units, one, torch.as_tensor(result.x[:-1]))


def _sides(units: Units, one: Subproblems):
    """Vectors whose sums with weights from 0 to 1 make the part, and their origin."""
    region = units.region.take(one.part)
    if isinstance(region.body, ConvexHull):
        # The weights of rows have the sum 1.
        return region.body.points, torch.zeros_like(region.low[0]), 1.0
    return torch.diag(region.high[0] - region.low[0]), region.low[0], None


def _point(units: Units, one: Subproblems, weights: Tensor) -> Tensor:
    """The sum of `_sides` with weights that a solver keeps to its tolerance."""
    region = units.region.take(one.part)
    if isinstance(region.body, ConvexHull):
        return region.body.mean(weights)
    return torch.lerp(region.low[0], region.high[0], weights.clamp(0, 1))


def _linear_maps(units: Units, one: Subproblems) -> tuple[Tensor, Tensor, Tensor]:
    """What enters the units as functions of the input, and the slope of the output."""
    steep = torch.where(one.low >= 0, 1.0, units.negative_slope)
    factors = {k: factor[0] for k, factor in units.by_layer(steep).items()}
    slope = torch.eye(units.network.n_features, dtype=torch.float64)
    offset = torch.zeros(units.network.n_features, dtype=torch.float64)
    slopes, offsets = [], []
    for k, layer in enumerate(units.network.layers):
        if isinstance(layer, Affine):
            slope, offset = layer.weight @ slope, layer(offset)
            continue
        slopes.append(slope)
        offsets.append(offset)
        slope, offset = factors[k][:, None] * slope, factors[k] * offset
    return torch.cat(slopes), torch.cat(offsets), slope[0]
