"""Affine scaling of the targets, folded into the last layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sklpos.nets.bounds import Bounds


@dataclass(frozen=True, eq=False)
class TargetScale:
    """Shift and scale of the targets, and their bounds, per output.

    Attributes
    ----------
    shift : ndarray of shape (n_outputs,)
        Weighted mean of y; 0 if the head has no bias to hold it. Unit of y.
    scale : ndarray of shape (n_outputs,)
        Weighted root mean square of ``y - shift``; 1 where that is 0. Unit of y.
    bounds : Bounds
        Unit of y.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([[1.0], [3.0]])
    >>> targets = TargetScale.from_data(y, np.ones(2), Bounds.read(0.0, None, 1))
    >>> targets.standardise(y).ravel().tolist(), targets.scaled_bounds.lower.tolist()
    ([-1.0, 1.0], [-2.0])
    """

    shift: np.ndarray
    scale: np.ndarray
    bounds: Bounds

    @classmethod
    def from_data(cls, y, weight, bounds, *, shifted=True, scaled=True):
        """Compute shift and scale from targets.

        Parameters
        ----------
        y : ndarray of shape (n_samples, n_outputs)
        weight : ndarray of shape (n_samples,)
            Positive.
        bounds : Bounds
            Unit of y.
        shifted : bool, default=True
            False where the head has no bias.
        scaled : bool, default=True
            False leaves the targets as they are.

        Returns
        -------
        TargetScale
        """
        n_outputs = y.shape[1]
        shift = np.zeros(n_outputs)
        scale = np.ones(n_outputs)
        if scaled:
            largest = np.abs(y).max(axis=0)
            # Divided by the largest value, so that no square overflows or underflows.
            unit = np.where(largest > 0, largest, 1.0)
            share = weight / weight.sum()
            if shifted:
                mean = unit * (share @ (y / unit))
                # The mean of many equal numbers is rounded to another one, and their
                # distance from it would pass for a scale.
                shift = np.clip(mean, y.min(axis=0), y.max(axis=0))
            deviation = np.sqrt(share @ ((y / unit - shift / unit) ** 2))
            # What rounding leaves is not a scale.
            rounding = 4 * np.finfo(np.float64).eps
            scale = np.where(deviation > rounding, deviation * unit, 1.0)
        return cls(shift, scale, bounds)

    def check_target_magnitude(self, y: np.ndarray, dtype: torch.dtype) -> None:
        """Raise ValueError if squares of y overflow, or their unit underflows.

        Parameters
        ----------
        y : ndarray of shape (n_samples, n_outputs)
        dtype : torch.dtype
            Dtype that the net computes in.
        """
        # Squares of 1e150 still fit into float64, in which the scale is computed.
        limit = min(1e150, torch.finfo(dtype).max / 1e3)
        smallest = self.scale.min()
        if np.abs(y).max() > limit or smallest < 1 / limit:
            raise ValueError(
                f"y has a size of {np.abs(y).max():.3g} and a standard deviation of "
                f"{smallest:.3g}, but {dtype} asks for numbers between "
                f"{1 / limit:.0e} and {limit:.0e}; change the unit of y."
            )

    def check_bound_magnitude(self, dtype: torch.dtype) -> None:
        """Raise ValueError if a bound is so far from y that its square overflows.

        Parameters
        ----------
        dtype : torch.dtype
            Dtype that the net computes in.
        """
        limit = torch.finfo(dtype).max / 1e3
        # An overflow to infinity is one of the cases that are looked for.
        with np.errstate(over="ignore"):
            scaled = self.scaled_bounds
        for side in ("lower", "upper"):
            bound, own = getattr(self.bounds, side), getattr(scaled, side)
            # A free side has an infinite bound, which is meant to be far away.
            far = (np.abs(own) > limit**0.5) | (np.abs(bound) > limit)
            if (far := far & np.isfinite(bound)).any():
                raise ValueError(
                    f"{side}_bound={np.unique(bound[far]).tolist()} is too far from y "
                    f"for {dtype}: more than {limit**0.5:.0e} standard deviations of "
                    f"y, or a number above {limit:.0e}; None leaves an output without "
                    "a bound."
                )

    @property
    def scaled_bounds(self) -> Bounds:
        """Bounds in scaled units."""
        return self.bounds.scaled(self.shift, self.scale)

    def standardise(self, y: np.ndarray) -> np.ndarray:
        """Compute ``(y - shift) / scale``."""
        return (y - self.shift) / self.scale

    def fold(self, head: nn.Linear) -> None:
        """Turn a head in scaled units into one in the unit of y, in place."""
        self._rescale(head, self.scale, self.shift)

    def unfold(self, head: nn.Linear) -> None:
        """Turn a head in the unit of y into one in scaled units, in place."""
        self._rescale(head, 1 / self.scale, -self.shift / self.scale)

    @staticmethod
    @torch.no_grad()
    def _rescale(head: nn.Linear, gain: np.ndarray, offset: np.ndarray) -> None:
        gain, offset = (torch.as_tensor(v).to(head.weight) for v in (gain, offset))
        head.weight.mul_(gain[:, None])
        if head.bias is not None:
            head.bias.mul_(gain).add_(offset)
