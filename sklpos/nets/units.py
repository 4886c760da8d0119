"""Affine scaling of the targets, folded into the last layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.moments import Moments, RunningMoments

#: What targets are divided by while a net trains; None leaves them as they are.
Unit = Literal["deviation", "mean"] | None


@dataclass(frozen=True, eq=False)
class TargetScale:
    """Shift and scale of the targets, and their bounds, per output.

    Attributes
    ----------
    shift : ndarray of shape (n_outputs,)
        Weighted mean of standardised targets; 0 if the head has no bias to hold it, and
        in other units. Unit of y.
    scale : ndarray of shape (n_outputs,)
        Weighted root mean square of ``y - shift``, or what else targets are divided
        by; 1 where that is 0. Unit of y.
    bounds : Bounds
        Unit of y.
    mean : ndarray of shape (n_outputs,) or None
        Weighted mean of y; None in older files.
    deviation : ndarray of shape (n_outputs,) or None
        Weighted standard deviation of y; 1 where that is 0, None in older files. Both
        are those without outliers if the scaling is robust.
    seen : RunningMoments or None
        The targets that all this follows in a stream; None in older files.
    unit : {"deviation", "mean", None}, default="deviation"
    shifted : bool, default=True
        See `from_data`.

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
    mean: np.ndarray | None = None
    deviation: np.ndarray | None = None
    seen: RunningMoments | None = None
    unit: Unit = "deviation"
    shifted: bool = True

    @classmethod
    def from_data(
        cls,
        y,
        weight,
        bounds,
        *,
        shifted=True,
        unit: Unit = "deviation",
        robust=False,
    ):
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
        unit : {"deviation", "mean", None}, default="deviation"
            The deviation standardises the targets. The mean, for losses that need
            targets of at least 0, and None do not shift them.
        robust : bool, default=False
            Whether targets farther out than twice the distance of the 10 % and 90 %
            quantiles count as if they were there. Otherwise one gross error of y
            would set the unit, even for a criterion that ignores it.

        Returns
        -------
        TargetScale
        """
        seen = RunningMoments(Moments.of(y, weight, robust=robust), robust=robust)
        found = seen.moments
        nowhere = np.zeros(y.shape[1])
        # In units of 1, where there is nothing else to measure by.
        targets = cls(nowhere, nowhere + 1, bounds, nowhere, nowhere + 1, seen)
        return replace(targets, unit=unit, shifted=shifted)._measured(found)

    def _measured(self, found: Moments) -> TargetScale:
        """The scaling of targets of these moments; a constant keeps its scale."""
        deviation = np.where(found.deviation > 0, found.deviation, self.deviation)
        shift, scale = np.zeros_like(found.mean), np.ones_like(found.mean)
        if self.unit == "deviation" and self.shifted:
            shift, scale = found.mean, deviation
        elif self.unit == "deviation":
            scale = np.where(found.size > 0, found.size, self.scale)
        elif self.unit == "mean":
            scale = np.where(found.mean > 0, found.mean, self.scale)
        means = {"mean": found.mean, "deviation": deviation}
        return replace(self, shift=shift, scale=scale, **means)

    def following(
        self,
        y: np.ndarray,
        weight: np.ndarray,
        *,
        anew: bool = False,
        tolerance: float = 0.1,
    ) -> TargetScale:
        """Shift and scale after another chunk of a stream.

        Parameters
        ----------
        y : ndarray of shape (n_samples, n_outputs)
        weight : ndarray of shape (n_samples,)
            Positive.
        anew : bool, default=False
            Whether these rows are all that count from now on.
        tolerance : float, default=0.1
            Relative change of a scale, and change of a shift in scales, that is left
            alone: each one is a jolt for the training.

        Returns
        -------
        TargetScale
            Of the later part of the stream, where that is far from the present one.
        """
        if self.seen is None:
            return self
        seen = self.seen.followed_by(y, weight, anew=anew)
        found = replace(self._measured(seen.moments), seen=seen)
        ratio = found.scale / self.scale
        apart = np.abs(found.shift - self.shift) / self.scale
        moved = np.maximum(np.maximum(ratio, 1 / ratio) - 1, apart) > tolerance
        return replace(
            found,
            shift=np.where(moved, found.shift, self.shift),
            scale=np.where(moved, found.scale, self.scale),
        )

    def equals(self, other: TargetScale) -> bool:
        """Whether another one has the same shift and scale.

        Parameters
        ----------
        other : TargetScale

        Returns
        -------
        bool
        """
        pairs = ((self.shift, other.shift), (self.scale, other.scale))
        return all(np.array_equal(own, its) for own, its in pairs)

    @property
    def size(self) -> np.ndarray:
        """Typical size of differences of y, (n_outputs,). Unit of y."""
        return self.scale if self.deviation is None else self.deviation

    @property
    def spread(self) -> np.ndarray:
        """Deviation of the targets in scaled units, (n_outputs,); 1 by default."""
        return self.size / self.scale

    @property
    def start(self) -> np.ndarray:
        """Mean of the targets in scaled units, (n_outputs,)."""
        mean = self.shift if self.mean is None else self.mean
        return self.standardise(mean)

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
        size = max(y.max(), -y.min())
        if size > limit or smallest < 1 / limit:
            raise ValueError(
                f"y has a size of {size:.3g} and a standard deviation of "
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
        """Compute ``(y - shift) / scale``.

        Parameters
        ----------
        y : ndarray of shape (n_samples, n_outputs)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
        """
        return (y - self.shift) / self.scale

    def fold(self, head: nn.Linear) -> None:
        """Turn a head in scaled units into one in the unit of y, in place.

        Parameters
        ----------
        head : nn.Linear
        """
        self._rescale(head, self.scale, self.shift)

    def unfold(self, head: nn.Linear) -> None:
        """Turn a head in the unit of y into one in scaled units, in place.

        Parameters
        ----------
        head : nn.Linear
        """
        self._rescale(head, 1 / self.scale, -self.shift / self.scale)

    @staticmethod
    @torch.no_grad()
    def _rescale(head: nn.Linear, gain: np.ndarray, offset: np.ndarray) -> None:
        gain, offset = (torch.as_tensor(v).to(head.weight) for v in (gain, offset))
        head.weight.mul_(gain[:, None])
        if head.bias is not None:
            head.bias.mul_(gain).add_(offset)
