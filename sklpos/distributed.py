"""The scikit-learn layer of a fit by several processes, and its repair."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch.distributed as dist
from numpy.typing import ArrayLike

from sklpos.estimator.build import new_net
from sklpos.estimator.checks import TrainingData, check_strategy
from sklpos.estimator.fitted import data_range
from sklpos.nets.rows import feature_source, predict_rows
from sklpos.repair.head import head_objective
from sklpos.repair.nearest import HeadObjective
from sklpos.training.checkpoint import TrainingCheckpoint
from sklpos.training.parallel import ParallelNet
from sklpos.training.world import Share, gather

_Model = TypeVar("_Model")
_TRAVELLING = 1024  # rows that a process sends to the others between two repairs


def fit_data_parallel(
    estimator: _Model,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> _Model:
    """Fit an estimator on rows that are spread over processes.

    Each process of torch's default group calls it with the same estimator and with its
    own rows. What they end up with is `fit` on the rows of all, one process after the
    other, up to the rounding of sums: every step is on the same batch, of which each
    process computes its own part. Multipliers and slack stay with the process that has
    the row, and the repair holds the bound on the rows of all.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Fitted in place; with ``random_state=None`` the first process draws the seed.
    X : array-like of shape (n_own, n_features)
        The rows of this process; they may be more or fewer than those of others.
    y : array-like of shape (n_own,) or (n_own, n_outputs)
    sample_weight : array-like of shape (n_own,), default=None
        On the same scale in all processes.

    Returns
    -------
    estimator
        The same model in every process, but for ``multipliers_`` and
        ``repair_.multipliers_``, which are of its own rows; those that are estimated
        (strategy ``"exact_penalty"``) are estimated on these alone. ``kkt_`` is None.

    Raises
    ------
    ValueError
        For bad input, without a process group, and for what needs all rows in one
        place: ``early_stopping``, ``warm_start``, `TrainingCheckpoint` and strategies
        that look at domains.

    Notes
    -----
    The whole of y visits every process once, for its mean and deviation. Of X travel
    only the rows that the repair finds below the bound. Batch norm sees the part of a
    process, and dropout draws the same numbers in each: these differ from `fit`.

    References
    ----------
    .. [1] S. Li et al. (2020), "PyTorch distributed: experiences on accelerating data
       parallel training", doi:10.14778/3415478.3415530.

    Examples
    --------
    A group of one, without a network:

    >>> import numpy as np, torch.distributed as dist
    >>> from sklpos import PositiveOutputRegressor
    >>> from sklpos.distributed import fit_data_parallel
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> model = PositiveOutputRegressor(max_epochs=5, random_state=0)
    >>> model = fit_data_parallel(model, X, np.maximum(X.ravel(), 0))
    >>> dist.destroy_process_group()
    >>> bool(model.predict(X).min() >= 0)
    True
    """
    _check_request(estimator)
    with estimator._all_or_nothing(resume=False) as fitted:
        build = partial(_new_net, unit=_largest(sample_weight))
        epochs = fitted.max_epochs
        data, rows = fitted._train(X, y, sample_weight, epochs, False, build=build)
        share, fitted.net_.share = fitted.net_.share, None
        objective, _ = fitted._publish(data, rows)
        _finish(fitted, data, share, objective)
    return estimator


def _check_request(estimator) -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "there is no process group; call torch.distributed.init_process_group "
            "first, in each process."
        )
    for name in ("early_stopping", "warm_start"):
        if getattr(estimator, name):
            raise ValueError(f"{name}=True is not supported by fit_data_parallel.")
    for item in estimator.callbacks or []:
        callback = item[-1] if isinstance(item, tuple) else item
        if isinstance(callback, TrainingCheckpoint):
            raise ValueError("fit_data_parallel does not support TrainingCheckpoint.")
    if check_strategy(estimator.strategy, estimator.alpha).guarantee == "domain":
        raise ValueError(
            f"strategy={estimator.strategy!r} looks at a domain of all rows, which no "
            "process has; train with another one and enforce the bound on the domain."
        )


def _largest(sample_weight) -> float:
    """Return the unit that validation divides the weights by."""
    return 1.0 if sample_weight is None else float(np.max(sample_weight))


def _new_net(estimator, data: TrainingData, seed: int, unit: float) -> tuple:
    """Build the same net in every process, knowing which rows are its own."""
    weight = unit * data.weight
    shapes = gather((data.X.shape[1], data.y.shape[1]))
    if len(set(shapes)) > 1:
        raise ValueError(
            "X and y must have the same columns in all processes; (n_features, "
            f"n_outputs) is {shapes}."
        )
    seeds, y, weights = zip(*gather((seed, data.y, weight)), strict=True)
    population = np.concatenate(y), np.concatenate(weights)
    net, rows = new_net(estimator, data, seeds[0], population, net_type=ParallelNet)
    totals = [(len(part), float(part.sum())) for part in weights]
    net.share = Share.from_totals(totals, dist.get_rank())
    return net, rows


def _finish(fitted, data: TrainingData, share: Share, objective: float) -> None:
    """End as `fit` does, with what is known of the rows of all."""
    own = share.gain * len(data.X)  # the weight of its rows
    summary = gather((fitted._range, objective, own))
    ranges, objectives, weights = zip(*summary, strict=True)
    fitted._range = data_range(np.vstack(ranges))
    fitted._warn_of_divergence(np.average(objectives, weights=weights))
    if fitted.strategy_.guarantee == "everywhere":
        return
    features = feature_source(fitted.module_, fitted.net_.head, data.X)
    heads = gather(head_objective(fitted.net_, data, features))
    fitted._objective = _pooled(heads, weights)
    if fitted.repair is not None:
        _repair(fitted, data, share)


def _pooled(objectives: list[HeadObjective], weights) -> HeadObjective:
    """Return the objective of all rows from those of the processes."""

    def mean(name):
        values = [getattr(objective, name) for objective in objectives]
        return np.average(values, axis=0, weights=weights)

    names = ("gram", "mean_features", "mean_target")
    return replace(objectives[0], **{name: mean(name) for name in names})


def _repair(fitted, data: TrainingData, share: Share) -> None:
    """Repair on the lowest rows, then on those left below the bound, until none is.

    Cutting planes: the nearest head for some rows, if it obeys the bound on all, is the
    nearest one for all. Every process computes the same.
    """
    weight = share.gain * data.weight / data.weight.mean()
    total = sum(gather(weight.sum()))
    found, sent = [], np.zeros(len(data.X), dtype=bool)
    own = np.argsort(_gap(fitted, data.X))[:_TRAVELLING]
    while any(map(len, gather(own))):
        sent[own] = True
        found += gather((share.first + own, data.X[own], weight[own]))
        numbers, X, weights = map(np.concatenate, zip(*found, strict=True))
        fitted._kept = None  # they are among the rows
        fitted._repair(X, numbers, share.n_samples, weights)
        gap = _gap(fitted, data.X)
        own = np.argsort(np.where(sent, np.inf, gap))[:_TRAVELLING]
        own = own[(gap[own] < 0) & ~sent[own]]
    multipliers = np.zeros((data.n_samples, fitted.n_outputs_))
    own = slice(share.first, share.first + len(data.X))
    # in the repair, the weight of a row was its part of the rows found
    multipliers[data.kept] = fitted.repair_.multipliers_[own] * (total / weights.sum())
    fitted.repair_ = replace(fitted.repair_, multipliers_=multipliers)


def _gap(fitted, X) -> np.ndarray:
    """Return how far each row is above the bound, and half of the margin to it."""
    floor, scale = fitted.net_.targets.lower_bound, fitted.net_.targets.scale
    if fitted.repair_ is not None:
        floor = np.where(fitted.repair_.feasible_, floor, -np.inf)
        floor = floor + fitted.repair_.margin_ / 2
    return ((predict_rows(fitted.module_, X) - floor) / scale).min(axis=1)
