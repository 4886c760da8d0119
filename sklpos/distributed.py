"""The scikit-learn layer of a fit by several processes, and its repair."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from numpy.typing import ArrayLike

from sklpos.estimator.build import new_net
from sklpos.estimator.checks import TrainingData, check_training_data
from sklpos.estimator.criterion import reference_losses, warn_of_divergence
from sklpos.estimator.endings import Ending
from sklpos.estimator.fit import Fit, evaluate, repair_plan
from sklpos.estimator.parameters import check_params, resolve
from sklpos.estimator.pooled_repair import repair_together
from sklpos.estimator.population import Population, world_of
from sklpos.estimator.settings import built_parts, shared_settings
from sklpos.estimator.turns import turn
from sklpos.estimator.validation_rows import with_validation_rows
from sklpos.nets.bounded import data_range
from sklpos.nets.process import leaves_no_trace, uninterrupted
from sklpos.nets.stack import Stack
from sklpos.repair.factor import scale_to_mean
from sklpos.training.agreement import attempt, check_same, versions
from sklpos.training.checkpoint import check_repeatable
from sklpos.training.collectives import gather
from sklpos.training.loop import gradients_on, train
from sklpos.training.monitors import check_shared
from sklpos.training.net import ConstrainedNet
from sklpos.training.peers import connected
from sklpos.training.pooled_state import check_same_weights
from sklpos.training.randomness import draw_seed
from sklpos.training.rows import TrainingRows
from sklpos.training.schedule import schedule_callbacks
from sklpos.training.world import Processes

_Model = TypeVar("_Model")


@leaves_no_trace
def fit_data_parallel(
    estimator: _Model,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    X_val: ArrayLike | None = None,
    y_val: ArrayLike | None = None,
    sample_weight_val: ArrayLike | None = None,
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
        Fitted in place, in all processes or in none. Its parameters must be the same in
        all, but for ``verbose``, the number of the ``device``, callbacks that only
        print or log, and a ``random_state`` of None, as that of the first counts.
    X : array-like or sparse matrix of shape (n_own, n_features)
        The rows of this process; they may be more or fewer than those of others.
    y : array-like of shape (n_own,) or (n_own, n_outputs)
    sample_weight : array-like of shape (n_own,), default=None
        On the same scale in all processes.
    X_val, y_val, sample_weight_val : array-like, default=None
        Rows of this process to validate on, as in `fit`.

    Returns
    -------
    estimator
        The same model in every process, except that ``multipliers_`` and
        ``repair_.multipliers_`` belong to its own rows; strategy ``"exact_penalty"``
        estimates them from these rows alone. ``kkt_`` is None.

    Raises
    ------
    ValueError
        The same in all processes: if parameters, columns or versions differ between
        them; for invalid input of any process; for features that need all rows in one
        place (``warm_start``, strategies that look at domains); for callbacks of skorch
        that score rows or write checkpoints, and for those that act on what only their
        own process knows. Without a group.
    RuntimeError
        If another process failed or died. The one that failed raises its own error; if
        that is a ValueError, so is that of the others.

    Notes
    -----
    Every process receives the whole of y once, for its mean and deviation, but only
    those rows of X that the repair finds out of bounds. ``early_stopping`` holds out
    rows of all processes, whose ``valid_loss`` is that of all. A `TrainingCheckpoint`
    must be given to all processes: the first one alone uses its file, which holds the
    state of all, and training resumes bit for bit with as many processes and the same
    rows in each. Two things differ from `fit`: batch norm sees only a process's own
    part of the batch, and dropout draws the same numbers in every process. Ctrl-C
    raises ``KeyboardInterrupt`` whatever ``on_interrupt``, as processes that stop in
    different epochs share no model.

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
    _check_group()
    with (
        connected(partial(check_same, versions())),
        turn(estimator, "fit_data_parallel"),
    ):
        read = partial(_read, estimator, X, y, sample_weight)
        data, settings = attempt(lambda: read(X_val, y_val, sample_weight_val))
        check_same(settings)
        total = sum(gather(len(data.X)))
        own = attempt(lambda: resolve(estimator, total))
        with gradients_on():
            fit = _fit(own, data)
        # Ctrl-C must not come between this process and the others.
        with uninterrupted():
            gather("finished")
            estimator.fitted_ = fit
    return estimator


def _check_group() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "there is no process group; call torch.distributed."
            "init_process_group first, in each process."
        )


def _read(
    estimator, X, y, sample_weight, X_val, y_val, sample_weight_val
) -> tuple[TrainingData, dict[str, Any]]:
    """Check the arguments; describe what must be the same in all processes."""
    check_params(estimator)
    if estimator.warm_start:
        raise ValueError("warm_start=True is not supported by fit_data_parallel.")
    data = check_training_data(estimator, X, y, sample_weight, reset=True)
    data = with_validation_rows(estimator, data, X_val, y_val, sample_weight_val)
    given = {"X_val": X_val, "sample_weight": sample_weight}
    given["sample_weight_val"] = sample_weight_val
    return data, shared_settings(estimator, data, given)


def _fit(own, data: TrainingData) -> Fit:
    """Train and finish; nothing is published yet."""
    net, rows, everyone = _new_net(own, data)
    world = world_of(rows, data)
    check_shared(net.callbacks_)
    check_repeatable(net, own.random_state, world)
    callbacks = schedule_callbacks(own.lr_schedule, own.callbacks, own.max_epochs)
    done = train(net, rows, own.max_epochs, callbacks, world)
    check_same_weights(net, world)
    fit = evaluate(own, net, rows, data, done.n_iter)
    part = world.gain * len(rows.train)
    return _finish(own, replace(fit, kkt=None), data, everyone, part)


def _new_net(
    estimator, data: TrainingData
) -> tuple[ConstrainedNet, TrainingRows, Processes]:
    """Build the same net in every process, and find the place of its own rows."""
    # The check divides weights by their maximum, which differs between processes.
    weight = data.unit * data.weight
    seed = draw_seed(estimator.random_state)
    seeds, y, weights = zip(*gather((seed, data.y, weight)), strict=True)
    # Targets are standardised by all rows, and the first seed counts, so that all
    # processes start with the same weights in the same unit.
    sizes = tuple(map(len, y))
    every = np.concatenate(y), np.concatenate(weights)
    population = Population(*every, sizes, dist.get_rank())
    net, rows = attempt(lambda: new_net(estimator, data, seeds[0], population))
    # Of other rows, the default module is another one.
    attempt(lambda: _check_needs(estimator.strategy, net))
    check_same(built_parts(net))
    totals = [(len(part), float(part.sum())) for part in weights]
    return net, rows, Processes.from_totals(totals, dist.get_rank())


def _check_needs(strategy, net: ConstrainedNet) -> None:
    """Raise for a net that needs all rows in one place."""
    if net.strategy_.guarantee == "domain":
        raise ValueError(
            f"strategy={strategy!r} needs a domain of all rows, which no "
            "process has; train with another strategy and enforce the bounds on the "
            "domain afterwards."
        )
    if isinstance(net.plain_module_, Stack):
        raise ValueError(
            "module=Stack needs the quantiles of all rows, which no process has; use "
            "module=MLP."
        )


def _finish(
    estimator, fit: Fit, data: TrainingData, world: Processes, trained: float
) -> Fit:
    """End as `fit` does, with what is known of all rows.

    `trained` is the weight of the rows that this process trained on.
    """
    # A loss is a mean over the rows of one process, so it counts by their weight.
    own = world.gain * len(data.X)
    losses = fit.loss, *reference_losses(fit.net, data)
    shares = trained, *(own for _ in losses[1:])
    summary = gather((fit.ending.model.input_range, losses, shares, own))
    ranges, losses, shares, weights = zip(*summary, strict=True)
    losses = np.average(losses, axis=0, weights=shares)
    warn_of_divergence(*losses, estimator.lr)
    input_range = data_range(np.vstack(ranges))
    ending = Ending(replace(fit.ending.model, input_range=input_range))
    plan = repair_plan(estimator, fit.net)
    if plan.strategy.guarantee != "everywhere":
        ending = repair_together(ending, data, world, plan, weights)
    elif plan.scales:

        def average(values):
            means = gather(np.average(values, axis=0, weights=data.weight))
            return np.average(means, axis=0, weights=weights)

        ending = Ending(scale_to_mean(ending.model, data.X, data.y, average))
    first = float(losses[0])
    return replace(fit, finished=ending, input_range=input_range, loss=first)
