"""Piecewise linear activations: ReLU and its kin, and clamps."""

from __future__ import annotations

import torch
from torch import Tensor

from sklpos.certificates.bounds.relaxations import Family, Lines, Relaxation


class OneKink(Relaxation):
    """``max(z, 0) + negative_slope * min(z, 0)``: ReLU and leaky ReLU.

    Over an interval with 0 inside, one line is the chord, and the other may be any
    line through the origin with a slope between the two. The default is the slope that
    leaves the smaller area (Zhang et al. 2018, doi:10.48550/arXiv.1811.00866).

    Parameters
    ----------
    negative_slope : float, default=0.0

    Examples
    --------
    >>> import torch
    >>> OneKink().lines(torch.tensor([-1.0]), torch.tensor([3.0])).upper_slope
    tensor([0.7500])
    """

    def __init__(self, negative_slope: float = 0.0):
        self.negative_slope = negative_slope
        # The maximum of two numbers is one of them.
        self.exact = not negative_slope

    def __call__(self, z: Tensor) -> Tensor:  # noqa: D102
        if not self.negative_slope:
            return z.relu()  # 0 * inf is NaN
        return torch.where(z > 0, z, self.negative_slope * z)

    def image(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        # It rises, so its extremes are at the ends.
        if self.negative_slope >= 0:
            return self(low), self(high)
        origin = torch.zeros_like(low).clamp(low, high)
        return self(origin), torch.maximum(self(low), self(high))

    def usual_mix(self, low: Tensor, high: Tensor) -> Tensor:  # noqa: D102
        return (high > -low).to(low)

    def family(self, low: Tensor, high: Tensor) -> Family:  # noqa: D102
        a = self.negative_slope
        crossing = (low < 0) & (high > 0)
        fixed = torch.where(low >= 0, torch.ones_like(low), a)
        width = torch.where(crossing, high - low, 1.0)
        chord = torch.where(crossing, (high - a * low) / width, fixed)
        offset = torch.where(crossing, a * low - chord * low, 0.0)
        usual, zero = self.usual_mix(low, high), torch.zeros_like(low)

        def lines(mix: Tensor | None) -> Lines:
            slope = a + (usual if mix is None else mix) * (1 - a)
            ray = torch.where(crossing, slope, fixed)
            if a <= 1:  # convex
                return Lines(ray, zero, chord, offset)
            return Lines(chord, offset, ray, zero)

        return lines

    def steepness(self, low: Tensor, high: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(low, max(1.0, abs(self.negative_slope)))


class TwoKinks(Relaxation):
    """``clamp(gain * z + offset, low, high)``: hard tanh and hard sigmoid.

    Over an interval, the line above goes through the point where the function reaches
    its largest value, and the line below through the one where it leaves its smallest.
    Where the function is flat beyond such a point, the slope may be any from 0 to that
    of the chord; the default leaves the smaller area.

    Parameters
    ----------
    low, high : float
        Smallest and largest value.
    gain : float, default=1.0
        Positive.
    offset : float, default=0.0

    Examples
    --------
    >>> import torch
    >>> clamp = TwoKinks(0.0, 1.0)
    >>> clamp.lines(torch.tensor([-1.0]), torch.tensor([0.5])).upper_slope
    tensor([0.3333])
    """

    def __init__(
        self, low: float, high: float, *, gain: float = 1.0, offset: float = 0.0
    ):
        self.low = low
        self.high = high
        self.gain = gain
        self.offset = offset
        self.exact = gain == 1 and offset == 0

    def __call__(self, z: Tensor) -> Tensor:  # noqa: D102
        return self._line(z).clamp(self.low, self.high)

    def _line(self, z: Tensor) -> Tensor:
        return self.gain * z + self.offset

    def image(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self(low), self(high)

    def usual_mix(self, low: Tensor, high: Tensor) -> Tensor:  # noqa: D102
        low, high = self._line(low), self._line(high)
        steep_below = high - self.low > self.low - low
        steep_above = self.high - low > high - self.high
        return torch.where(low < self.low, steep_below, steep_above).to(low)

    def family(self, low: Tensor, high: Tensor) -> Family:  # noqa: D102
        usual = self.usual_mix(low, high)
        low, high = self._line(low), self._line(high)
        # Where the slanted part of the interval begins and ends.
        begin, end = low.clamp(self.low, self.high), high.clamp(self.low, self.high)
        slope_below = _chord(begin, end, high - begin)
        slope_above = _chord(begin, end, end - low)

        def lines(mix: Tensor | None) -> Lines:
            mix = usual if mix is None else mix
            below = torch.where(low < self.low, mix * slope_below, slope_below)
            above = torch.where(high > self.high, mix * slope_above, slope_above)
            return Lines(
                self.gain * below,
                begin + below * (self.offset - begin),
                self.gain * above,
                end + above * (self.offset - end),
            )

        return lines

    def steepness(self, low: Tensor, high: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(low, self.gain)


def _chord(begin: Tensor, end: Tensor, run: Tensor) -> Tensor:
    """Slope of a chord; 0 where the function is flat, or the interval is one point."""
    rise = end - begin
    return torch.where(rise > 0, rise / torch.where(rise > 0, run, 1.0), 0.0)
