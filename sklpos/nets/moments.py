"""Mean and deviation of targets that come in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Rows that are summed up at once.
_BLOCK = 2**16
# Rows whose moments are good enough to forget earlier ones.
_ENOUGH = 100
# Normal targets do not go as far: that would be 6.4 standard deviations.
_REACH = 2.0


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean and deviation of targets, per output.

    Attributes
    ----------
    number : int
        Of the rows.
    mean : ndarray of shape (n_outputs,)
        Unit of y.
    deviation, size : ndarray of shape (n_outputs,)
        Roots of the weighted mean squares of ``y - mean`` and of y, unit of y; exactly
        0 for what rounding leaves of a constant.
    largest : ndarray of shape (n_outputs,)
        Largest absolute target.

    Examples
    --------
    >>> one = Moments.of(np.array([[1.0], [3.0]]), np.ones(2))
    >>> both = one.merged(Moments.of(np.array([[5.0]]), np.ones(1)))
    >>> both.number, both.mean.tolist(), both.deviation.round(3).tolist()
    (3, [3.0], [1.633])
    """

    number: int
    mean: NDArray
    deviation: NDArray
    size: NDArray
    largest: NDArray

    @classmethod
    def of(cls, y: NDArray, weight: NDArray, *, robust: bool = False) -> Moments:
        """Moments of the targets of some rows.

        Parameters
        ----------
        y : ndarray of shape (n_samples, n_outputs)
        weight : ndarray of shape (n_samples,)
            Positive.
        robust : bool, default=False
            Whether targets farther out than twice the distance of the 10 % and 90 %
            quantiles count as if they were there.

        Returns
        -------
        Moments
        """
        y = _without_outliers(y, weight / weight.sum()) if robust else y
        low, high = y.min(axis=0), y.max(axis=0)
        largest = np.maximum(-low, high)
        # Divided by the largest value, so that no square overflows or underflows.
        unit = np.where(largest > 0, largest, 1.0)
        # The mean of many equal numbers is rounded to another one, and their distance
        # from it would pass for a scale.
        mean = unit * _mean_of(lambda own: own / unit, y, weight)
        mean = np.clip(mean, low, high)
        deviation, size = (
            _without_rounding(np.sqrt(_mean_of(square, y, weight))) * unit
            for square in (
                lambda own: (own / unit - mean / unit) ** 2,
                lambda own: (own / unit) ** 2,
            )
        )
        return cls(len(y), mean, deviation, size, largest)

    def merged(self, other: Moments) -> Moments:
        """Moments of the rows of both, of which each counts the same [1]_.

        Parameters
        ----------
        other : Moments

        Returns
        -------
        Moments

        References
        ----------
        .. [1] T. F. Chan, G. H. Golub, R. J. LeVeque (1983), "Algorithms for computing
           the sample variance", doi:10.1080/00031305.1983.10483115.
        """
        number = self.number + other.number
        share = other.number / number
        apart = other.mean - self.mean
        largest = np.maximum(self.largest, other.largest)
        unit = np.where(largest > 0, largest, 1.0)
        roots = np.sqrt(1 - share), np.sqrt(share)
        within, size = (
            np.hypot(roots[0] * own, roots[1] * its)
            for own, its in ((self.deviation, other.deviation), (self.size, other.size))
        )
        deviation = np.hypot(within, roots[0] * roots[1] * apart)
        deviation = _without_rounding(deviation / unit) * unit
        mean = self.mean + share * apart
        return Moments(number, mean, deviation, size, largest)


@dataclass(frozen=True, eq=False)
class RunningMoments:
    """Moments of the later part of a stream: of at least half of its rows.

    The rows are in two blocks. When the present one has twice as many as the one
    before, and at least 100, it takes its place, so that a first chunk of another size
    is forgotten soon.

    Attributes
    ----------
    before : Moments
        The earlier block.
    present : Moments or None
        The later block, if there is one.
    robust : bool, default=False
        See `Moments.of`.

    Examples
    --------
    >>> seen = RunningMoments(Moments.of(np.array([[1e6]]), np.ones(1)))
    >>> seen.followed_by(np.ones((1000, 1)), np.ones(1000)).moments.mean.tolist()
    [1.0]
    """

    before: Moments
    present: Moments | None = None
    robust: bool = False

    @property
    def moments(self) -> Moments:
        """Moments of both blocks."""
        return self.before if self.present is None else self.before.merged(self.present)

    def followed_by(
        self, y: NDArray, weight: NDArray, *, anew: bool = False
    ) -> RunningMoments:
        """Moments of the stream with another chunk.

        Parameters
        ----------
        y : ndarray of shape (n_samples, n_outputs)
        weight : ndarray of shape (n_samples,)
            Positive; only ratios within the chunk matter.
        anew : bool, default=False
            Whether to forget all earlier rows.

        Returns
        -------
        RunningMoments
        """
        chunk = Moments.of(y, weight, robust=self.robust)
        present = chunk if self.present is None else self.present.merged(chunk)
        if anew:
            return RunningMoments(chunk, robust=self.robust)
        if present.number >= max(2 * self.before.number, _ENOUGH):
            return RunningMoments(present, robust=self.robust)
        return replace(self, present=present)


def _mean_of(
    function: Callable[[NDArray], NDArray], y: NDArray, weight: NDArray
) -> NDArray:
    total = weight.sum()
    blocks = (slice(n, n + _BLOCK) for n in range(0, len(y), _BLOCK))
    return sum((weight[own] / total) @ function(y[own]) for own in blocks)


def _without_rounding(deviation: NDArray) -> NDArray:
    """Deviations of targets of size 1, without those that rounding leaves."""
    rounding = 4 * np.finfo(np.float64).eps
    return np.where(deviation > rounding, deviation, 0.0)


def _without_outliers(y: NDArray, share: NDArray) -> NDArray:
    """Clip targets far out, as in winsorising."""
    order = np.argsort(y, axis=0)
    reached = np.cumsum(share[order], axis=0)
    low, high = (
        np.take_along_axis(y, order, axis=0)[
            np.argmax(reached >= level - 1e-12, axis=0), np.arange(y.shape[1])
        ]
        for level in (0.1, 0.9)
    )
    reach = np.where(high > low, _REACH * (high - low), np.inf)
    return np.clip(y, low - reach, high + reach)
