"""Lower and upper bounds of the outputs: read, compared and rounded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklpos.nets.sides import read_side, rounded_up


# No __eq__: arrays compare element by element, so the generated one would raise.
@dataclass(frozen=True, eq=False)
class Bounds:
    """A lower and an upper bound for each output.

    Attributes
    ----------
    lower : ndarray of shape (n_outputs,) or ()
        ``-inf`` leaves the side free.
    upper : ndarray of shape (n_outputs,) or ()
        ``inf`` leaves the side free.
    n_ordered : int, default=1
        Outputs in a group of consecutive ones, each of which is at least the one
        before, as quantiles are; they have the same bounds. Only strategies with
        ``keeps_order`` see to it.

    Examples
    --------
    >>> bounds = Bounds.read(0.0, [1.0, None], n_outputs=2)
    >>> bounds.violation(np.array([[-1.0, -2.0], [3.0, 3.0]])).tolist()
    [[1.0, 2.0], [2.0, -3.0]]
    """

    lower: NDArray = field(default_factory=lambda: np.array(0.0))
    upper: NDArray = field(default_factory=lambda: np.array(np.inf))
    n_ordered: int = 1

    @classmethod
    def read(
        cls,
        lower_bound: ArrayLike | Tensor | None,
        upper_bound: ArrayLike | Tensor | None,
        n_outputs: int,
    ) -> Bounds:
        """Validate bounds and expand each to one number per output.

        Parameters
        ----------
        lower_bound : float, array-like of shape (n_outputs,) or None
            ``-inf`` and None leave an output free.
        upper_bound : float, array-like of shape (n_outputs,) or None
            ``inf`` and None leave an output free.
        n_outputs : int

        Returns
        -------
        Bounds
            float64.

        Raises
        ------
        ValueError
            If a bound has NaN, the wrong infinity or the wrong length, or if the lower
            one is above the upper one.
        """
        lower = read_side("lower_bound", lower_bound, n_outputs, free=-np.inf)
        upper = read_side("upper_bound", upper_bound, n_outputs, free=np.inf)
        crossed = np.flatnonzero(lower > upper)
        if crossed.size:
            j = crossed[0]
            raise ValueError(
                f"upper_bound={upper[j]:g} is below lower_bound={lower[j]:g}"
                f"{f' for output {j}' if n_outputs > 1 else ''}; it must be at least "
                "that."
            )
        return cls(lower, upper)

    def for_outputs(
        self,
        n_outputs: int,
        lower_bound: ArrayLike | None = None,
        upper_bound: ArrayLike | None = None,
    ) -> Bounds:
        """Validate new bounds, one per output; None keeps the present one.

        Parameters
        ----------
        n_outputs : int
        lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None

        Returns
        -------
        Bounds
        """
        return self.read(
            self.lower if lower_bound is None else lower_bound,
            self.upper if upper_bound is None else upper_bound,
            n_outputs,
        )

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def arrays(self) -> tuple[NDArray, ...]:
        """What distinguishes them; a free upper side adds nothing, as in old files."""
        has_upper = np.isfinite(self.upper).any()
        return (self.lower, self.upper) if has_upper else (self.lower,)

    @property
    def sides(self) -> NDArray:
        """The lower bounds, then the upper ones, shape (2, n_outputs)."""
        return np.stack([self.lower, self.upper])

    @property
    def bounded(self) -> NDArray:
        """Which outputs have a finite bound, on either side."""
        return np.isfinite(self.sides).any(axis=0)

    @property
    def two_sided(self) -> NDArray:
        """Which outputs have finite bounds on both sides."""
        return np.isfinite(self.sides).all(axis=0)

    @property
    def size(self) -> NDArray:
        """Largest absolute finite bound of each output; 0 where both are free."""
        sides = self.sides
        return np.where(np.isfinite(sides), np.abs(sides), 0.0).max(axis=0)

    def violation(self, predictions: NDArray) -> NDArray:
        """How far predictions are outside; at most 0 inside.

        Parameters
        ----------
        predictions : ndarray of shape (..., n_outputs)

        Returns
        -------
        ndarray of the same shape
        """
        # An infinite prediction is far from a free side, not at inf - inf = NaN of it.
        with np.errstate(invalid="ignore"):
            return np.fmax(self.lower - predictions, predictions - self.upper)

    def contain(self, values: NDArray) -> NDArray:
        """Which values lie within the bounds; NaN does not.

        Parameters
        ----------
        values : ndarray of shape (..., n_outputs)

        Returns
        -------
        ndarray of bool of the same shape
        """
        return (values >= self.lower) & (values <= self.upper)

    def clip(self, values: NDArray) -> NDArray:
        """Move values to the nearest ones within the bounds.

        Parameters
        ----------
        values : ndarray of shape (..., n_outputs)

        Returns
        -------
        ndarray of the same shape
        """
        return np.clip(values, self.lower, self.upper)

    def mirrored(self) -> NDArray:
        """Lower bounds of ``(f, -f)``: a side is a column, and an upper one is negated.

        Returns
        -------
        ndarray of shape (2 * n_outputs,)
            ``-inf`` where a side is free.
        """
        return np.concatenate([self.lower, -self.upper])

    def narrowed(self, margin: ArrayLike) -> Bounds:
        """Bounds that keep a distance from these.

        Parameters
        ----------
        margin : float or ndarray of shape (n_outputs,)

        Returns
        -------
        Bounds
            Their middle, twice, where they are closer than two margins.
        """
        inside = np.minimum(margin, (self.upper - self.lower) / 2)
        lower = self.lower + inside
        # Half of the distance is rounded, so the two could cross.
        return replace(self, lower=lower, upper=np.maximum(self.upper - inside, lower))

    def only(self, outputs: NDArray) -> Bounds:
        """Bounds of some outputs; the others are free.

        Parameters
        ----------
        outputs : ndarray of bool of shape (n_outputs,)

        Returns
        -------
        Bounds
        """
        lower = np.where(outputs, self.lower, -np.inf)
        return Bounds(lower, np.where(outputs, self.upper, np.inf))

    def repeated(self, n: int) -> Bounds:
        """Bounds of all outputs `n` times, one copy after the other.

        Parameters
        ----------
        n : int

        Returns
        -------
        Bounds
        """
        lower, upper = np.tile(self.lower, n), np.tile(self.upper, n)
        return replace(self, lower=lower, upper=upper)

    def scaled(self, shift: ArrayLike, scale: ArrayLike) -> Bounds:
        """Bounds of ``(f - shift) / scale``.

        Parameters
        ----------
        shift, scale : float or ndarray of shape (n_outputs,)
            The scale is positive.

        Returns
        -------
        Bounds
        """
        lower, upper = ((side - shift) / scale for side in (self.lower, self.upper))
        return replace(self, lower=lower, upper=upper)

    def in_dtype(self, dtype: torch.dtype) -> Bounds:
        """Numbers of a dtype that are within the bounds, as near to them as possible.

        Parameters
        ----------
        dtype : torch.dtype

        Returns
        -------
        Bounds
            float64. Where no number of the dtype lies between both bounds, both are
            the one that is nearest.
        """
        nearest = torch.as_tensor(self.lower).to(dtype).double().numpy()
        lower = rounded_up(self.lower, dtype)
        upper = -rounded_up(-self.upper, dtype)
        crossed = lower > upper
        return replace(
            self,
            lower=np.where(crossed, nearest, lower),
            upper=np.where(crossed, nearest, upper),
        )

    def __repr__(self) -> str:
        return f"Bounds(lower={self.lower.tolist()}, upper={self.upper.tolist()})"
