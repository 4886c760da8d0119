"""The smallest output of a network of ReLUs, by integer programming."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from sklpos.certificates.bounds.crown import Interval
from sklpos.certificates.bounds.kinks import OneKink
from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.bounds.rounding import rounding_error
from sklpos.certificates.domains.bodies import ConvexHull
from sklpos.certificates.domains.regions import Region

# Constraint violation that the solver allows.
_FEASIBILITY = 1e-6
# Share of the time limit for tightening the bounds.
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
    time_limit: float = 60.0,
) -> IntegerMinimum:
    """Bound the minimum of a network's only output.

    Each unit whose input z may have both signs becomes ``y >= z``, ``y >= a z``,
    ``y <= z - (1 - a) l (1 - b)``, ``y <= a z + (1 - a) u b`` with a binary b, for
    slope a and bounds ``l <= z <= u`` (Tjeng, Xiao & Tedrake 2019,
    doi:10.48550/arXiv.1711.07356). The bounds are tightened by linear programmes
    first. HiGHS solves both kinds.

    Parameters
    ----------
    network : Network
        See `is_piecewise_linear`; one output.
    region : Region
        Of one part: a box or a hull.
    hidden : dict of int to (low, high)
        Bounds of what enters the activations, see `Propagation.hidden`.
    time_limit : float, default=60.0
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
    # Tight bounds of the units make the integer programme 3 to 7 times faster.
    begun = time.monotonic()
    model = _Model(network, region)
    model.build(hidden, begun + _TIGHTENING_SHARE * time_limit)
    remaining = max(time_limit - (time.monotonic() - begun), 0.1)
    lower, x = model.solve(remaining)
    # Each layer may violate its constraints by the tolerance, and passes that on.
    off = rounding_error(
        network,
        region.low,
        region.high,
        dtype=torch.float64,
        hidden=model.hidden,
        disturbance=_FEASIBILITY,
    ).item()
    note = f"the integer programme is solved to constraint violations of {_FEASIBILITY}"
    return IntegerMinimum(lower - off, x, note)


