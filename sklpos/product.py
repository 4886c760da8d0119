"""The product: the trained module in the unit of y, its head repaired."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sklpos.heads import head_input
from sklpos.repair import HeadObjective, HeadRepair, nearest_feasible_head

_ROWS = 4096  # rows of one forward pass
_CACHED = 2**22  # features held in memory between the rounds of a repair
_ATTEMPTS = 8
_SINGLES = 256


@dataclass(frozen=True, eq=False)
class Repair:
    """What the repair of the head did.

    Attributes
    ----------
    multipliers_ : ndarray of shape (n_samples, n_outputs)
        Multipliers of the head's quadratic programme, unit of y, mean convention.
    n_cuts_ : ndarray of shape (n_outputs,)
        Rows that hold the head up, earlier cuts included.
    feasible_ : ndarray of bool of shape (n_outputs,)
        False: no head obeys the bound, and the output is as trained.
    balanced_ : ndarray of bool of shape (n_outputs,)
        Whether the mean prediction equals the mean target.
    smallest_violation_ : ndarray of shape (n_outputs,)
        Smallest largest violation any head can reach, unit of y; 0 where feasible.
    cost_ : ndarray of shape (n_outputs,)
        Mean squared change of the predictions, unit of y squared.
    margin_ : ndarray of shape (n_outputs,)
        Distance kept from the bound against rounding, unit of y.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> Repair(0 * one, one, one > 0, one > 0, 0 * one, 0 * one, 1e-9 * one).n_cuts_
    array([1.])
    """

    multipliers_: np.ndarray
    n_cuts_: np.ndarray
    feasible_: np.ndarray
    balanced_: np.ndarray
    smallest_violation_: np.ndarray
    cost_: np.ndarray
    margin_: np.ndarray


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
    return np.concatenate(list(_forward(module, X, rows)))


@torch.inference_mode()
def _forward(module, X, rows=_ROWS) -> Iterator[np.ndarray]:
    weight = next(module.parameters())
    for start in range(0, len(X), rows):
        part = torch.as_tensor(X[start : start + rows], dtype=weight.dtype)
        yield module(part.to(weight.device)).cpu().numpy()


def _features(module, head: str, X) -> Iterator[np.ndarray]:
    with head_input(module, head) as seen:
        for _ in _forward(module, X):
            hidden = seen.pop().cpu().double().numpy()
            if module.get_submodule(head).bias is not None:
                hidden = np.hstack([hidden, np.ones((len(hidden), 1))])
            yield hidden


def feature_source(module, head: str, X) -> Callable[[], Iterable[np.ndarray]]:
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
        Returns an iterable of float64 arrays (rows, n_hidden), and a last column of
        ones if the head has a bias. Kept in memory if they are few.
    """
    if len(X) * module.get_submodule(head).in_features <= _CACHED:
        held = list(_features(module, head, X))
        return lambda: held
    return lambda: _features(module, head, X)


def head_objective(net, data) -> HeadObjective:
    """Return what later repairs need to know of the training rows.

    Parameters
    ----------
    net : ConstrainedNet
    data : TrainingData

    Returns
    -------
    HeadObjective
    """
    module = make_product(net)
    chunks = feature_source(module, net.head, data.X)()
    has_bias = module.get_submodule(net.head).bias is not None
    return HeadObjective.from_rows(chunks, data.y, data.weight, has_bias=has_bias)


