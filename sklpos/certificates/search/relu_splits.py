"""The smallest output over a region, by splitting ReLUs at their kinks."""

from __future__ import annotations

import time
from math import inf

import torch
from torch import Tensor

from sklpos.certificates.bounds.alpha_crown import tightened
from sklpos.certificates.bounds.crown import Interval, crown_bounds
from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.domains.bodies import ConvexHull, Ellipsoid
from sklpos.certificates.domains.regions import Region
from sklpos.certificates.search.branch_and_bound import (
    Minimum,
    Stops,
    branch_and_bound,
)
from sklpos.certificates.search.milp import is_piecewise_linear
from sklpos.certificates.search.split_duals import ascended, solved
from sklpos.certificates.search.subproblems import Pool, Subproblems, Units

_MAX_BATCH = 256
# Numbers in the largest matrix of a step.
_MAX_STEP_SIZE = 2**23
# Numbers that are held in memory; with more, the search ends undecided.
_MAX_NUMBERS = 2**27
# Parts whose hidden units are tightened together, and the steps for it.
_PARTS_PER_ASCENT = 4
_TIGHTENING_STEPS = 15
# Steps of ascent for the whole parts, and for each subproblem after a split.
_FIRST_STEPS = 60
_STEPS = 10
# Linear programmes solved between two looks at the clock.
_MAX_PROGRAMMES = 32


def relu_splits(
    network: Network,
    region: Region,
    stops: Stops,
    *,
    start: Tensor,
    deadline: float = inf,
    known: dict[int, Interval] | None = None,
) -> Minimum:
    """Bound the minimum of a network's only output over each part of a region.

    The open subproblems with the smallest bounds are split in two: a unit is held at or
    above its kink in one, and at or below it in the other. A unit that is held is
    linear. What holds it is a constraint, which enters the bound with a multiplier;
    ascent improves multipliers and slopes together (beta-CROWN, Wang et al. 2021,
    doi:10.48550/arXiv.2103.06624). The inputs are not split, so linear functions are
    minimised over whole parts, which is exact for boxes, hulls and ellipsoids. The unit
    to split is the one whose upper line costs most (Bunel et al. 2020,
    doi:10.48550/arXiv.1909.06588). Where none is left, the multipliers come from a
    linear programme.

    The result is the minimum over open and dropped subproblems, as in
    `branch_and_bound`, so it holds whenever the search ends.

    Parameters
    ----------
    network : Network
        See `is_piecewise_linear`; one output.
    region : Region
        Its bodies are not cut by their boxes.
    stops : Stops
    start : Tensor of shape (n_parts, n_features)
        A point with a small output for each part.
    deadline : float, default=inf
        In the time of `time.monotonic`.
    known : dict, optional
        Bounds over the whole region, see `Propagation.hidden`.

    Returns
    -------
    Minimum

    Raises
    ------
    ValueError
        If the network is not piecewise linear.
    """
    if not is_piecewise_linear(network):
        raise ValueError(
            "method='relu_splits' takes networks of ReLU and LeakyReLU; use "
            "method='branch_and_bound'."
        )
    # A linear network has nothing to split: its first bound is exact.
    if all(isinstance(layer, Affine) for layer in network.layers):
        return branch_and_bound(network, region, stops, start=start, deadline=deadline)
    search = _Search(network, region, stops, start, deadline, known)
    while search.active and time.monotonic() < deadline:
        search.advance()
    return search.result()