class _Model:
    """Columns and rows of the programme, layer after layer."""

    def __init__(self, network: Network, region: Region):
        self.network = network
        self.low: list[float] = []
        self.high: list[float] = []
        self.integral: list[int] = []
        # Row, column and value of the entries: the matrix is sparse.
        self.blocks: list[tuple[NDArray, NDArray, NDArray]] = []
        self.least: list[float] = []
        self.most: list[float] = []
        self.hidden: dict[int, Interval] = {}
        self.inputs = self._inputs(region)
        # Columns of the outputs of the layer that was added last.
        self.now = self.inputs

    def build(self, hidden: dict[int, Interval], deadline: float) -> None:
        """Add all layers; tighten bounds until the deadline."""
        for number, layer in enumerate(self.network.layers):
            if isinstance(layer, Affine):
                self._affine(layer.weight.numpy(), layer.bias.numpy())
                continue
            low, high = (bound[0].numpy().copy() for bound in hidden[number])
            self._tighten(low, high, deadline)
            self._activation(layer.negative_slope, low, high)
            self.hidden[number] = torch.tensor(low)[None], torch.tensor(high)[None]

    def solve(self, time_limit: float) -> tuple[float, NDArray | None]:
        """The proved minimum, and the input of the best solution."""
        result = milp(
            self._objective(self.now[0]),
            integrality=np.array(self.integral),
            bounds=Bounds(self.low, self.high),
            constraints=self._constraints(),
            options={"time_limit": time_limit},
        )
        bound = result.get("mip_dual_bound")
        x = None if result.x is None else result.x[self.inputs]
        # Status 1 is a limit that was reached, where the bound so far is still proved.
        proved = result.status in (0, 1) and bound is not None and np.isfinite(bound)
        return (float(bound) if proved else -np.inf), x

    def _inputs(self, region: Region) -> NDArray:
        x = self._columns(region.low[0].numpy(), region.high[0].numpy())
        # In a hull, x is a weighted mean of the points: x = points' @ weights.
        if region.body is not None:
            points = region.body.points.numpy()
            weights = self._columns(np.zeros(len(points)), np.ones(len(points)))
            matrix = np.hstack([points.T, -np.eye(len(x))])
            self._rows(matrix, np.append(weights, x), np.zeros(len(x)))
            self._rows(np.ones((1, len(points))), weights, np.ones(1))
        return x

    def _affine(self, weight: NDArray, bias: NDArray) -> None:
        # Free at first; an activation behind it brings the bounds.
        free = np.full(len(bias), np.inf)
        z = self._columns(-free, free)
        matrix = np.hstack([weight, -np.eye(len(bias))])
        self._rows(matrix, np.append(self.now, z), -bias)
        self.now = z

    def _tighten(self, low: NDArray, high: NDArray, deadline: float) -> None:
        """Replace bounds by those of the linear relaxation, in place."""
        # Only units that may switch: the others are linear already.
        for i in np.flatnonzero((low < 0) & (high > 0)):
            if time.monotonic() > deadline:
                break
            least = self._extreme(self.now[i], 1)
            most = -self._extreme(self.now[i], -1)
            low[i] = max(low[i], least)
            high[i] = min(high[i], most)
            # Tolerances may cross the bounds of a unit that is nearly constant.
            if low[i] > high[i]:
                low[i] = high[i] = (low[i] + high[i]) / 2
        for column, a, b in zip(self.now, low, high, strict=True):
            self.low[column] = a
            self.high[column] = b

    def _extreme(self, column: int, sign: int) -> float:
        """Smallest value of a column, or the negative of its largest one."""
        # Without integrality, so the value is a bound of the integer programme.
        constraint = self._constraints()
        matrix = constraint.A
        most = constraint.ub
        least = constraint.lb
        equal = most == least
        result = linprog(
            sign * self._objective(column),
            A_ub=matrix[~equal] if (~equal).any() else None,
            b_ub=most[~equal] if (~equal).any() else None,
            A_eq=matrix[equal],
            b_eq=most[equal],
            bounds=np.column_stack([self.low, self.high]),
        )
        # Only an optimum proves something; the old bound stays otherwise.
        if result.status != 0:
            return -np.inf
        return result.fun - _FEASIBILITY * (1 + abs(result.fun))

    def _activation(self, slope: float, low: NDArray, high: NDArray) -> None:
        z = self.now
        y = self._columns(
            np.where(low >= 0, low, slope * low),
            np.where(high >= 0, high, slope * high),
        )
        # A unit that cannot switch is linear, and needs no binary variable.
        fixed = (low >= 0) | (high <= 0)
        unit = np.eye(len(z))
        factor = np.where(low >= 0, 1.0, slope)
        equal = np.hstack([unit, -factor * unit])[fixed]
        self._rows(equal, np.append(y, z), np.zeros(len(equal)))
        cross = np.flatnonzero(~fixed)
        if cross.size:
            self._switch(y[cross], z[cross], slope, low[cross], high[cross])
        self.now = y

    def _switch(self, y, z, slope, low, high) -> None:
        """Rows ``... <= 0`` or constant, see `milp_minimum`."""
        b = self._columns(np.zeros(len(y)), np.ones(len(y)), integral=1)
        unit = np.eye(len(y))
        none = np.zeros((len(y), len(y)))
        rest = 1 - slope
        columns = np.concatenate([y, z, b])
        zero = np.zeros(len(y))
        above = np.full(len(y), -np.inf)
        self._rows(np.hstack([-unit, unit, none]), columns, zero, above)
        self._rows(np.hstack([-unit, slope * unit, none]), columns, zero, above)
        self._rows(
            np.hstack([unit, -unit, -rest * np.diag(low)]), columns, -rest * low, above
        )
        self._rows(
            np.hstack([unit, -slope * unit, -rest * np.diag(high)]),
            columns,
            zero,
            above,
        )

    def _columns(self, low: NDArray, high: NDArray, integral: int = 0) -> NDArray:
        first = len(self.low)
        self.low += low.tolist()
        self.high += high.tolist()
        self.integral += [integral] * len(low)
        return np.arange(first, len(self.low))

    def _rows(self, matrix: NDArray, columns: NDArray, most, least=None) -> None:
        """Add ``least <= matrix @ columns <= most``; equal by default."""
        row, entry = np.nonzero(matrix)
        self.blocks.append((len(self.most) + row, columns[entry], matrix[row, entry]))
        self.most += most.tolist()
        self.least += (most if least is None else least).tolist()

    def _constraints(self) -> LinearConstraint:
        row, column, value = (np.concatenate(p) for p in zip(*self.blocks, strict=True))
        shape = len(self.most), len(self.low)
        matrix = csr_array((value, (row, column)), shape=shape)
        return LinearConstraint(matrix, np.array(self.least), np.array(self.most))

    def _objective(self, column: int) -> NDArray:
        return (np.arange(len(self.low)) == column).astype(float)
