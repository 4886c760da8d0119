"""The smallest output of a network of ReLUs, by integer programming."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sklpos.certificates.bounds.crown import Interval, image
from sklpos.certificates.bounds.kinks import OneKink
from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.domains.bodies import ConvexHull
from sklpos.certificates.domains.regions import Region
from sklpos.certificates.search.programme import Programme, Quantities

# By how much HiGHS may violate a row, a bound or a whole number, or the best value (its
# defaults), and the sign of a reduced cost.
_FEASIBILITY = 1e-6
_DUAL_FEASIBILITY = 1e-7
# HiGHS leaves out smaller coefficients.
_SMALLEST_COEFFICIENT = 1e-9
# Smallest unit, as a share of the terms that are added up: tight bounds of a sum whose
# terms cancel would make coefficients large.
_SMALLEST_SHARE = 1e-3
# Rounding of a sum in float64, as a share of its terms' sizes: that of 100 terms.
_ROUNDING = 100 * 2.0**-53
# Share of the time for tight bounds, which make the programme 3 to 7 times faster.
_TIGHTENING_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class IntegerMinimum:
    """What integer programming found out about the minimum.

    Attributes
    ----------
    lower : float
        Proved, up to the solver's tolerances, which are subtracted.
    minimiser : ndarray of shape (n_features,) or None
        The input of the best solution found.
    assumption : str
        What the bound relies on.
    """

    lower: float
    minimiser: NDArray | None
    assumption: str


def is_piecewise_linear(network: Network) -> bool:
    """Whether all activations are (leaky) ReLUs with a slope of 0 to 1.

    Parameters
    ----------
    network : Network

    Returns
    -------
    bool
    """
    return all(
        isinstance(layer, Affine)
        or (isinstance(layer, OneKink) and 0 <= layer.negative_slope <= 1)
        for layer in network.layers
    )


def milp_minimum(
    network: Network,
    region: Region,
    hidden: dict[int, Interval],
    *,
    time_limit: float = 10.0,
) -> IntegerMinimum:
    """Bound the minimum of a network's only output.

    Each unit whose input z may have both signs becomes ``y >= z``, ``y >= a z``,
    ``y <= z - (1 - a) l (1 - b)``, ``y <= a z + (1 - a) u b`` with a binary b, for
    slope a and bounds ``l <= z <= u`` (Tjeng, Xiao & Tedrake 2019,
    doi:10.48550/arXiv.1711.07356). The bounds are tightened by linear programmes
    first, whose bounds hold whatever the solver returns. HiGHS solves both kinds.

    A solver's tolerances are absolute, so every column is in the unit of its own size:
    inputs, and what enters and leaves a unit, are between -1 and 1, which changes
    nothing, as activations of this kind commute with positive factors. A violation t of
    a row is then an error ``t s`` of a quantity of size s. With ``t = 1e-6``, plus
    what the solver leaves out, an error e of the inputs of a layer becomes ``|W| e +
    t s`` of its outputs, and an activation adds ``3 t s``: one violated row, and a
    binary variable that is off by t. The bound is lowered by what arrives at the
    output. If the value of the solver's solution is not, up to this error, the output
    of the network there, then the bound is that of the linear relaxation.

    Parameters
    ----------
    network : Network
        See `is_piecewise_linear`; one output.
    region : Region
        Of one part: a box or a hull.
    hidden : dict of int to (low, high)
        Bounds of what enters the activations, see `Propagation.hidden`.
    time_limit : float, default=10.0
        Seconds.

    Returns
    -------
    IntegerMinimum

    Raises
    ------
    ValueError
        If the network is not piecewise linear, or the region not one box or hull.
    """
    round_body = region.body is not None and not isinstance(region.body, ConvexHull)
    if not is_piecewise_linear(network) or len(region) != 1 or round_body:
        raise ValueError(
            "method='milp' takes networks of ReLU and LeakyReLU over one box or hull; "
            "use method='branch_and_bound'."
        )
    begun = time.monotonic()
    model = _Model(network, region)
    model.build(hidden, begun + _TIGHTENING_SHARE * time_limit)
    remaining = max(time_limit - (time.monotonic() - begun), 0.1)
    lower, x = model.solve(remaining)
    note = f"the integer programme is solved to relative violations of {_FEASIBILITY}"
    return IntegerMinimum(lower, x, note)


class _Model:
    """The programme of a network, layer after layer."""

    def __init__(self, network: Network, region: Region):
        self.network = network
        self.body = region.body
        self.programme = Programme()
        self.range = region.low, region.high
        self.inputs = self._inputs(region)
        # The outputs of the layer that was added last.
        self.now = self.inputs

    def build(self, hidden: dict[int, Interval], deadline: float) -> None:
        """Add all layers; tighten bounds until the deadline."""
        for number, layer in enumerate(self.network.layers):
            self.range = image(layer, *self.range)
            if isinstance(layer, Affine):
                # What is known of the inputs of the activation behind it, if any.
                self.range = hidden.get(number + 1, self.range)
                self.now = self._affine(layer, *(end[0].numpy() for end in self.range))
                continue
            low, high = self._tightened(deadline)
            self.now = self._activation(layer.negative_slope, low, high)
            self.range = image(layer, torch.tensor(low)[None], torch.tensor(high)[None])

    def solve(self, time_limit: float) -> tuple[float, NDArray | None]:
        """The proved minimum, and the input of the best solution."""
        column, unit, shift = self.now.column[0], self.now.unit[0], self.now.shift[0]
        rounding = self.now.rounding[0]
        # Of the linear relaxation: it holds even if the solver goes wrong.
        sure = shift + unit * self.programme.lowest(column, time_limit) - rounding
        # Nothing can switch, so that the relaxation is the programme.
        if not any(self.programme.integral):
            return sure, None
        found = self.programme.solve(column, time_limit)
        dual = (_DUAL_FEASIBILITY * len(self.programme.low) + _FEASIBILITY) * unit
        error = self.now.error[0] + rounding + dual
        bound = found.get("mip_dual_bound")
        # Status 1 is a limit that was reached, where the bound so far is still proved.
        proved = found.status in (0, 1) and bound is not None and np.isfinite(bound)
        lower = max(sure, shift + unit * bound - error) if proved else sure
        if found.x is None:
            return lower, None
        x = self._point(found.x)
        seen = self.network(torch.as_tensor(x)).item()
        agrees = abs(shift + unit * found.fun - seen) <= error
        return (lower if agrees else sure), x

    def _point(self, solution: NDArray) -> NDArray:
        if self.body is None:
            return self.inputs.shift + self.inputs.unit * solution[self.inputs.column]
        # The weights of the points follow the inputs.
        first = len(self.inputs.column)
        weights = solution[first : first + len(self.body.points)]
        return self.body.mean(torch.as_tensor(weights)).numpy()

    def _inputs(self, region: Region) -> Quantities:
        low, high = region.low[0].numpy(), region.high[0].numpy()
        shift, rounding = (low + high) / 2, _ROUNDING * (np.abs(low) + np.abs(high))
        unit = _positive((high - low) / 2 + rounding)
        column = self.programme.columns(-np.ones(len(low)), np.ones(len(low)))
        x = Quantities(column, unit, shift, _FEASIBILITY * unit, rounding)
        if region.body is None:
            return x
        # In a hull, x is a weighted mean of the points: x = points' @ weights.
        points = x.scaled(region.body.points.numpy())
        n = len(points)
        weights = self.programme.columns(np.zeros(n), np.ones(n))
        matrix = np.hstack([points.T, -np.eye(len(low))])
        self.programme.rows(matrix, np.append(weights, column), np.zeros(len(low)))
        self.programme.rows(np.ones((1, n)), weights, np.ones(1))
        # Each weight, their sum and each row may be off by the tolerance.
        return replace(x, error=(2 * n + 2) * _tolerance(n) * unit)

    def _affine(self, layer: Affine, low: NDArray, high: NDArray) -> Quantities:
        weight, bias = layer.weight.numpy(), layer.bias.numpy()
        x = self.now
        rounding = np.abs(weight) @ x.rounding
        rounding += _ROUNDING * (np.abs(weight) @ (np.abs(x.shift) + x.unit))
        rounding += _ROUNDING * np.abs(bias)
        # No rounding may push a column out of its bounds: that would cut off inputs.
        low, high = low - rounding, high + rounding
        # No shift where an activation may switch: it only commutes with factors.
        shift = np.where((low < 0) & (high > 0), 0.0, (low + high) / 2)
        reach = _SMALLEST_SHARE * np.abs(weight) @ x.unit
        unit = _positive(np.maximum.reduce([high - shift, shift - low, reach]))
        error = np.abs(weight) @ x.error + _tolerance(len(x.unit)) * unit
        free = Quantities(np.array([]), unit, shift, error, rounding)
        column = self.programme.columns(free.scaled(low), free.scaled(high))
        matrix = np.hstack([weight * x.unit / unit[:, None], -np.eye(len(unit))])
        side = (shift - bias - weight @ x.shift) / unit
        self.programme.rows(matrix, np.append(x.column, column), side)
        return replace(free, column=column)

    def _tightened(self, deadline: float) -> tuple[NDArray, NDArray]:
        """Bounds of what enters an activation, by the linear relaxation if tighter."""
        z = self.now
        low, high = (
            z.shift + z.unit * np.array(ends)[z.column]
            for ends in (self.programme.low, self.programme.high)
        )
        # Only units that may switch: the others are linear already.
        for i in np.flatnonzero((z.shift == 0) & (low < 0) & (high > 0)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            least = self.programme.lowest(z.column[i], left)
            most = -self.programme.lowest(z.column[i], left, sign=-1)
            # Rounding may cross the bounds of a unit that is nearly constant.
            low[i] = min(max(low[i], z.unit[i] * least), high[i])
            high[i] = max(min(high[i], z.unit[i] * most), low[i])
        self.programme.narrow(z.column, z.scaled(low), z.scaled(high))
        return low, high

    def _activation(self, slope: float, low: NDArray, high: NDArray) -> Quantities:
        z = self.now
        # A unit that cannot switch is linear, and needs no column of its own. One with
        # a shift is known not to, whatever the rounding of the bounds says.
        active = np.where(z.shift == 0, low >= 0, z.shift > 0)
        factor = np.where(active, 1.0, slope)
        column = z.column.copy()
        parts = z.unit, z.shift, z.error, z.rounding
        unit, shift, error, rounding = (factor * part for part in parts)
        cross = np.flatnonzero((z.shift == 0) & (low < 0) & (high > 0))
        if cross.size:
            low, high = z.scaled(low)[cross], z.scaled(high)[cross]
            column[cross] = self._switch(z.column[cross], slope, low, high)
            unit[cross] = z.unit[cross]
            error[cross] = z.error[cross] + 3 * _tolerance(3) * z.unit[cross]
            rounding[cross] = z.rounding[cross] + _ROUNDING * z.unit[cross]
        return Quantities(column, unit, shift, error, rounding)

    def _switch(self, z: NDArray, slope: float, low: NDArray, high: NDArray) -> NDArray:
        """Add columns of activations, see `milp_minimum`."""
        n = len(z)
        y = self.programme.columns(slope * low, high)
        b = self.programme.columns(np.zeros(n), np.ones(n), integral=1)
        unit, none, rest = np.eye(n), np.zeros((n, n)), 1 - slope
        columns = np.concatenate([y, z, b])
        zero, below = np.zeros(n), np.full(n, -np.inf)
        for y_z_b, most in (
            ((-unit, unit, none), zero),
            ((-unit, slope * unit, none), zero),
            ((unit, -unit, -rest * np.diag(low)), -rest * low),
            ((unit, -slope * unit, -rest * np.diag(high)), zero),
        ):
            self.programme.rows(np.hstack(y_z_b), columns, most, below)
        return y


def _positive(unit: NDArray) -> NDArray:
    """Units of quantities that may be constant."""
    return np.maximum(unit, np.finfo(np.float64).tiny)


def _tolerance(n_terms: int) -> float:
    """By how much a row of terms of size 1 may be violated."""
    return _FEASIBILITY + n_terms * _SMALLEST_COEFFICIENT