class _Search:
    def __init__(self, network, region, stops, start, deadline, known):
        self.network = network
        self.stops = stops
        self.minimiser = start
        self.upper = network(start)[:, 0]
        # Smallest bound of the dropped subproblems of each part.
        self.dropped = torch.full_like(self.upper, torch.inf)
        self.n_bounded = 0
        known = known or crown_bounds(network, region).hidden
        hidden = _tightened(network, region, known, deadline)
        self.units = Units(network, region, hidden)
        whole = self.units.whole()
        self.batch = self._batch(region)
        self.open_ = Pool(whole.take(torch.arange(0)))
        for part in torch.arange(len(region)).split(_MAX_BATCH):
            late = time.monotonic() > deadline
            steps = 1 if late else _FIRST_STEPS
            self.open_.add(self._bounded(whole.take(part), steps))

    @property
    def active(self) -> bool:
        size = len(self.open_) * len(self.units.layer)
        return len(self.open_) > 0 and size < _MAX_NUMBERS

    def advance(self) -> None:
        """Split the worst subproblems and bound the halves."""
        # The result is the smallest bound, so the worst ones are those that count.
        chosen = self._still_open(self.open_.take_worst(self.batch))
        last = chosen.unit < 0
        halves = self.units.retightened(chosen.take(~last).children())
        if len(halves):
            self.open_.add(self._bounded(halves, _STEPS))
        if last.any():
            self._finish(chosen.take(last))

    def result(self) -> Minimum:
        # A dropped subproblem is unfinished, not empty: its bound counts as well.
        lower = self.open_.lowest(self.dropped)
        # A bound above a value that was seen can only be a rounding error.
        lower = torch.minimum(lower, self.upper)
        return Minimum(lower, self.upper, self.minimiser, self.n_bounded)

    def _batch(self, region: Region) -> int:
        """Subproblems per step, so that bounding a layer again fits into memory."""
        hull = isinstance(region.body, ConvexHull)
        terms = len(region.body.points) if hull else self.network.n_features
        widest = max(self.units.sizes.values())
        size = 2 * widest * max(widest, terms)
        return max(1, min(_MAX_BATCH, _MAX_STEP_SIZE // size))

    def _finish(self, some: Subproblems) -> None:
        """Close subproblems in which no unit is left to split."""
        if isinstance(self.units.region.body, Ellipsoid):
            # No linear programme, but a smooth dual: ascent goes on.
            self.open_.add(self._bounded(some, _FIRST_STEPS))
            return
        rank = torch.arange(len(some))
        self.open_.add(some.take(rank >= _MAX_PROGRAMMES))
        some, points = solved(self.units, some.take(rank < _MAX_PROGRAMMES))
        self._look(points, some.part)
        # Nothing more can be done for them, whatever their bounds are.
        self._drop(some)

    @property
    def _enough(self) -> Tensor:
        return (self.upper - self.stops.tolerance).clamp(max=self.stops.target)

    def _bounded(self, some: Subproblems, steps: int) -> Subproblems:
        """Bound subproblems, and return those that are still open."""
        self.n_bounded += len(some)
        enough = self._enough[some.part]
        some, points = ascended(self.units, some, enough, steps=steps)
        self._look(points, some.part)
        return self._still_open(some)

    def _look(self, points: Tensor, part: Tensor) -> None:
        """Remember the smallest value at points of shape (n, n_features)."""
        values = self.network(points)[:, 0]
        before = self.upper
        self.upper = before.scatter_reduce(0, part, values, "amin")
        # Subproblems of a part may share a record; any of their points is right.
        record = (values == self.upper[part]) & (values < before[part])
        self.minimiser = self.minimiser.index_put((part[record],), points[record])

    def _still_open(self, some: Subproblems) -> Subproblems:
        part, bound = some.part, some.bound
        done = (bound >= self._enough[part]) | (self.upper < self.stops.hopeless)[part]
        self._drop(some.take(done))
        return some.take(~done)

    def _drop(self, some: Subproblems) -> None:
        part, bound = some.part, some.bound
        self.dropped = self.dropped.scatter_reduce(0, part, bound, "amin")


def _tightened(network, region, known, deadline) -> dict[int, Interval]:
    """Tighten the bounds of hidden units, part by part, until the deadline."""
    found = []
    for index in torch.arange(len(region)).split(_PARTS_PER_ASCENT):
        hidden = {k: (low[index], high[index]) for k, (low, high) in known.items()}
        if time.monotonic() < deadline:
            part = region.take(index)
            hidden = tightened(network, part, hidden, steps=_TIGHTENING_STEPS)
        found.append(hidden)
    return {
        k: tuple(torch.cat([each[k][end] for each in found]) for end in (0, 1))
        for k in known
    }
