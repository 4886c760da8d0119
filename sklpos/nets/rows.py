"""Predictions and head features of many rows, computed in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklpos.nets.any_rows import Rows, chunks_of, rows_per_pass
from sklpos.nets.bounds import Bounds
from sklpos.nets.chunks import Chunk, arrays, largest_sums
from sklpos.nets.copies import copy_module
from sklpos.nets.head import head_input
from sklpos.nets.placement import has_float64, has_room
from sklpos.nets.precision import full_precision
from sklpos.nets.tensors import without_torch

# Bytes of features that are kept in memory between the rounds of a repair.
_MAX_CACHE = 2**25
# Outputs of a layer that are in memory at once: 2 MB in float32.
_MAX_UNITS = 2**19
# Rows near the bound that are predicted one by one.
_MAX_SINGLES = 256


class RowChunks(Protocol):
    """Rows in chunks, the same in each iteration; ``len`` is the number of rows."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[NDArray]: ...


def predict_rows(module: nn.Module, X: Rows, rows: int | None = None) -> np.ndarray:
    """Predict rows in the dtype of the module, chunk by chunk.

    Parameters
    ----------
    module : nn.Module
    X : ndarray, SparseRows or ItemRows of shape (n_samples, ...)
    rows : int, optional
        Rows per forward pass, of an array.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
    """
    if not isinstance(X, np.ndarray):
        return np.concatenate([_outputs(module, chunk) for chunk in chunks_of(X)])
    # Looking at the layers would take a noticeable part of a prediction of one row.
    if len(X) == 1:
        return _outputs(module, X)
    rows = rows or rows_per_forward(module, X)
    first = _outputs(module, X[:rows])
    if len(X) <= rows:
        return first
    # One array, allocated beforehand: a list of parts would keep the memory of the
    # features between them from being reused.
    predictions = np.empty((len(X), first.shape[1]), first.dtype)
    predictions[:rows] = first
    for start in range(rows, len(X), rows):
        part = slice(start, start + rows)
        predictions[part] = _outputs(module, X[part])
    return predictions