def repaired_product(
    net, X, objective=None, *, balance=True, weights=None, kept=None
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
    rows = feature_source(module, net.head, X)
    if objective is None:
        has_bias = linear.bias is not None
        objective = HeadObjective.from_rows(rows(), has_bias=has_bias)
    start = _head_coef(linear)
    margin = _rounding_margin(module, X, rows, start, net.targets.scale)
    for _ in range(_ATTEMPTS):
        repair = nearest_feasible_head(
            start,
            objective,
            rows,
            lower_bound=net.targets.lower_bound,
            margin=margin,
            scale=net.targets.scale,
            balance=balance,
            weights=weights,
            kept=kept,
        )
        _set_head_coef(linear, repair.coef)
        bound = np.where(repair.feasible, net.targets.lower_bound, -np.inf)
        if _obeys(module, X, bound, margin):
            break
        margin = 4 * margin
    return module, repair, margin


def summarise(repair: HeadRepair, margin, rows, n_samples: int) -> Repair:
    """Spread a repair's multipliers over all samples.

    Parameters
    ----------
    repair : HeadRepair
    margin : ndarray of shape (n_outputs,)
    rows : ndarray of shape (n_rows,)
        Sample number of each row that was repaired.
    n_samples : int

    Returns
    -------
    Repair
    """
    multipliers = np.zeros((n_samples, len(repair.coef)))
    for j, (cuts, values) in enumerate(
        zip(repair.cuts, repair.multipliers, strict=True)
    ):
        multipliers[rows[cuts[cuts >= 0]], j] = values[cuts >= 0]
    return Repair(
        multipliers_=multipliers,
        n_cuts_=np.array([len(cuts) for cuts in repair.cuts]),
        feasible_=repair.feasible,
        balanced_=repair.balanced,
        smallest_violation_=repair.smallest_violation,
        cost_=repair.cost,
        margin_=margin,
    )


def warn_of_limits(repair: HeadRepair, *, balance: bool) -> None:
    """Warn of outputs without a feasible or nearest head, and of dropped balance."""
    for output in np.flatnonzero(~repair.feasible):
        warnings.warn(
            f"no head without bias obeys lower_bound for output {output}: the smallest "
            f"achievable violation is {repair.smallest_violation[output]:.6g}; the "
            "output is left as trained. Give the head a bias or lower the bound.",
            UserWarning,
            stacklevel=4,
        )
    makeshift = np.flatnonzero(repair.feasible & ~repair.nearest)
    if len(makeshift):
        warnings.warn(
            f"the nearest head of outputs {makeshift.tolist()} was lost to rounding; a "
            "flatter one that obeys lower_bound was taken. Standardise X.",
            UserWarning,
            stacklevel=4,
        )
    dropped = np.flatnonzero(repair.feasible & ~repair.balanced)
    if balance and len(dropped):
        warnings.warn(
            f"balance was dropped for outputs {dropped.tolist()}: no feasible head has "
            "the mean of y as its mean prediction (is lower_bound above that mean?).",
            UserWarning,
            stacklevel=4,
        )


def _head_coef(linear: nn.Linear) -> np.ndarray:
    parts = [linear.weight] if linear.bias is None else [linear.weight, linear.bias]
    parts = [part.detach().cpu().double().reshape(len(part), -1) for part in parts]
    return torch.cat(parts, dim=1).numpy()


@torch.no_grad()
def _set_head_coef(linear: nn.Linear, coef: np.ndarray) -> None:
    values = torch.as_tensor(coef)
    linear.weight.copy_(values[:, : linear.in_features])
    if linear.bias is not None:
        linear.bias.copy_(values[:, -1])


def _rounding_margin(module, X, rows, coef, scale) -> np.ndarray:
    """Bound the rounding of a prediction: measured in float32, and by magnitude."""
    dtype = next(module.parameters()).dtype
    size = np.max([np.max(np.abs(part) @ np.abs(coef).T, axis=0) for part in rows()], 0)
    margin = 1e-9 * scale + 8 * torch.finfo(dtype).eps * size
    if dtype != torch.float64:
        exact = copy.deepcopy(module).cpu().double()
        pairs = zip(_forward(module, X), _forward(exact, X), strict=True)
        margin = margin + 4 * np.max([abs(a - b).max(axis=0) for a, b in pairs], 0)
    return margin


def _obeys(module, X, bound, margin) -> bool:
    predictions = predict_rows(module, X)
    if (predictions < bound).any():
        return False
    near = np.flatnonzero((predictions < bound + 8 * margin).any(axis=1))[:_SINGLES]
    return not near.size or not (predict_rows(module, X[near], rows=1) < bound).any()
