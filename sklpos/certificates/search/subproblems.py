"""Subproblems of a search in which some units are held on one side of their kink."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from sklpos.certificates.bounds.crown import Interval, backward
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.bounds.rounding import bound_rounding
from sklpos.certificates.domains.regions import Region
from sklpos.nets.lazy import lazy


@dataclass(frozen=True, eq=False)
class Subproblems:
    """A batch of subproblems. The units of all layers lie one after the other.

    Attributes
    ----------
    part : Tensor of shape (n,)
        Number of the part of the region.
    bound : Tensor of shape (n,)
        Proved lower bound of the output.
    low, high : Tensor of shape (n, n_units)
        Bounds of what enters each unit.
    sign : Tensor of shape (n, n_units)
        1 where the input of a unit is held at or above 0, -1 at or below, 0 if free.
    mix : Tensor of shape (n, n_units)
        Slopes of the lower lines, see `Relaxation.family`.
    multiplier : Tensor of shape (n, n_units)
        Of the constraints ``sign * input >= 0``; not negative.
    unit : Tensor of shape (n,)
        The unit to split next; -1 if none may switch.
    """

    part: Tensor
    bound: Tensor
    low: Tensor
    high: Tensor
    sign: Tensor
    mix: Tensor
    multiplier: Tensor
    unit: Tensor

    def __len__(self) -> int:
        return len(self.part)

    def columns(self) -> list[Tensor]:
        """All attributes, in the order of the constructor."""
        return [getattr(self, each.name) for each in fields(self)]

    def take(self, index: Tensor) -> Subproblems:
        """Select some of the subproblems."""
        return Subproblems(*(column[index] for column in self.columns()))

    def joined(self, other: Subproblems) -> Subproblems:
        """Combine the subproblems of both."""
        pairs = zip(self.columns(), other.columns(), strict=True)
        return Subproblems(*(torch.cat(pair) for pair in pairs))

    def children(self) -> Subproblems:
        """Hold the next unit of each on either side of 0: all above, then all below."""
        count = len(self)
        above = torch.arange(count)
        below = count + above
        both = self.take(above.repeat(2))
        low, high, sign = both.low.clone(), both.high.clone(), both.sign.clone()
        low[above, self.unit] = 0.0
        high[below, self.unit] = 0.0
        sign[above, self.unit] = 1.0
        sign[below, self.unit] = -1.0
        return replace(both, low=low, high=high, sign=sign)


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a network of (leaky) ReLUs over each part of a region.

    Attributes
    ----------
    network : Network
        With one output.
    region : Region
    hidden : dict of int to (low, high)
        Bounds of what enters the activations, see `Propagation.hidden`.
    """

    network: Network
    region: Region
    hidden: dict[int, Interval]

    @lazy
    def sizes(self) -> dict[int, int]:
        """Number of units of each activation."""
        return {k: low.shape[1] for k, (low, _) in self.hidden.items()}

    @lazy
    def layer(self) -> Tensor:
        """Number of the activation of each unit."""
        return torch.cat([torch.full((n,), k) for k, n in self.sizes.items()])

    @lazy
    def negative_slope(self) -> Tensor:
        """Slope below 0 of each unit."""
        slopes = [self.network.layers[k].negative_slope for k in self.layer.tolist()]
        return torch.tensor(slopes, dtype=torch.float64)

    @lazy
    def width(self) -> Tensor:
        """Range of what enters each unit, shape (n_parts, n_units)."""
        return torch.cat([high - low for low, high in self.hidden.values()], 1)

    @lazy
    def rounding(self) -> Tensor:
        """Bound of the rounding of `low` and `high`, shape (n_parts, n_units)."""
        low, high = self.region.low, self.region.high
        before = [
            replace(self.network, layers=self.network.layers[:k]) for k in self.hidden
        ]
        errors = [bound_rounding(part, low, high, self.hidden) for part in before]
        return torch.cat(errors, 1)

    def by_layer(self, values: Tensor) -> dict[int, Tensor]:
        """Cut values of all units, shape (n, n_units), into views for each layer."""
        parts = values.split([*self.sizes.values()], dim=1)
        return dict(zip(self.sizes, parts, strict=True))

    def joined(self, values: dict[int, Tensor]) -> Tensor:
        """Put the values of the layers one after the other."""
        return torch.cat([values[k] for k in self.sizes], dim=1)

    def whole(self) -> Subproblems:
        """One subproblem for each part, in which no unit is held."""
        count = len(self.region)
        low, high = (
            torch.cat([bounds[end] for bounds in self.hidden.values()], 1)
            for end in (0, 1)
        )
        mixes = {
            k: self.network.layers[k].usual_mix(*bounds)
            for k, bounds in self.hidden.items()
        }
        return Subproblems(
            part=torch.arange(count),
            bound=torch.full((count,), -torch.inf, dtype=torch.float64),
            low=low,
            high=high,
            sign=torch.zeros_like(low),
            mix=self.joined(mixes),
            multiplier=torch.zeros_like(low),
            unit=torch.full((count,), -1),
        )

    def retightened(self, some: Subproblems) -> Subproblems:
        """Bound the layers after the last split again, and drop what is empty."""
        low, high = some.low.clone(), some.high.clone()
        lows, highs = self.by_layer(low), self.by_layer(high)
        split = self.layer[some.unit]
        for k in self.sizes:
            later = (split < k).nonzero()[:, 0]
            if len(later):
                region = self.region.take(some.part[later])
                ends = self._input_bounds(k, region, lows, highs, later)
                # The layers are views, so this fills `low` and `high`.
                lows[k][later] = torch.maximum(lows[k][later], ends[0])
                highs[k][later] = torch.minimum(highs[k][later], ends[1])
        # Only what is empty beyond rounding: to keep one too many is safe.
        empty = (low > high + self.rounding[some.part]).any(1)
        high = torch.maximum(low, high)
        return replace(some, low=low, high=high).take(~empty)

    def _input_bounds(self, number, region, lows, highs, index) -> Interval:
        """Bound what enters a layer by CROWN, from the bounds of those before."""
        lines = {
            k: self.network.layers[k].lines(lows[k][index], highs[k][index])
            for k in self.sizes
            if k < number
        }
        unit = torch.eye(self.sizes[number], dtype=torch.float64)
        rows = torch.cat([unit, -unit])[None]
        slope, offset, _ = backward(self.network, number, lines, rows)
        below, above = (region.lowest(slope) + offset).chunk(2, dim=1)
        return below, -above


