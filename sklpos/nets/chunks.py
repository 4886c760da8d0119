"""Sums over the features of many rows, and the few rows out of bounds, by chunk.

A chunk is a float64 matrix of features, one row each: an array, or a tensor on the
accelerator that computes it. That stays there; only sums and the rows that are asked
for leave it. All numbers are those of arrays, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklpos.nets.placement import fetched, sent

#: Features of some rows, float64.
Chunk = np.ndarray | Tensor


@singledispatch
def largest_sums(chunk: Chunk, sizes: NDArray) -> Chunk:
    """Largest sum of the absolute terms of a prediction.

    Parameters
    ----------
    chunk : ndarray or torch.Tensor of shape (n_rows, d1)
    sizes : ndarray of shape (n_outputs, d1)
        Absolute values of the heads.

    Returns
    -------
    ndarray or torch.Tensor of shape (n_outputs,)

    Examples
    --------
    >>> largest_sums(np.array([[-1.0, 2.0], [0.5, 0.0]]), np.array([[1.0, 1.0]]))
    array([3.])
    """
    return np.max(np.abs(chunk) @ sizes.T, axis=0)


@largest_sums.register(Tensor)
def _(chunk: Tensor, sizes: NDArray) -> Tensor:
    return (chunk.abs() @ _beside(chunk, sizes).T).amax(0)


@singledispatch
def weighted_sums(
    chunk: Chunk, weight: NDArray, targets: NDArray | None
) -> tuple[Chunk, ...]:
    """Weighted sums of products of the features.

    Parameters
    ----------
    chunk : ndarray or torch.Tensor of shape (n_rows, d1)
    weight : ndarray of shape (n_rows,)
    targets : ndarray of shape (n_rows, n_outputs) or None

    Returns
    -------
    tuple
        Sums of the outer products of the features, of the features, and, with targets,
        of the products of a target and a feature.

    Examples
    --------
    >>> gram, total = weighted_sums(np.array([[1.0, 2.0]]), np.array([3.0]), None)
    >>> gram.tolist(), total.tolist()
    ([[3.0, 6.0], [6.0, 12.0]], [3.0, 6.0])
    """
    sums = (chunk.T * weight) @ chunk, weight @ chunk
    return sums if targets is None else (*sums, (targets.T * weight) @ chunk)


@weighted_sums.register(Tensor)
def _(chunk: Tensor, weight: NDArray, targets: NDArray | None) -> tuple[Tensor, ...]:
    weight = _beside(chunk, weight)
    sums = (chunk.T * weight) @ chunk, chunk.T @ weight
    if targets is None:
        return sums
    return (*sums, (_beside(chunk, targets).T * weight) @ chunk)


@singledispatch
def screened(
    chunk: Chunk, heads: NDArray, lower: NDArray, upper: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Find the rows that some head predicts out of its range.

    Parameters
    ----------
    chunk : ndarray or torch.Tensor of shape (n_rows, d1)
    heads : ndarray of shape (n_outputs, d1)
    lower, upper : ndarray of shape (n_outputs,)

    Returns
    -------
    numbers : ndarray of int of shape (n_found,)
        Of an array, all rows: looking for some takes longer than to go on with all.
    features : ndarray of shape (n_found, d1)
    predictions : ndarray of shape (n_found, n_outputs)

    Examples
    --------
    >>> chunk = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    >>> one = np.ones(1)
    >>> screened(chunk, one[:, None], 0 * one, np.inf * one)[0].tolist()
    [0]
    """
    return np.arange(len(chunk)), chunk, chunk @ heads.T


@screened.register(Tensor)
def _(
    chunk: Tensor, heads: NDArray, lower: NDArray, upper: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    predictions = chunk @ _beside(chunk, heads).T
    beyond = predictions < _beside(chunk, lower)
    beyond |= predictions > _beside(chunk, upper)
    # Waits for the device: how many there are decides what comes back.
    (rows,) = beyond.any(1).nonzero(as_tuple=True)
    found = fetched(rows, chunk[rows], predictions[rows])
    return tuple(part.numpy() for part in found)


def arrays(sums: Sequence[Chunk]) -> list[NDArray]:
    """Sums as arrays; those of tensors are read together.

    Parameters
    ----------
    sums : sequence of ndarray or of torch.Tensor

    Returns
    -------
    list of ndarray
    """
    if not any(isinstance(values, Tensor) for values in sums):
        return list(sums)
    return [values.numpy() for values in fetched(*map(torch.as_tensor, sums))]


def _beside(chunk: Tensor, values: NDArray) -> Tensor:
    # A copy, because torch warns of arrays that it must not write to.
    return sent(torch.tensor(values, dtype=chunk.dtype), chunk.device)
