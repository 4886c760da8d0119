"""Piecewise-linear encoding of inputs, from the quantiles of the training rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Least width of an interval, as a share of its larger end. float32 rounds both, so a
# position inside of a narrower interval would be wrong by more than 2e-4 of it.
_LEAST_WIDTH = 2.0**-11
# Rounding of the sum of the weights, when a quantile falls on the edge of a row.
_TIE = 1e-9
# Rows per pass, so that memory does not grow with the data.
_CHUNK_SIZE = 4096


class Encoding(nn.Module):
    """Encoded inputs ``relu(shift + sign * relu(slope * x + offset)) - centre``.

    Each unit reads one column. Both layers are plain, so the product of a fit computes
    the same with ``nn.Linear`` and ``nn.ReLU``. The position in an interval,
    ``u = (x - low) / (high - low)`` clipped to [0, 1], is ``relu(1 - relu(1 - u))``,
    which stays exact where ``relu(x - low) - relu(x - high)`` would be the difference
    of two large numbers.

    Parameters
    ----------
    column : ndarray of int of shape (n_units,)
    slope, offset, sign, shift : ndarray of shape (n_units,)
    X : torch.Tensor of shape (n_samples, n_features)
        Training rows; the encoding has mean 0 on them.
    weight : torch.Tensor of shape (n_samples,)

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev, A. Babenko (2022), "On embeddings for numerical
       features in tabular deep learning", arXiv:2203.05556.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> encoding = Encoding.of_intervals(X, torch.ones(3), n_intervals=2)
    >>> (encoding(X) + encoding.centre).tolist()
    [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    """

    def __init__(self, column, slope, offset, sign, shift, X: Tensor, weight: Tensor):
        super().__init__()
        self.register_buffer("column", torch.as_tensor(column))
        values = {"slope": slope, "offset": offset, "sign": sign, "shift": shift}
        for name, value in values.items():
            self.register_buffer(name, torch.as_tensor(value).to(X))
        self.register_buffer("centre", self.shift.new_zeros(len(self.column)))
        self.centre += weighted_mean(self, X, weight)

    @classmethod
    def of_intervals(cls, X: Tensor, weight: Tensor, n_intervals: int) -> Encoding:
        """Position in each interval between quantiles of a column.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features)
            float64.
        weight : torch.Tensor of shape (n_samples,)
        n_intervals : int
            Largest number per column. Few distinct values give fewer.

        Returns
        -------
        Encoding
        """
        shares = weight.double().numpy() / float(weight.sum())
        knots = [quantile_knots(x, shares, n_intervals) for x in X.numpy().T]
        column = np.repeat(np.arange(len(knots)), [len(own) - 1 for own in knots])
        low = np.concatenate([own[:-1] for own in knots])
        width = np.concatenate([np.diff(own) for own in knots])
        ones = np.ones(len(low))
        return cls(column, -1 / width, 1 + low / width, -ones, ones, X, weight)

    @classmethod
    def of_ends(cls, X: Tensor, weight: Tensor) -> Encoding:
        """Distances of each column from its lowest and its highest value.

        With weights of one sign behind them, a model can fall as well as rise.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features)
            float64.
        weight : torch.Tensor of shape (n_samples,)

        Returns
        -------
        Encoding
        """
        lowest, highest = X.amin(0).numpy(), X.amax(0).numpy()
        columns = np.tile(np.arange(len(lowest)), 2)
        ones = np.ones(len(lowest))
        slope = np.concatenate([ones, -ones])
        offset = np.concatenate([-lowest, highest])
        return cls(columns, slope, offset, np.tile(ones, 2), 0 * slope, X, weight)

    def __len__(self) -> int:
        return len(self.column)

    def forward(self, X: Tensor) -> Tensor:
        """Map (n_samples, n_features) to (n_samples, n_units)."""
        inner = torch.addcmul(self.offset, X[:, self.column], self.slope).relu()
        return torch.addcmul(self.shift, inner, self.sign).relu() - self.centre


def quantile_knots(x: NDArray, shares: NDArray, n_intervals: int) -> NDArray:
    """Values of a column at equally spaced quantiles, not too close to each other.

    A row that occurs twice counts as one of twice the weight.

    Parameters
    ----------
    x : ndarray of shape (n_samples,)
    shares : ndarray of shape (n_samples,)
        Weights; their sum is 1.
    n_intervals : int

    Returns
    -------
    ndarray of shape (n_knots,)
        Increasing; at most ``n_intervals + 1``.

    Examples
    --------
    >>> quantile_knots(np.arange(101.0), np.full(101, 1 / 101), 4).tolist()
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    order = np.argsort(x, kind="stable")
    reached = np.cumsum(shares[order])
    wanted = np.linspace(0, 1, n_intervals + 1) - _TIE
    index = np.searchsorted(reached, wanted).clip(max=len(x) - 1)
    first, *others = np.unique(x[order][index])
    knots = [first]
    for knot in others:
        if knot - knots[-1] > _LEAST_WIDTH * max(abs(knot), abs(knots[-1])):
            knots.append(knot)
    return np.array(knots)


@torch.no_grad()
def weighted_mean(
    function: Callable[[Tensor], Tensor], X: Tensor, weight: Tensor
) -> Tensor:
    """Weighted mean of a function of rows, computed in chunks.

    Parameters
    ----------
    function : callable
        Maps (batch, n_features) to (batch, n_values).
    X : torch.Tensor of shape (n_samples, n_features)
    weight : torch.Tensor of shape (n_samples,)

    Returns
    -------
    torch.Tensor of shape (n_values,)
    """
    shares = (weight / weight.sum()).to(X)
    parts = zip(X.split(_CHUNK_SIZE), shares.split(_CHUNK_SIZE), strict=True)
    return sum(own @ function(rows) for rows, own in parts)
