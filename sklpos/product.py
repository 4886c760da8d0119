"""The product: the trained module in the unit of y, its head repaired."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from sklpos.heads import head_input, read_head, write_head
from sklpos.repair.nearest import HeadObjective, HeadRepair, nearest_feasible_head

_ROWS = 4096  # rows of one forward pass
_CACHED = 2**25  # bytes of features held in memory between the rounds of a repair
_ATTEMPTS = 8
_SINGLES = 256


def make_product(net) -> nn.Module:
    """Return a copy of the trained module in the unit of y, with a plain head.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    nn.Module
        In eval mode; not repaired.
    """
    module = copy.deepcopy(net.plain_module_)
    with torch.no_grad():
        module = net.strategy_.finalize(module, net.head, net.targets)
    return module.eval()


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


def head_objective(net, data, features) -> HeadObjective:
    """Return what later repairs need to know of the training rows.

    Parameters
    ----------
    net : ConstrainedNet
    data : TrainingData
    features : callable
        Their features in the product, see `feature_source`.

    Returns
    -------
    HeadObjective
    """
    has_bias = net.plain_module_.get_submodule(net.head).bias is not None
    return HeadObjective.from_rows(features(), data.y, data.weight, has_bias=has_bias)


def repaired_product(
    net, X, objective=None, *, features=None, balance=True, weights=None, kept=None
) -> tuple[nn.Module, HeadRepair, np.ndarray]:
    """Return the product with the nearest head that obeys the bound on all rows.

    The margin is raised until the predictions of the module, in its own dtype, obey
    the bound without a tolerance, in large batches and row by row.

    Parameters
    ----------
    net : ConstrainedNet
    X : ndarray of shape (n_samples, n_features)
        Rows to hold the bound on.
    objective : HeadObjective, optional
        Of the training rows; by default that of X, without balance.
    features : callable, optional
        Features of X where they are known already, see `feature_source`.
    balance : bool, default=True
        Keep the mean prediction at the mean target.
    weights : ndarray of shape (n_samples,), optional
    kept : ndarray of shape (n_kept, n_hidden), optional
        Features of further rows to hold the bound on.

    Returns
    -------
    module : nn.Module
    repair : HeadRepair
    margin : ndarray of shape (n_outputs,)
        Unit of y.
    """
    module = make_product(net)
    linear = module.get_submodule(net.head)
    features = features or feature_source(module, net.head, X)
    if objective is None:
        has_bias = linear.bias is not None
        objective = HeadObjective.from_rows(features(), has_bias=has_bias)
    start = read_head(linear)
    margin = rounding_margin(module, X, features, start, net.targets)
    for _ in range(_ATTEMPTS):
        repair = nearest_feasible_head(
            start,
            objective,
            features,
            lower_bound=net.targets.lower_bound,
            margin=margin,
            scale=net.targets.scale,
            balance=balance,
            weights=weights,
            kept=kept,
        )
        write_head(linear, repair.coef)
        bound = np.where(repair.feasible, net.targets.lower_bound, -np.inf)
        if obeys(module, X, bound, margin):
            break
        margin = 4 * margin
    else:
        raise ValueError(
            f"lower_bound={net.targets.lower_bound.tolist()} does not survive the "
            "rounding of the predictions; use dtype='float64' or standardise X."
        )
    return module, repair, margin


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
