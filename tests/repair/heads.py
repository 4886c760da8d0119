"""Heads that violate a bound, and what their repair must fulfil."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from sklpos.repair import HeadObjective, nearest_feasible_head

MARGIN = 1e-9


class Problem:
    """A least-squares head on random ReLU features that violates the bound."""

    def __init__(self, n=300, d=8, *, n_outputs=1, bias=True, share=0.2, seed=0):
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(n, 4))
        features = np.maximum(inputs @ rng.normal(size=(4, d)) + 0.3, 0)
        self.features = np.column_stack([features, np.ones(n)]) if bias else features
        raw = inputs @ rng.normal(size=(4, n_outputs)) + 0.3 * inputs[:, :1] ** 2
        raw = raw - np.quantile(raw, share, axis=0)
        self.y = np.maximum(raw + 0.3 * rng.normal(size=raw.shape), 0)
        self.coef = np.linalg.lstsq(self.features, self.y, rcond=1e-10)[0].T
        self.lower_bound = np.zeros(n_outputs)
        self.upper_bound = np.array(np.inf)
        self.scale = self.y.std(axis=0)
        self.has_bias, self.chunk_size = bias, 64
        self.objective_weights = None
        self.repair_arguments = {}

    def chunks(self):
        for start in range(0, len(self.features), self.chunk_size):
            yield self.features[start : start + self.chunk_size]

    def bound(self, side):
        """Bound below, above or on both sides, so that predictions violate it."""
        predictions = self.predict(self.coef)
        if side != "lower":
            self.upper_bound = np.quantile(predictions, 0.85, axis=0)
            # So that the mean can be kept.
            self.y = np.minimum(self.y, self.upper_bound)
        if side == "upper":
            self.lower_bound = np.full(len(self.coef), -np.inf)
        return self

    def objective(self):
        return HeadObjective.from_rows(
            self.chunks(), self.y, self.objective_weights, has_bias=self.has_bias
        )

    def repair(self, **changes):
        arguments = {
            "lower_bound": self.lower_bound,
            "upper_bound": self.upper_bound,
            "margin": MARGIN * self.scale,
            "scale": self.scale,
            "weights": self.objective_weights,
            **self.repair_arguments,
            **changes,
        }
        return nearest_feasible_head(
            self.coef, self.objective(), self.chunks, **arguments
        )

    def predict(self, coef):
        return self.features @ coef.T


def general_solver(features, start, weight, *, metric, bounds, target):
    """Predictions of the nearest feasible head, by scipy, and whether it is balanced.

    The metric is what comes on top of the weighted mean square of the predictions.
    """
    share = weight / weight.sum()
    gram = features.T @ (features * share[:, None]) + metric
    finite = [
        (sign, bound)
        for sign, bound in zip((1, -1), bounds, strict=True)
        if np.isfinite(bound)
    ]
    pushes = np.vstack([features[:0], *(sign * features for sign, _ in finite)])
    needed = np.repeat([sign * bound for sign, bound in finite], len(features))
    mean = share @ features
    # Without a bias, no head within the bounds may have that mean.
    balanced = target is not None and (
        linprog(
            0 * mean,
            -pushes if len(pushes) else None,
            -needed if len(pushes) else None,
            mean[None],
            target,
            bounds=(None, None),
        ).success
    )
    inequality = {
        "type": "ineq",
        "fun": lambda v: pushes @ v - needed,
        "jac": lambda v: pushes,
    }
    equality = {"type": "eq", "fun": lambda v: v @ mean - target, "jac": lambda v: mean}
    found = minimize(
        lambda v: (v - start) @ gram @ (v - start),
        start,
        jac=lambda v: 2 * gram @ (v - start),
        method="SLSQP",
        constraints=[inequality] * bool(finite) + [equality] * balanced,
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return features @ found.x, balanced


def ridge(problem):
    """Of each feature: a part of its variance, and a little for those without one."""
    w = problem.objective_weights
    mean_square = np.average((problem.features**2).mean(axis=1), weights=w)
    mean = np.average(problem.features, axis=0, weights=w)
    variance = np.average((problem.features - mean) ** 2, axis=0, weights=w)
    return 0.03 * variance + 1e-8 * mean_square


def assert_feasible(problem, result):
    predictions = problem.predict(result.coef)
    assert (predictions.min(axis=0) >= problem.lower_bound).all()
    assert (predictions.max(axis=0) <= problem.upper_bound).all()
    assert result.feasible.all()


def assert_balanced(problem, result):
    excess = np.average(
        problem.predict(result.coef) - problem.y,
        axis=0,
        weights=problem.objective_weights,
    )
    assert np.abs(excess / problem.scale).max() < 1e-9
    assert result.balanced.all()


def assert_optimal(problem, result):
    """Stationarity up to a multiple of the mean features, signs, complementarity."""
    n, objective = len(problem.features), problem.objective()
    w = problem.objective_weights
    share = np.full(n, 1 / n) if w is None else w / w.sum()
    predictions = problem.predict(result.coef)
    assert result.nearest.all()
    for j, (cuts, multipliers) in enumerate(
        zip(result.cuts, result.multipliers, strict=True)
    ):
        change = result.coef[j] - problem.coef[j]
        gradient = 2 * (objective.gram @ change + ridge(problem) * change)
        force = (multipliers * share[cuts]) @ problem.features[cuts]
        rest, mean = gradient - force, objective.mean_features
        if result.balanced[j]:
            rest = rest - mean * (rest @ mean) / (mean @ mean)
        assert np.abs(rest).max() < 1e-8 * np.abs(gradient).max()
        held_up = multipliers > 0
        slack = np.where(
            held_up,
            predictions[cuts, j] - problem.lower_bound[j],
            np.broadcast_to(problem.upper_bound, len(problem.coef))[j]
            - predictions[cuts, j],
        )
        assert slack == pytest.approx(MARGIN * problem.scale[j], rel=1e-2)
        cost = np.average(
            (problem.features @ change) ** 2, weights=problem.objective_weights
        )
        assert result.cost[j] == pytest.approx(cost, rel=1e-6)
