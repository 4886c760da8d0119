"""Predictions and head features of many rows, computed in chunks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from sklpos.nets.head import head_input

_ROWS = 4096  # rows of one forward pass


_CACHED = 2**25  # bytes of features held in memory between the rounds of a repair


_SINGLES = 256


def predict_rows(module: nn.Module, X: np.ndarray, rows: int = _ROWS) -> np.ndarray:
    """Return the outputs of a module, computed in its own dtype.

    Parameters
    ----------
    module : nn.Module
    X : ndarray of shape (n_samples, n_features)
    rows : int
        Rows of one forward pass.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
    """
    first = _outputs(module, X[:rows])
    if len(X) <= rows:
        return first
    # filled at once: to keep the parts would leave holes in the heap, of all features
    predictions = np.empty((len(X), first.shape[1]), first.dtype)
    predictions[:rows] = first
    for start in range(rows, len(X), rows):
        part = slice(start, start + rows)
        predictions[part] = _outputs(module, X[part])
    return predictions


def _outputs(module, X) -> np.ndarray:
    weight = next(module.parameters())
    with torch.inference_mode():
        inputs = torch.as_tensor(X, dtype=weight.dtype, device=weight.device)
        return module(inputs).cpu().numpy()


def _hidden(module, head: str, X) -> Iterator[np.ndarray]:
    with head_input(module, head) as seen:
        for start in range(0, len(X), _ROWS):
            _outputs(module, X[start : start + _ROWS])
            yield seen.pop().cpu().numpy()


def _features(hidden: np.ndarray, has_bias: bool) -> np.ndarray:
    n_rows, width = hidden.shape
    features = np.ones((n_rows, width + has_bias))
    features[:, :width] = hidden
    return features


def feature_source(module, head: str, X) -> Callable[[], Iterator[np.ndarray]]:
    """Return a function that goes through the head's features, in chunks.

    Parameters
    ----------
    module : nn.Module
    head : str
        Dotted name of the head.
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    callable
        Returns an iterator over float64 arrays (rows, n_hidden), with a last column of
        ones if the head has a bias. Kept in memory, in the module's dtype, if few.
    """
    linear = module.get_submodule(head)
    has_bias, row = linear.bias is not None, linear.weight[:1]
    if len(X) * row.numel() * row.element_size() <= _CACHED:
        held = list(_hidden(module, head, X))
        return lambda: (_features(hidden, has_bias) for hidden in held)
    return lambda: (_features(part, has_bias) for part in _hidden(module, head, X))


def rounding_margin(module, X, features, coef, targets) -> np.ndarray:
    """Bound the rounding of predictions: by magnitude, and in float32 by some rows.

    Parameters
    ----------
    module : nn.Module
    X : ndarray of shape (n_samples, n_features)
    features : callable
        Of X, see `feature_source`.
    coef : ndarray of shape (n_outputs, d1)
        The head.
    targets : TargetScale
        Predictions will be at least of the size of its bound.

    Returns
    -------
    ndarray of shape (n_outputs,)
        Unit of y.
    """
    dtype = next(module.parameters()).dtype
    sizes = [np.max(np.abs(part) @ np.abs(coef).T, axis=0) for part in features()]
    sizes.append(np.where(targets.bounded, np.abs(targets.lower_bound), 0))
    rounding = 8 * torch.finfo(dtype).eps * np.max(sizes, axis=0)
    margin = 1e-9 * targets.scale + rounding
    if dtype != torch.float64:
        exact = copy.deepcopy(module).cpu().double()
        some = X[:: -(-len(X) // _ROWS)]
        rounding = np.abs(_outputs(module, some) - _outputs(exact, some))
        margin = margin + 4 * rounding.max(axis=0)
    return margin


def obeys(module, X, bound, margin) -> bool:
    """Whether all predictions obey the bound, in large batches and row by row.

    Parameters
    ----------
    module : nn.Module
    X : ndarray of shape (n_samples, n_features)
    bound : ndarray of shape (n_outputs,)
        In the unit of y.
    margin : ndarray of shape (n_outputs,)
        Rows within 8 margins of the bound are predicted alone, too.

    Returns
    -------
    bool
    """
    predictions = predict_rows(module, X)
    if not (predictions >= bound).all():  # NaN does not obey
        return False
    near = np.flatnonzero((predictions < bound + 8 * margin).any(axis=1))[:_SINGLES]
    return not near.size or not (predict_rows(module, X[near], rows=1) < bound).any()
