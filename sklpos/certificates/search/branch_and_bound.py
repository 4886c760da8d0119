"""The smallest output over a region, by bounding and splitting boxes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import reduce
from math import inf

import torch
from torch import Tensor

from sklpos.certificates.bounds.alpha_crown import raised_bounds
from sklpos.certificates.bounds.crown import Interval, crown_bounds
from sklpos.certificates.bounds.kinks import OneKink
from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.domains.regions import Region

_BATCH = 256
# Boxes that are held in memory; with more, the search ends undecided.
_MAX_BOXES = 2**19
# Steps of slope ascent per box.
_ASCENT_STEPS = 3


@dataclass(frozen=True, eq=False)
class Minimum:
    """What a search knows of the minimum of one output, part by part.

    Attributes
    ----------
    lower : Tensor of shape (n_parts,)
        Proved, even if the search was stopped.
    upper : Tensor of shape (n_parts,)
        Smallest value seen, in float64.
    minimiser : Tensor of shape (n_parts, n_features)
        Where it was seen.
    n_boxes : int
        Boxes, or other subproblems, that were bounded.
    """

    lower: Tensor
    upper: Tensor
    minimiser: Tensor
    n_boxes: int


@dataclass(frozen=True)
class Stops:
    """When the search of a part of a region may end.

    Attributes
    ----------
    tolerance : float
        Acceptable gap between the proved bound and the smallest value seen. All three
        are in the unit of the output.
    target : float, default=inf
        A bound this high is good enough.
    hopeless : float, default=-inf
        A part is not searched further once a smaller value was seen in it.
    """

    tolerance: float
    target: float = inf
    hopeless: float = -inf


def branch_and_bound(
    network: Network,
    region: Region,
    stops: Stops,
    *,
    start: Tensor,
    deadline: float = inf,
    known: dict[int, Interval] | None = None,
) -> Minimum:
    """Bound the minimum of a network's only output over each part of a region.

    The open boxes with the smallest bounds are halved, each along the feature that
    contributes most to the gap between its lines. The halves are bounded by CROWN, and,
    if all activations are (leaky) ReLUs, by a few steps of `raised_bounds`. A box is
    dropped when its bound is within the tolerance of the smallest value seen in its
    part, or at least the target. The result is the minimum over open and dropped boxes,
    so it holds whenever the search ends.

    For a hull or an ellipsoid, boxes cover its bounding box. Those that miss the body
    are dropped; the others are bounded by the larger of the bounds over box and body.

    Parameters
    ----------
    network : Network
        With one output.
    region : Region
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

    References
    ----------
    .. [1] A. H. Land, A. G. Doig (1960), "An automatic method of solving discrete
       programming problems", doi:10.2307/1910129.
    """
    search = _Search(network, region, start, stops, known)
    while search.active and time.monotonic() < deadline:
        search.advance()
    return search.result()


@dataclass(frozen=True, eq=False)
class Boxes:
    """Open boxes: region, number of the part, bound, and feature to split."""

    region: Region
    part: Tensor
    bound: Tensor
    feature: Tensor

    def __len__(self) -> int:
        return len(self.part)

    def take(self, index: Tensor) -> Boxes:
        """Select some of the boxes."""
        fields = self.region.take(index), self.part[index], self.bound[index]
        return Boxes(*fields, self.feature[index])

    def joined(self, other: Boxes) -> Boxes:
        """Combine the boxes of both."""
        return Boxes(
            self.region.joined(other.region),
            torch.cat([self.part, other.part]),
            torch.cat([self.bound, other.bound]),
            torch.cat([self.feature, other.feature]),
        )


@dataclass
class _Search:
    network: Network
    region: Region
    minimiser: Tensor
    stops: Stops
    known: dict | None
    n_boxes: int = 0
    upper: Tensor = field(init=False)
    # Smallest bound of the dropped boxes of each part.
    dropped: Tensor = field(init=False)
    open_: Boxes = field(init=False)

    def __post_init__(self):
        self.upper = self.network(self.minimiser)[:, 0]
        self.dropped = torch.full_like(self.upper, torch.inf)
        index = torch.arange(len(self.region))
        floor = torch.full_like(self.upper, -torch.inf)
        chunks = [
            self._bounded(self.region.take(part), part, floor[part])
            for part in index.split(_BATCH)
        ]
        self.open_ = reduce(Boxes.joined, chunks)
        self._drop()

    @property
    def rays(self) -> bool:
        """Whether improving slopes pays: for smooth activations it does not."""
        return all(isinstance(part, Affine | OneKink) for part in self.network.layers)

    @property
    def active(self) -> bool:
        return 0 < len(self.open_) < _MAX_BOXES

    def advance(self) -> None:
        """Halve and bound the worst boxes."""
        # The result is the smallest bound, so the worst boxes are the ones that count.
        count = min(_BATCH, len(self.open_))
        worst = self.open_.bound.topk(count, largest=False).indices
        waiting = torch.ones(len(self.open_), dtype=torch.bool)
        waiting[worst] = False
        chosen = self.open_.take(worst)
        halves = chosen.region.halves(chosen.feature)
        # Lower halves come first, then upper ones: their parents repeat in this order.
        halves = self._bounded(halves, chosen.part.repeat(2), chosen.bound.repeat(2))
        self.open_ = self.open_.take(waiting).joined(halves)
        self._drop()

    def result(self) -> Minimum:
        part, bound = self.open_.part, self.open_.bound
        # A dropped box is unfinished, not empty: its bound counts as well.
        lower = self.dropped.scatter_reduce(0, part, bound, "amin")
        # A bound above a value that was seen can only be a rounding error.
        lower = torch.minimum(lower, self.upper)
        return Minimum(lower, self.upper, self.minimiser, self.n_boxes)

    def _bounded(self, region: Region, part: Tensor, floor: Tensor) -> Boxes:
        """Bound boxes whose parents had the bounds `floor`; drop those that miss."""
        meets = ~region.misses()
        if not meets.all():
            region, part, floor = region.take(meets), part[meets], floor[meets]
        known = self.known and {
            k: (low[part], high[part]) for k, (low, high) in self.known.items()
        }
        found = crown_bounds(self.network, region, known)
        self.n_boxes += len(region)
        slope = found.slope[:, 0].expand(len(region), -1)
        self._look(region.candidates(slope), part)
        # What holds for a box holds for its halves.
        bound = torch.maximum(found.lower[:, 0], floor)
        if self.rays and len(region):
            steps = _ASCENT_STEPS
            raised = raised_bounds(self.network, region, found.hidden, steps=steps)
            bound = torch.maximum(bound, raised[:, 0])
        feature = _most_important(region, found.blame, slope)
        return Boxes(region, part, bound, feature)

    def _look(self, points: Tensor, part: Tensor) -> None:
        """Remember the smallest value at points of shape (k, n_boxes, n_features)."""
        if not points.numel():
            return
        values, which = self.network(points)[..., 0].min(0)
        points = points.gather(0, which[None, :, None].expand(1, *points.shape[1:]))[0]
        before = self.upper
        self.upper = before.scatter_reduce(0, part, values, "amin")
        # Boxes of the same part may share a record; any of their points is right.
        record = (values == self.upper[part]) & (values < before[part])
        self.minimiser = self.minimiser.index_put((part[record],), points[record])

    def _drop(self) -> None:
        part, bound = self.open_.part, self.open_.bound
        enough = (self.upper - self.stops.tolerance).clamp(max=self.stops.target)
        done = (bound >= enough[part]) | (self.upper < self.stops.hopeless)[part]
        self.dropped = self.dropped.scatter_reduce(0, part[done], bound[done], "amin")
        self.open_ = self.open_.take(~done)


def _most_important(region: Region, blame: Tensor, slope: Tensor) -> Tensor:
    """Feature to blame for the looseness of the lines, or of a body in its box."""
    fall = slope.abs() * (region.high - region.low)
    # Over a box, a linear function is bounded exactly: its fall only decides ties.
    if region.body is None:
        fall = 1e-9 * fall
    return (blame + fall).argmax(-1)
