"""The repair of a head on rows that are spread over processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.endings import Ending, RepairPlan, hold_on_rows
from sklpos.nets.rows import feature_source, predict_rows
from sklpos.repair.head import objective_of_rows
from sklpos.repair.objective import HeadObjective
from sklpos.training.collectives import gather
from sklpos.training.world import Processes

# Rows that a process sends to the others between two repairs.
_ROWS_PER_ROUND = 1024


def repair_together(
    trained: Ending, data: TrainingData, world: Processes, plan: RepairPlan, weights
) -> Ending:
    """Measure heads on the rows of all processes, and repair if that is planned.

    Parameters
    ----------
    trained : Ending
        Without a repair.
    data : TrainingData
        The rows of this process.
    world : Processes
    plan : RepairPlan
    weights : sequence of float
        What the rows of each process count for.

    Returns
    -------
    Ending
        The same model in all processes.
    """
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