class Pool:
    """Open subproblems, of which the worst are taken out.

    Their places are used again: to copy all the others at each step would take longer
    than to bound the new ones.

    Parameters
    ----------
    some : Subproblems
        The first ones.
    """

    def __init__(self, some: Subproblems):
        self._places = some
        self._free = torch.arange(0)

    def __len__(self) -> int:
        return len(self._places) - len(self._free)

    def add(self, some: Subproblems) -> None:
        """Put more subproblems in."""
        missing = len(some) - len(self._free)
        if missing > 0:
            self._grow(max(missing, len(self._places)))
        places = self._free[: len(some)]
        self._free = self._free[len(some) :]
        for column, values in zip(self._places.columns(), some.columns(), strict=True):
            column[places] = values

    def take_worst(self, count: int) -> Subproblems:
        """Take out those with the lowest bounds."""
        # A free place has an infinite bound, so it is not among the lowest.
        count = min(count, len(self))
        worst = self._places.bound.topk(count, largest=False).indices
        taken = self._places.take(worst)
        self._places.bound[worst] = torch.inf
        self._free = torch.cat([worst, self._free])
        return taken

    def lowest(self, start: Tensor) -> Tensor:
        """Smallest bound of each part, or what it starts with, shape (n_parts,)."""
        # Free places are infinite, so they do not count.
        part, bound = self._places.part, self._places.bound
        return start.scatter_reduce(0, part, bound, "amin")

    def _grow(self, count: int) -> None:
        first = len(self._places)
        empty = [
            column.new_zeros((count, *column.shape[1:]))
            for column in self._places.columns()
        ]
        self._places = self._places.joined(Subproblems(*empty))
        self._places.bound[first:] = torch.inf
        self._free = torch.cat([self._free, first + torch.arange(count)])
