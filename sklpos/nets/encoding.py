"""Piecewise-linear encoding of inputs, from the quantiles of the training rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklpos.nets.any_rows import Rows, TensorRows, columns_of, count_rows, rows_per_pass

# Least width of an interval, as a share of its larger end. float32 rounds both, so a
# position inside of a narrower interval would be wrong by more than 2e-4 of it.
_LEAST_WIDTH = 2.0**-11
# float32 does not hold the reciprocals of smaller numbers with some room.
_SMALLEST = 2.0**-100
# Rounding of the sum of the weights, when a quantile falls on the edge of a row.
_TIE = 1e-9
# Fewer intervals say little more than the feature itself.
_FEWEST_INTERVALS = 4
# Weights that are summed up at once.
_BLOCK = 2**16
# Values that are added up at once, 16 MB, and rows of which they are computed at once.
_MAX_VALUES, _FEW_ROWS = 2**21, 128


class Encoding(nn.Module):
    """Position of a row in each interval between knots, minus the mean of the rows.

    The position is ``(x - low) / (high - low)``, clipped to [0, 1]. So the product of a
    fit computes the same with ``nn.Linear`` and ``nn.Hardtanh(0, 1)``, and it stays
    exact where ``relu(x - low) - relu(x - high)`` would be the difference of two large
    numbers.

    Parameters
    ----------
    knots : list of ndarray
        Ends of the intervals of each column, increasing.
    X : torch.Tensor of shape (n_samples, n_features)
        Training rows; the encoding has mean 0 on them.
    weight : torch.Tensor of shape (n_samples,)
    shrinks : bool, default=False
        Whether columns of two values count less if one of them is rare.

    Attributes
    ----------
    passed : torch.Tensor of shape (n_passed,)
        Columns that say more than their position: all but those of two values.
    column : torch.Tensor of shape (n_intervals,)
        Which column a unit reads.
    slope, offset : torch.Tensor of shape (n_intervals,)
        The position is ``slope * x + offset`` before it is clipped.
    height, centre : torch.Tensor of shape (n_intervals,)
        Factor of the position, and the mean of the rows after it.

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev, A. Babenko (2022), "On embeddings for numerical
       features in tabular deep learning", arXiv:2203.05556.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> encoding = Encoding([np.array([0.0, 1.0, 3.0])], X, torch.ones(3))
    >>> (encoding(X) + encoding.centre).tolist()
    [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    """

    def __init__(
        self, knots: list[NDArray], X: Tensor, weight: Tensor, *, shrinks: bool = False
    ):
        super().__init__()
        sizes = torch.tensor([len(own) - 1 for own in knots])
        columns = torch.arange(len(knots))
        self.register_buffer("passed", columns[sizes != 1])
        self.register_buffer("column", columns.repeat_interleave(sizes))
        low = torch.as_tensor(np.concatenate([own[:-1] for own in knots]))
        width = torch.as_tensor(np.concatenate([np.diff(own) for own in knots]))
        self.register_buffer("slope", 1 / width)
        self.register_buffer("offset", -low / width)
        self.register_buffer("height", torch.ones_like(low))
        self.register_buffer("centre", torch.zeros_like(low))
        mean = weighted_mean(self, X, weight, width=max(len(self), 1))
        if shrinks:
            share = mean.clamp(0, 1)
            rare = 2 * (share * (1 - share)).sqrt()
            self.height = torch.where(sizes[self.column] == 1, rare, 1.0)
        self.centre = self.height * mean

    @classmethod
    def of_rows(
        cls,
        X: TensorRows,
        weight: Tensor,
        n_intervals: int,
        most: int,
        *,
        shrinks: bool,
    ) -> Encoding:
        """Intervals between quantiles of the rows.

        Parameters
        ----------
        X : torch.Tensor or SparseTensor of shape (n_samples, n_features)
        weight : torch.Tensor of shape (n_samples,)
        n_intervals : int
            Largest number per column; few distinct values give fewer.
        most : int
            Largest number of all columns; distinct rows are a limit, too. To keep it,
            each column has fewer, and none if that were fewer than 4.
        shrinks : bool

        Returns
        -------
        Encoding
        """
        weights = weight.numpy()
        most = count_distinct(X.numpy(), most) if n_intervals else 0
        found = _knots_of_columns(X.numpy(), weights, n_intervals, most)
        sizes = np.array([len(own) - 1 for own in found])
        numbers = range(n_intervals + 1)
        fewer = max(n for n in numbers if np.minimum(sizes, n).sum() <= most)
        if fewer < n_intervals:
            fewer = fewer if fewer >= _FEWEST_INTERVALS else 0
            found = _knots_of_columns(X.numpy(), weights, fewer, most)
        return cls(found, X, weight, shrinks=shrinks)

    def __len__(self) -> int:
        return len(self.column)

    def forward(self, X: Tensor, out: Tensor | None = None) -> Tensor:
        """Map (n_samples, n_features) to (n_samples, n_intervals)."""
        found = X.index_select(1, self.column)
        position = torch.addcmul(self.offset, found, self.slope, out=out)
        # In place, because new memory takes longer than the arithmetic.
        return position.clamp_(0, 1).mul_(self.height).sub_(self.centre)


def _knots_of_columns(
    X: Rows, weights: NDArray, n_intervals: int, most: int
) -> list[NDArray]:
    """Knots of each column; a single one if more than `most` have an interval."""
    found = []
    for x in columns_of(X) if n_intervals else ():
        found.append(quantile_knots(x, weights, n_intervals))
        most -= len(found[-1]) > 1
        # Columns beyond the limit would get none whatever the others have.
        if most < 0:
            break
    else:
        if n_intervals:
            return found
    return list(X.min(axis=0).astype(np.float64)[:, None])


def quantile_knots(x: NDArray, weights: NDArray, n_intervals: int) -> NDArray:
    """Values of a column at equally spaced quantiles, not too close to each other.

    A row that occurs twice counts as one of twice the weight.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
    weights : ndarray of shape (n_samples,)
        Positive.
    n_intervals : int
        0 yields a single knot.

    Returns
    -------
    ndarray of shape (n_knots,)
        Increasing, float64; at most ``n_intervals + 1``.

    Examples
    --------
    >>> quantile_knots(np.arange(101.0), np.ones(101), 4).tolist()
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    wanted = np.linspace(0, 1, n_intervals + 1) - _TIE
    if (weights == weights[0]).all():
        # Whatever the order of the rows, the same ranks reach the quantiles.
        ranks = _ranks_at(wanted, weights)
        at_quantiles = np.partition(x, ranks)[ranks]
    else:
        order = np.argsort(x, kind="stable")
        at_quantiles = x[order[_ranks_at(wanted, weights, order)]]
    first, *others = np.unique(at_quantiles.astype(np.float64))
    knots = [first]
    for knot in others:
        size = max(abs(knot), abs(knots[-1]))
        if knot - knots[-1] > max(_LEAST_WIDTH * size, _SMALLEST):
            knots.append(knot)
    return np.array(knots)


def _ranks_at(wanted: NDArray, weights: NDArray, order: Any = ...) -> NDArray:
    """First rank at which the sum of the shares of all rows so far reaches a level."""
    total, reached = float(weights.sum()), 0.0
    index = np.zeros(len(wanted), dtype=np.intp)
    # Block by block, in the order in which one sum over all rows would add them.
    for start in range(0, len(weights), _BLOCK):
        block = slice(start, start + _BLOCK)
        sums = weights[block if order is ... else order[block]] / total
        sums[0] += reached
        np.cumsum(sums, out=sums)
        index += np.searchsorted(sums, wanted)
        reached = sums[-1]
    return index.clip(max=len(weights) - 1)


@torch.no_grad()
def weighted_mean(
    function: Callable[[Tensor], Tensor],
    X: TensorRows,
    weight: Tensor,
    width: int = 1,
) -> Tensor:
    """Weighted mean of a function of rows, computed in chunks.

    Parameters
    ----------
    function : callable
        Maps (batch, n_features) to (batch, n_values), both float64.
    X : torch.Tensor or SparseTensor of shape (n_samples, n_features)
    weight : torch.Tensor of shape (n_samples,)
    width : int, default=1
        Values per row that the function computes on its way.

    Returns
    -------
    torch.Tensor of shape (n_values,)
        float64.
    """
    total = weight.sum()
    size = min(rows_per_pass(X), max(_MAX_VALUES // width, 1))
    parts = zip(X.split(size), weight.split(size), strict=True)
    return sum((own / total).double() @ _values(function, rows) for rows, own in parts)


def _values(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    # Of few at a time, as it takes more memory than its values. They are added up in
    # one product, whose size decides how it rounds.
    done, values = 0, torch.empty(0)
    for part in rows.split(_FEW_ROWS):
        found = function(part.double())
        values = values if done else found.new_empty(len(rows), found.shape[1])
        values[done : done + len(found)] = found
        done += len(found)
    return values


def standardisation(X: TensorRows, weight: Tensor) -> dict[str, Tensor]:
    """Lowest value, mean and reciprocal standard deviation of each feature.

    Parameters
    ----------
    X : torch.Tensor or SparseTensor of shape (n_samples, n_features)
    weight : torch.Tensor of shape (n_samples,)

    Returns
    -------
    dict
        ``lowest``, ``centre`` and ``gain``, of shape (n_features,); the gain of a
        constant is 1. So is that of a feature that varies by less than 1e-30.
    """
    lowest, highest = X.amin(0).double(), X.amax(0).double()
    centre = weighted_mean(lambda rows: rows, X, weight)
    # In shares of the range, because squares of large numbers overflow.
    reach = torch.where(highest > lowest, highest - lowest, 1.0)
    share = weighted_mean(lambda rows: ((rows - centre) / reach) ** 2, X, weight).sqrt()
    # A constant may differ from its mean, which is rounded.
    varies = (highest > lowest) & (share * reach > _SMALLEST)
    gain = torch.where(varies, 1 / share / reach, 1.0)
    return {"lowest": lowest, "centre": centre, "gain": gain}


def count_distinct(X: Rows, most: int) -> int:
    """Count distinct rows, but no further than to a number.

    Parameters
    ----------
    X : ndarray or SparseRows of shape (n_samples, n_features)
    most : int

    Returns
    -------
    int

    Examples
    --------
    >>> count_distinct(np.array([[1.0], [2.0], [1.0]]), most=10)
    2
    """
    # A part of many rows is nearly always enough, and takes a fraction of the time.
    part = count_rows(X, 4 * most)
    enough = part >= most or len(X) <= 4 * most
    return min(most, part if enough else count_rows(X))