def rows_per_forward(module: nn.Module, X: Any) -> int:
    """Number of rows that go through a module at once.

    Parameters
    ----------
    module : nn.Module
    X : array, tensor or SparseRows of shape (n_samples, ...)

    Returns
    -------
    int
        Fewer than `rows_per_pass` where layers are wide.

    Examples
    --------
    >>> rows_per_forward(nn.Linear(10, 4096), np.empty((3, 10)))
    128
    """
    linear = (part for part in module.modules() if isinstance(part, nn.Linear))
    width = max((max(part.weight.shape) for part in linear), default=1)
    return min(rows_per_pass(X), max(_MAX_UNITS // width, 1))


def _parts(module: nn.Module, rows: Rows | RowChunks) -> Iterator[NDArray]:
    if not isinstance(rows, np.ndarray):
        return chunks_of(rows)
    size = rows_per_forward(module, rows)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _outputs(module, X) -> np.ndarray:
    # The module's own dtype and device: a guarantee is about what it really predicts.
    weight = next(module.parameters())
    # Asked first, as the context takes a noticeable part of a prediction of one row.
    if torch.is_autocast_enabled(weight.device.type):
        with full_precision():
            return _outputs(module, X)
    outputs = without_torch(_forward(module, X))
    # A bare module may return a vector.
    return outputs[:, None] if outputs.ndim == 1 else outputs


@torch.inference_mode()
def _forward(module, X) -> Tensor:
    weight = next(module.parameters())
    return module(torch.as_tensor(X, dtype=weight.dtype, device=weight.device))


def _hidden(module, head: str, rows) -> Iterator[Tensor]:
    with head_input(module, head) as seen:
        for chunk in _parts(module, rows):
            with full_precision():
                _forward(module, chunk)
            # Popped, so that one chunk is held at a time.
            yield seen.pop()


def _features(hidden: Tensor, has_bias: bool) -> Chunk:
    n_rows, width = hidden.shape
    shape = n_rows, width + has_bias
    # The bias is the weight of a last feature that is always 1.
    if hidden.is_cpu:
        features = np.ones(shape)
        hidden = without_torch(hidden)
    else:
        features = hidden.new_ones(shape, dtype=torch.float64)
    features[:, :width] = hidden
    return features


def feature_source(
    module: nn.Module, head: str, rows: NDArray | RowChunks
) -> Callable[[], Iterator[Chunk]]:
    """Make a function that iterates over the head's features in chunks.

    Parameters
    ----------
    module : nn.Module
    head : str
        Dotted name of the head.
    rows : ndarray of shape (n_samples, n_features) or RowChunks

    Returns
    -------
    callable
        Returns an iterator over float64 arrays (rows, n_hidden), with a last column of
        ones if the head has a bias; over tensors on an accelerator that has float64.
        Small sets of features are kept in memory, in the dtype of the module; others
        are computed anew in each iteration.
    """
    linear = module.get_submodule(head)
    has_bias = linear.bias is not None
    device = linear.weight.device
    place = device if has_float64(device) else torch.device("cpu")

    def computed() -> Iterator[Tensor]:
        return (part.to(place) for part in _hidden(module, head, rows))

    size = len(rows) * linear.weight[:1].nbytes
    if size <= _MAX_CACHE or (place.type != "cpu" and has_room(place, size)):
        held = list(computed())
        return lambda: (_features(hidden, has_bias) for hidden in held)
    return lambda: (_features(hidden, has_bias) for hidden in computed())


def rounding_margin(
    module: nn.Module,
    rows: NDArray | RowChunks,
    features: Callable[[], Iterator[Chunk]],
    coef: NDArray,
    *,
    bounds: Bounds,
    scale: NDArray,
) -> NDArray:
    """Bound the rounding of predictions: by their size, and in float32 by measuring.

    Parameters
    ----------
    module : nn.Module
    rows : ndarray of shape (n_samples, n_features) or RowChunks
    features : callable
        Iterates over the features of the rows, see `feature_source`.
    coef : ndarray of shape (n_outputs, d1)
        The head.
    bounds : Bounds
        Predictions near a bound have its size at least. Unit of y.
    scale : ndarray of shape (n_outputs,)
        Unit of y.

    Returns
    -------
    ndarray of shape (n_outputs,)
        Unit of y.
    """
    dtype = next(module.parameters()).dtype
    sizes = [largest_sums(part, np.abs(coef)) for part in features()]
    largest = np.max(arrays(sizes), axis=0)
    # A bound beyond all predictions is no reason to keep far away from the other one.
    near = Bounds(
        np.where(bounds.lower >= -largest, bounds.lower, -np.inf),
        np.where(bounds.upper <= largest, bounds.upper, np.inf),
    )
    rounding = 8 * torch.finfo(dtype).eps * np.maximum(largest, near.size)
    # 1e-9 standard deviations keep float64 predictions off the bound; float32 needs
    # more.
    margin = 1e-9 * scale + rounding
    if dtype != torch.float64:
        # Hidden layers round as well, which the size of the last sum does not show;
        # on the CPU, as some accelerators have no float64.
        exact = copy_module(module, {}).cpu().double()
        some = _spread(rows)
        rounding = np.abs(_outputs(module, some) - _outputs(exact, some))
        # The factor is for the rows that were not measured.
        margin = margin + 4 * rounding.max(axis=0)
    return margin


def _spread(rows) -> NDArray:
    """Evenly spaced rows, as many as one forward pass takes."""
    if isinstance(rows, Rows):
        return rows[:: math.ceil(len(rows) / rows_per_pass(rows))]
    start = 0
    step = 1
    parts = []
    for chunk in rows:
        step = math.ceil(len(rows) / rows_per_pass(chunk))
        # The first multiple of step in this chunk is -start % step rows in.
        parts.append(chunk[-start % step :: step])
        start += len(chunk)
    return np.concatenate(parts)


def obeys(
    module: nn.Module, rows: NDArray | RowChunks, bounds: Bounds, margin: NDArray
) -> bool:
    """Whether all predictions obey the bounds, both in large batches and row by row.

    Parameters
    ----------
    module : nn.Module
    rows : ndarray of shape (n_samples, n_features) or RowChunks
    bounds : Bounds
        Unit of y.
    margin : ndarray of shape (n_outputs,)
        Rows within 8 margins of a bound are also predicted one by one.

    Returns
    -------
    bool
    """
    left = _MAX_SINGLES
    for chunk in _parts(module, rows):
        predictions = _outputs(module, chunk)
        if not bounds.contain(predictions).all():
            return False
        # Matrix products sum in another order for one row than for many, so a row near
        # the bound may obey it in a batch and not alone.
        close = bounds.violation(predictions) > -8 * margin
        near = np.flatnonzero(close.any(axis=1))[:left]
        if near.size:
            single = predict_rows(module, chunk[near], rows=1)
            if not bounds.contain(single).all():
                return False
        left -= len(near)
    return True
