"""The repair of a head on rows."""

from __future__ import annotations

import numpy as np
from torch import nn

from sklpos.nets.head import read_head, write_head
from sklpos.nets.rows import feature_source, obeys, rounding_margin
from sklpos.repair.nearest import HeadObjective, HeadRepair, nearest_feasible_head
from sklpos.training.net import make_product

_ATTEMPTS = 8


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
