"""Activations between two lines: what bound propagation knows about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sklpos.nets.lazy import lazy

_NODES = 8  # on each side of the pivot
_REFINEMENTS = 4
_REMOTE = -1e300  # in place of minus infinity, where z * sigmoid(z) is NaN


class Lines(NamedTuple):
    """``lower_slope * z + lower_intercept <= g(z) <= upper_slope * z + ...``.

    Each of the shape of the intervals they hold on.
    """

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


Family = Callable[[Tensor | None], Lines]


class Relaxation(ABC):
    """An elementwise activation function, and what can be proved about it.

    Attributes
    ----------
    error : float
        Largest distance, rounding aside, between the function and what torch computes.
    exact : bool
        Whether torch computes the function without rounding.
    """

    error: float = 0.0
    exact: bool = False

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate the exact function."""

    @abstractmethod
    def image(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest value over each interval."""

    @abstractmethod
    def family(self, low: Tensor, high: Tensor) -> Family:
        """Prepare the lines below and above the function over each finite interval.

        Parameters
        ----------
        low, high : Tensor of shape (...)

        Returns
        -------
        callable
            Function of `mix`, a tensor to broadcast with the intervals: from 0 to 1,
            which slope to take where there is a choice; None takes the usual one.
        """

    def usual_mix(self, low: Tensor, high: Tensor) -> Tensor:
        """The mix that None stands for in `family`."""
        return torch.full_like(low, 0.5)

    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """Lines below and above the function over each finite interval.

        Parameters
        ----------
        low, high : Tensor of shape (...)
        """
        return self.family(low, high)(None)

    @abstractmethod
    def steepness(self, low: Tensor, high: Tensor) -> Tensor:
        """A Lipschitz constant on each finite interval."""


class Smooth(Relaxation):
    """Any function whose second derivative is bounded.

    The function minus a line is evaluated on a grid. Between two nodes at distance h it
    differs from its interpolant by at most ``M h**2 / 8``, where M is the supremum of
    ``|g''|`` there. So the line is moved by the extreme value on the grid and by this
    error. Any slope is sound; the one taken is that of the edge of the grid's convex
    envelope over the middle of the interval, which leaves the smallest area.

    Parameters
    ----------
    function : callable
        Elementwise, of a float64 tensor.
    curvature : float or callable
        Bound of ``|g''|``: a number, or a function of tensors ``(low, high)`` that
        bounds it on each interval. At 0, which is always a node, the derivative may
        jump if a callable is given.
    turning : float, optional
        The function falls up to here and rises afterwards (``-inf``: it never falls).
        By default this is unknown, and values are bounded by the grid.
    error : float, default=0.0
        Largest distance between the function and what the layer computes.

    Examples
    --------
    >>> import torch
    >>> square = Smooth(torch.square, curvature=2.0)
    >>> bool(square.lines(torch.tensor(-1.0), torch.tensor(2.0)).upper_slope == 1)
    True
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        curvature: float | Callable[[Tensor, Tensor], Tensor],
        turning: float | None = None,
        error: float = 0.0,
    ):
        self.function = function
        self.curvature = curvature
        self.turning = turning
        self.error = error

    def __call__(self, z: Tensor) -> Tensor:  # noqa: D102
        return self.function(z)

    def image(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        if self.turning is None:
            return self._image_by_grid(low, high)
        remote = max(_REMOTE, torch.finfo(low.dtype).min)
        low, high = low.clamp(min=remote), high.clamp(min=remote)
        lowest = low.clamp(min=self.turning).minimum(high)
        return self(lowest), torch.maximum(self(low), self(high))

    def _image_by_grid(self, low, high):
        _, y, error = self._grid(low, high)
        lowest = (torch.minimum(y[..., 1:], y[..., :-1]) - error).amin(-1)
        highest = (torch.maximum(y[..., 1:], y[..., :-1]) + error).amax(-1)
        finite = torch.isfinite(low) & torch.isfinite(high)
        lowest = torch.where(finite, lowest, -torch.inf)
        return lowest, torch.where(finite, highest, torch.inf)

    def family(self, low: Tensor, high: Tensor) -> Family:  # noqa: D102
        x, y, error = self._grid(low, high)
        slopes, opposite = _Slopes(x, y), _Slopes(x, -y)

        def lines(mix: Tensor | None) -> Lines:
            below = _supporting_line(x, y, error, slopes(mix))
            above = _supporting_line(x, -y, error, opposite(mix))
            return Lines(*below, -above[0], -above[1])

        return lines

    def steepness(self, low: Tensor, high: Tensor) -> Tensor:  # noqa: D102
        high = high.maximum(low + 1e-6 * (1 + low.abs()))  # or rounding hides slopes
        x, y, _ = self._grid(low, high)
        step = x.diff(dim=-1)
        curvature = self._curvature(x[..., :-1], x[..., 1:])
        return (_slope(step, y.diff(dim=-1)).abs() + curvature * step).amax(-1)

    def _grid(self, low, high):
        """Nodes, values, and the interpolation error between neighbours."""
        x = _nodes(low, high, dense=callable(self.curvature))
        step = x.diff(dim=-1)
        # From left to right: the square of a long step may overflow.
        error = self._curvature(x[..., :-1], x[..., 1:]) * step * step / 8
        return x, self(x), error

    def _curvature(self, low, high):
        given = self.curvature
        return given(low, high) if callable(given) else torch.full_like(low, given)


def _nodes(low: Tensor, high: Tensor, *, dense: bool) -> Tensor:
    """Make a grid over each interval: even, or dense near the pivot 0."""
    ramp = torch.linspace(0, 1, _NODES + 1, dtype=low.dtype, device=low.device)
    if not dense:
        even = torch.cat([ramp / 2, (1 + ramp[1:]) / 2])
        return low[..., None] + (high - low)[..., None] * even
    # Near 0 the known activations bend most, and the derivative of ELU may jump there.
    pivot = torch.zeros_like(low).clamp(low, high)
    left = _stretch((pivot - low)[..., None], ramp.flip(0))
    right = _stretch((high - pivot)[..., None], ramp[1:])
    return torch.cat([pivot[..., None] - left, pivot[..., None] + right], dim=-1)


def _stretch(length: Tensor, ramp: Tensor) -> Tensor:
    """From 0 to length, with steps that grow: ``sinh(t asinh(length))``."""
    stretched = torch.sinh(ramp * torch.asinh(length))
    return torch.where(ramp == 1, length, torch.minimum(stretched, length))


def _slope(run: Tensor, rise: Tensor) -> Tensor:
    """Rise over run; 0 over runs too short to divide by."""
    short = run < 1e-12
    return torch.where(short, 0.0, rise / torch.where(short, 1.0, run))


def _supporting_line(x, y, error, slope) -> tuple[Tensor, Tensor]:
    """Slope and intercept of a line below a function known on a grid."""
    rest = y - slope * x
    intercept = torch.minimum(rest[..., 1:], rest[..., :-1]) - error
    return slope.squeeze(-1), intercept.amin(-1)


class _Slopes:
    """Slopes of the lower convex envelope of a function known on a grid.

    They go from the slope at the left end (mix 0) over that in the middle (1/2) to that
    at the right end (1). The slopes at the ends are computed when they are needed.
    """

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y
        self.middle = _envelope_slope(x, y, (x[..., :1] + x[..., -1:]) / 2)

    @lazy
    def _fall_and_rise(self) -> tuple[Tensor, Tensor]:
        ends = self.x[..., :1], self.x[..., -1:]
        return tuple(_envelope_slope(self.x, self.y, end) - self.middle for end in ends)

    def __call__(self, mix: Tensor | None) -> Tensor:
        if mix is None:
            return self.middle
        fall, rise = self._fall_and_rise
        right = 2 * mix[..., None] - 1
        # abs() has no gradient at 0, where the ascent starts.
        return self.middle + right.clamp(min=0) * rise + (-right).clamp(min=0) * fall


def _envelope_slope(x: Tensor, y: Tensor, middle: Tensor) -> Tensor:
    """Slope of the edge of the lower convex envelope over the middle."""
    x0, y0, x1, y1 = x[..., :1], y[..., :1], x[..., -1:], y[..., -1:]
    # The node farthest below the chord is on the envelope; any slope is sound.
    for _ in range(_REFINEMENTS):
        lowest = (y - _slope(x1 - x0, y1 - y0) * x).argmin(-1, keepdim=True)
        x2, y2 = x.gather(-1, lowest), y.gather(-1, lowest)
        left = x2 < middle
        x0, y0 = torch.where(left, x2, x0), torch.where(left, y2, y0)
        x1, y1 = torch.where(left, x1, x2), torch.where(left, y1, y2)
    return _slope(x1 - x0, y1 - y0)
