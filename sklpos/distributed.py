"""The scikit-learn layer of a fit by several processes, and its repair."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch.distributed as dist
from numpy.typing import ArrayLike

from sklpos.estimator.build import new_net
from sklpos.estimator.checks import TrainingData, check_training_data
from sklpos.estimator.criterion import reference_losses, warn_of_divergence
from sklpos.estimator.endings import Ending, RepairPlan, hold_on_rows
from sklpos.estimator.fit import Fit, evaluate, repair_plan
from sklpos.estimator.parameters import check_params, resolve
from sklpos.nets.bounded import data_range
from sklpos.nets.rows import feature_source, predict_rows
from sklpos.nets.stack import Stack
from sklpos.repair.factor import scale_to_mean
from sklpos.repair.head import objective_of_rows
from sklpos.repair.objective import HeadObjective
from sklpos.training.checkpoint import TrainingCheckpoint
from sklpos.training.loop import gradients_on, train
from sklpos.training.net import ConstrainedNet
from sklpos.training.randomness import draw_seed
from sklpos.training.rows import TrainingRows
from sklpos.training.schedule import schedule_callbacks
from sklpos.training.world import Processes, gather

_Model = TypeVar("_Model")
# Rows that a process sends to the others between two repairs.
_ROWS_PER_ROUND = 1024


def fit_data_parallel(
    estimator: _Model,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> _Model:
    """Fit an estimator on rows that are spread over processes.

    Each process of torch's default group calls it with the same estimator and with its
    own rows. The result is that of `fit` on the rows of all processes, concatenated in
    the order of their ranks, up to the rounding of sums: all take every step on the
    same batch, of which each computes its own part. Multipliers and slack stay with
    the process that has the row, and the repair holds the bounds on all rows.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Fitted in place; the seed that the first process draws counts.
    X : array-like or sparse matrix of shape (n_own, n_features)
        The rows of this process; they may be more or fewer than those of others.
    y : array-like of shape (n_own,) or (n_own, n_outputs)
    sample_weight : array-like of shape (n_own,), default=None
        On the same scale in all processes.

    Returns
    -------
    estimator
        The same model in every process, except that ``multipliers_`` and
        ``repair_.multipliers_`` belong to its own rows; strategy ``"exact_penalty"``
        estimates them from these rows alone. ``kkt_`` is None.

    Raises
    ------
    ValueError
        For invalid input, without a process group, and for features that need all
        rows in one place: ``early_stopping``, ``warm_start``, `TrainingCheckpoint` and
        strategies that look at domains.

    Notes
    -----
    Every process receives the whole of y once, for its mean and deviation, but only
    those rows of X that the repair finds out of bounds. Three things differ from
    `fit`: batch norm sees only a process's own part of the batch, and dropout draws
    the same numbers in every process. Ctrl-C raises ``KeyboardInterrupt`` whatever
    ``on_interrupt``, as processes that stop in different epochs share no model.

    References
    ----------
    .. [1] S. Li et al. (2020), "PyTorch distributed: experiences on accelerating data
       parallel training", doi:10.14778/3415478.3415530.

    Examples
    --------
    A group of one, without a network:

    >>> import numpy as np, torch.distributed as dist
    >>> from sklpos import MLP, PositiveOutputRegressor
    >>> from sklpos.distributed import fit_data_parallel
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> model = PositiveOutputRegressor(MLP, max_epochs=5, random_state=0)
    >>> model = fit_data_parallel(model, X, np.maximum(X.ravel(), 0))
    >>> dist.destroy_process_group()
    >>> bool(model.predict(X).min() >= 0)
    True
    """
    check_params(estimator)
    _check_request(estimator)
    data = check_training_data(estimator, X, y, sample_weight, reset=True)
    # Validation divides weights by their maximum, which differs between processes.
    unit = 1.0 if sample_weight is None else float(np.max(sample_weight))
    own = resolve(estimator, sum(gather(len(data.X))))
    with gradients_on():
        net, rows, world = _new_net(own, data, unit)
        callbacks = schedule_callbacks(own.lr_schedule, own.callbacks, own.max_epochs)
        done = train(net, rows, own.max_epochs, callbacks, world)
        fit = evaluate(own, net, rows, data, done.n_iter)
        fit = _finish(own, replace(fit, kkt=None), data, world)
    estimator.publish(fit, data)
    # DistributedDataParallel keeps torch's process group alive, whose threads release
    # their last tensors late: if Python ends first, the process is aborted. A barrier
    # holds no tensor, and leaves them the time.
    dist.barrier()
    return estimator


def _check_request(estimator) -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "there is no process group; call torch.distributed."
            "init_process_group first, in each process."
        )
    for name in ("early_stopping", "warm_start"):
        if getattr(estimator, name):
            raise ValueError(f"{name}=True is not supported by fit_data_parallel.")
    for item in estimator.callbacks or []:
        callback = item[-1] if isinstance(item, tuple) else item
        if isinstance(callback, TrainingCheckpoint):
            raise ValueError("fit_data_parallel does not support TrainingCheckpoint.")


def _new_net(
    estimator, data: TrainingData, unit: float
) -> tuple[ConstrainedNet, TrainingRows, Processes]:
    """Build the same net in every process, and find the place of its own rows.

    `unit` is what validation divided the weights by.
    """
    weight = unit * data.weight
    shapes = gather((data.X.shape[1], data.y.shape[1]))
    if len(set(shapes)) > 1:
        raise ValueError(
            "X and y must have the same columns in all processes; (n_features, "
            f"n_outputs) is {shapes}."
        )
    seed = draw_seed(estimator.random_state)
    seeds, y, weights = zip(*gather((seed, data.y, weight)), strict=True)
    # Targets are standardised by all rows, and the first seed counts, so that all
    # processes start with the same weights in the same unit.
    population = np.concatenate(y), np.concatenate(weights)
    net, rows = new_net(estimator, data, seeds[0], population)
    if net.strategy_.guarantee == "domain":
        raise ValueError(
            f"strategy={estimator.strategy!r} needs a domain of all rows, which no "
            "process has; train with another strategy and enforce the bounds on the "
            "domain afterwards."
        )
    if isinstance(net.plain_module_, Stack):
        raise ValueError(
            "module=Stack needs the quantiles of all rows, which no process has; use "
            "module=MLP."
        )
    totals = [(len(part), float(part.sum())) for part in weights]
    return net, rows, Processes.from_totals(totals, dist.get_rank())


def _finish(estimator, fit: Fit, data: TrainingData, world: Processes) -> Fit:
    """End as `fit` does, with what is known of all rows."""
    # A loss is a mean over the rows of one process, so it counts by their weight.
    own = world.gain * len(data.X)
    losses = fit.loss, *reference_losses(fit.net, data)
    summary = gather((fit.ending.model.input_range, losses, own))
    ranges, losses, weights = zip(*summary, strict=True)
    losses = np.average(losses, axis=0, weights=weights)
    warn_of_divergence(*losses, estimator.lr)
    input_range = data_range(np.vstack(ranges))
    ending = Ending(replace(fit.ending.model, input_range=input_range))
    plan = repair_plan(estimator, fit.net)
    if plan.strategy.guarantee != "everywhere":
        ending = _repair(ending, data, world, plan, weights)
    elif plan.scales:

        def average(values):
            means = gather(np.average(values, axis=0, weights=data.weight))
            return np.average(means, axis=0, weights=weights)

        ending = Ending(scale_to_mean(ending.model, data.X, data.y, average))
    first = float(losses[0])
    return replace(fit, finished=ending, input_range=input_range, loss=first)


def _repair(
    trained: Ending, data: TrainingData, world: Processes, plan: RepairPlan, weights
) -> Ending:
    """Measure heads on the rows of all processes, and repair if that is planned."""
    model = trained.model
    features = feature_source(model.module, model.head, data.X)
    # Measured even without a repair, for a later call of `enforce`.
    heads = gather(objective_of_rows(model, features, data))
    trained = replace(trained, objective=_pooled(heads, weights))
    return _hold_on_all_rows(trained, data, world, plan) if plan.repair else trained


def _pooled(objectives: list[HeadObjective], weights) -> HeadObjective:
    """Objective of all rows, from those of the processes."""

    def mean(name):
        values = [getattr(objective, name) for objective in objectives]
        return np.average(values, axis=0, weights=weights)

    names = ("gram", "mean_features", "mean_target")
    means = {name: mean(name) for name in names}
    return replace(objectives[0], targets=None, **means)


def _hold_on_all_rows(
    trained: Ending, data: TrainingData, world: Processes, plan: RepairPlan
) -> Ending:
    """Repair on the worst rows, then on those still out of bounds, until none is.

    Cutting planes: if the nearest head for some rows obeys the bounds on all rows, it
    is the nearest head for all of them. Every process computes the same.
    """
    weight = world.gain * data.weight / data.weight.mean()
    total = sum(gather(weight.sum()))
    found = []
    sent = np.zeros(len(data.X), dtype=bool)
    ending = trained
    # The first round sends rows even if all obey the bounds: there is a mean to keep.
    own = _worst(_excess(ending, data.X))
    # Gathered, so that all processes stop in the same round and none waits for another.
    while any(map(len, gather(own))):
        sent[own] = True
        found += gather((world.first + own, data.X[own], weight[own]))
        numbers, X, weights = map(np.concatenate, zip(*found, strict=True))
        # From the trained head each time: it is the distance to that one that counts.
        ending = hold_on_rows(
            trained,
            X,
            plan,
            numbers=numbers,
            n_samples=world.n_samples,
            weights=weights,
        )
        # A row travels once, even if rounding leaves it a little outside.
        excess = np.where(sent, -np.inf, _excess(ending, data.X))
        own = _worst(excess)
        own = own[excess[own] > 0]
    multipliers = np.zeros((data.n_samples, data.y.shape[1]))
    own = slice(world.first, world.first + len(data.X))
    # The repair took the rows found for all rows, so their shares were too large.
    multipliers[data.kept] = ending.repair.multipliers_[own] * (total / weights.sum())
    return replace(ending, repair=replace(ending.repair, multipliers_=multipliers))


def _worst(excess: np.ndarray) -> np.ndarray:
    return np.argsort(-excess)[:_ROWS_PER_ROUND]


def _excess(ending: Ending, X: np.ndarray) -> np.ndarray:
    """How far each row is outside the bounds, drawn in by half of the margin."""
    model, repair = ending.model, ending.repair
    bounds, margin = model.bounds, 0.0
    if repair is not None:
        # The solver may use up a part of the margin, there is no room for it between
        # equal bounds, and no head can hold the rows of an infeasible output.
        margin = np.minimum(repair.margin_, (bounds.upper - bounds.lower) / 2) / 2
        bounds = bounds.only(repair.feasible_)
    violation = bounds.violation(predict_rows(model.module, X)) + margin
    return (violation / model.scale).max(axis=1)
