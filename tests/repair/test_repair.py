"""The repaired head against general solvers, its optimality conditions and attacks."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize, nnls

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
        self.scale = self.y.std(axis=0)
        self.has_bias, self.chunk_size = bias, 64
        self.objective_weights = None
        self.repair_arguments = {}

    def chunks(self):
        for start in range(0, len(self.features), self.chunk_size):
            yield self.features[start : start + self.chunk_size]

    def objective(self):
        return HeadObjective.from_rows(
            self.chunks(), self.y, self.objective_weights, has_bias=self.has_bias
        )

    def repair(self, **changes):
        arguments = {
            "lower_bound": self.lower_bound,
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
        assert (multipliers > 0).all()
        slack = predictions[cuts, j] - problem.lower_bound[j]
        assert slack == pytest.approx(MARGIN * problem.scale[j], rel=1e-2)
        cost = np.average(
            (problem.features @ change) ** 2, weights=problem.objective_weights
        )
        assert result.cost[j] == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_matches_a_general_solver(bias, balance, weighted, seed):
    problem = Problem(n=40, d=4, bias=bias, seed=seed)
    if weighted:
        problem.objective_weights = np.random.default_rng(seed).uniform(0.2, 3, 40)
    result = problem.repair(balance=balance)
    assert result.balanced.item() == balance

    w = np.ones(40) if problem.objective_weights is None else problem.objective_weights
    features, start = problem.features, problem.coef[0]
    gram = features.T @ (features * w[:, None]) / w.sum()
    gram = gram + np.diag(ridge(problem))
    constraints = [
        {"type": "ineq", "fun": lambda v: features @ v, "jac": lambda v: features}
    ]
    if balance:
        mean, target = w @ features / w.sum(), np.average(problem.y[:, 0], weights=w)
        constraints.append(
            {"type": "eq", "fun": lambda v: v @ mean - target, "jac": lambda v: mean}
        )
    oracle = minimize(
        lambda v: (v - start) @ gram @ (v - start),
        start,
        jac=lambda v: 2 * gram @ (v - start),
        method="SLSQP",
        constraints=constraints,
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    assert features @ oracle.x == pytest.approx(features @ result.coef[0], abs=1e-6)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        {"n": 300, "d": 8, "bias": False},
        {"n": 500, "d": 20, "n_outputs": 3},
        {"n": 4000, "d": 100, "share": 0.4},
        {"n": 20000, "d": 60},
        {"n": 30, "d": 60, "share": 0.5},
    ],
    ids=str,
)
def test_optimality_conditions(shape, balance):
    problem = Problem(**shape)
    if shape["n"] < shape["d"]:  # least squares would interpolate
        problem.coef = np.random.default_rng(1).normal(size=problem.coef.shape)
    assert problem.predict(problem.coef).min() < 0
    result = problem.repair(balance=balance)
    assert_feasible(problem, result)
    assert_optimal(problem, result)
    if balance:
        assert_balanced(problem, result)
    assert "cuts" in repr(result)


@pytest.mark.parametrize("distance", [1e-6, 3e4])
def test_near_and_far_bounds(distance):
    problem = Problem()
    lowest = problem.predict(problem.coef).min(axis=0)
    problem.lower_bound = lowest + distance * problem.scale
    result = problem.repair(balance=False)
    assert_feasible(problem, result)
    assert result.nearest.all()
    assert result.cost**0.5 < 2 * distance * problem.scale


def test_worst_rows_first_needs_few_rounds():
    assert Problem(n=20000, d=60).repair().n_rounds <= 8


def test_a_feasible_head_is_left_alone():
    problem = Problem(d=50, n_outputs=2)
    problem.lower_bound, problem.scale = np.array([-1e3, -np.inf]), np.array([0.7, 3.1])
    result = problem.repair(balance=False)
    assert (result.coef == problem.coef).all()
    assert result.n_rounds == 1
    assert not result.cost.any()
    assert all(cuts.size == 0 for cuts in result.cuts)


def test_a_free_output_is_balanced_only():
    problem = Problem(n_outputs=2)
    problem.coef[:, -1] += 1.0
    problem.lower_bound = np.array([-np.inf, 0.0])
    result = problem.repair()
    assert_balanced(problem, result)
    assert_feasible(problem, result)
    assert result.cuts[0].size == 0
    assert result.cuts[1].size > 0
    assert problem.predict(result.coef)[:, 0].min() < 0


def test_outputs_are_independent():
    problem = Problem(n_outputs=3)
    together = problem.repair()
    for j in range(3):
        single = Problem(n_outputs=3)
        single.coef, single.y = problem.coef[[j]], problem.y[:, [j]]
        single.lower_bound, single.scale = np.zeros(1), problem.scale[[j]]
        assert single.repair().coef[0] == pytest.approx(together.coef[j], rel=1e-9)


@pytest.mark.parametrize("factor", [1e-6, 1e6, 1e30])
def test_equivariant_to_units(factor):
    problem, scaled = Problem(n_outputs=2), Problem(n_outputs=2)
    problem.lower_bound = np.array([0.0, -0.1])
    for name in ("coef", "y", "lower_bound", "scale"):
        setattr(scaled, name, factor * getattr(problem, name))
    before, after = problem.repair(), scaled.repair()
    assert after.coef == pytest.approx(factor * before.coef, rel=1e-9)
    assert after.cost == pytest.approx(factor**2 * before.cost, rel=1e-9)
    for ours, theirs in zip(before.multipliers, after.multipliers, strict=True):
        assert theirs == pytest.approx(factor * ours, rel=1e-7)


def test_equivariant_to_a_shift_of_the_target():
    problem, shifted = Problem(), Problem()
    shifted.coef[:, -1] += 300
    shifted.y += 300
    shifted.lower_bound += 300
    expected = problem.predict(problem.repair().coef) + 300
    assert shifted.predict(shifted.repair().coef) == pytest.approx(expected, rel=1e-10)


def test_weights_equal_repetition():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, size=300)
    weighted, repeated = Problem(), Problem()
    weighted.objective_weights = counts.astype(float)
    repeated.features = np.repeat(repeated.features, counts, axis=0)
    repeated.y = np.repeat(repeated.y, counts, axis=0)
    expected, result = repeated.repair(), weighted.repair()
    assert_optimal(weighted, result)
    assert result.coef == pytest.approx(expected.coef, rel=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 7, 10_000])
def test_chunks_do_not_matter(chunk_size):
    problem, chunked = Problem(n_outputs=2), Problem(n_outputs=2)
    chunked.chunk_size = chunk_size
    expected, result = problem.repair(), chunked.repair()
    assert result.coef == pytest.approx(expected.coef, rel=1e-9)
    for ours, theirs in zip(result.cuts, expected.cuts, strict=True):
        assert set(ours) == set(theirs)


def test_the_same_twice():
    first, second = Problem(n_outputs=2).repair(), Problem(n_outputs=2).repair()
    assert (first.coef == second.coef).all()


def test_kept_rows_hold_too():
    problem = Problem(n_outputs=2)
    first = problem.repair()
    assert len(first.kept) == len(np.union1d(*first.cuts))

    problem.features = Problem(seed=10).features
    forgetful, result = problem.repair(), problem.repair(kept=first.kept)
    assert_feasible(problem, result)
    assert (first.kept @ forgetful.coef.T).min() < 0
    assert (first.kept @ result.coef.T).min() > 0
    assert {*map(tuple, first.kept)} <= {*map(tuple, result.kept)}


def test_kept_rows_equal_rows():
    problem = Problem(n_outputs=2)
    objective, expected = problem.objective(), problem.repair()
    kept, problem.features = problem.features[100:], problem.features[:100]
    problem.objective = lambda: objective
    result = problem.repair(kept=kept)
    assert result.coef == pytest.approx(expected.coef, rel=1e-9)
    for ours, theirs in zip(result.cuts, expected.cuts, strict=True):
        assert (ours < 0).any()
        assert set(ours % 300) == set(theirs)


def test_balance_is_dropped_below_the_bound():
    problem = Problem(n_outputs=2)
    problem.lower_bound = np.array([problem.y[:, 0].mean() + 0.1, 0.0])
    result = problem.repair()
    assert result.balanced.tolist() == [False, True]
    assert_feasible(problem, result)
    assert_optimal(problem, result)


def test_balance_is_dropped_without_targets():
    problem = Problem()
    problem.objective = lambda: HeadObjective.from_rows(problem.chunks())
    result = problem.repair()
    assert not result.balanced.any()
    assert_feasible(problem, result)
    assert_optimal(problem, result)


def no_bias(features, coef, lower_bound, y=None):
    problem = Problem(bias=False)
    problem.features = np.asarray(features, dtype=float)
    problem.coef = np.asarray([coef], dtype=float)
    problem.y = np.ones((len(features), 1)) if y is None else np.asarray(y, dtype=float)
    problem.lower_bound, problem.scale = np.array([lower_bound]), np.ones(1)
    return problem


@pytest.mark.parametrize("direction", [[1.0], [0.3, 0.7, 0.1]])
def test_balance_is_dropped_where_a_head_without_bias_cannot(direction):
    # Predictions t and 3 t, both at least 1, mean target 1.5: balance wants t = .75.
    direction = np.array(direction) / np.linalg.norm(direction)
    features = np.outer([1.0, 3.0], direction)
    problem = no_bias(features, 0.5 * direction, 1.0, y=[[1.0], [2.0]])
    result = problem.repair()
    assert_feasible(problem, result)
    assert not result.balanced.any()
    assert problem.predict(result.coef)[:, 0] == pytest.approx([1.0, 3.0])


def test_centred_features_without_bias_have_no_balance():
    problem = no_bias([[1.0], [-1.0]], [0.5], -1.0)
    result = problem.repair()
    assert not result.balanced.any()
    assert (result.coef == problem.coef).all()


@pytest.mark.parametrize("margin", [MARGIN, 0.5])
def test_infeasible_without_bias(margin):
    problem = no_bias([[1.0], [-1.0]], [0.3], 1.0)
    result = problem.repair(margin=margin)
    assert not result.feasible.any()
    assert (result.coef == problem.coef).all()
    assert result.smallest_violation == pytest.approx(1.0, abs=1e-6)
    assert "no feasible head" in repr(result)


@pytest.mark.parametrize("seed", range(8))
def test_smallest_violation_matches_linear_programming(seed):
    problem = Problem(n=60, d=6, bias=False, seed=seed)
    problem.lower_bound = np.array([0.5 * problem.scale[0]])
    problem.features[::20] *= 0.0 if seed % 2 else -0.3
    result = problem.repair()
    oracle = linprog(
        np.append(np.zeros(6), 1.0),
        A_ub=-np.column_stack([problem.features, np.ones(60)]),
        b_ub=-np.full(60, problem.lower_bound[0]),
        bounds=[(None, None)] * 6 + [(0, None)],
    )
    assert not result.feasible.any()
    assert result.smallest_violation.item() == pytest.approx(oracle.fun, abs=1e-5)


def test_rounding_noise_does_not_make_collinear_features_feasible():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 8)) @ rng.normal(size=(8, 80))
    problem = no_bias(features, rng.normal(size=80), 1.0)
    result = problem.repair()
    assert not result.feasible.any()
    assert result.smallest_violation == pytest.approx(1.0, abs=1e-4)


def test_the_zero_head_is_the_last_resort_without_bias():
    problem = no_bias([[1.0], [-1.0]], [0.3], 0.0)
    result = problem.repair()
    assert_feasible(problem, result)
    assert not result.nearest.any()
    assert result.coef.item() == 0.0


def test_rows_of_zeros_without_bias_need_no_margin():
    problem = no_bias([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]], [1.0, -1.0], 0.0)
    result = problem.repair(balance=False)
    assert_feasible(problem, result)
    assert_optimal(problem, result)


def dead(features, rng):
    return np.column_stack([np.zeros((len(features), 3)), features])


def duplicated_columns(features, rng):
    return np.column_stack([features[:, :3], features[:, :3], features])


def nearly_collinear(features, rng):
    copy = features[:, :4] * (1 + 1e-9 * rng.normal(size=(len(features), 1)))
    return np.column_stack([copy, features])


def repeated_rows(features, rng):
    noise = 1e-15 * rng.normal(size=features.shape)
    noise[:, -1] = 0
    return np.concatenate([features, features, features + noise])


def wild_scales(features, rng):
    scales = 10.0 ** rng.uniform(-4, 4, size=features.shape[1])
    scales[-1] = 1.0
    return features * scales


def single_row(features, rng):
    return features[:1]


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize(
    "degenerate",
    [
        dead,
        duplicated_columns,
        nearly_collinear,
        repeated_rows,
        wild_scales,
        single_row,
    ],
)
def test_degenerate_features(degenerate, balance):
    rng = np.random.default_rng(3)
    problem = Problem(n=200, d=10)
    problem.features = degenerate(problem.features, rng)
    problem.y = np.resize(problem.y, (len(problem.features), 1))
    coef = rng.normal(size=problem.features.shape[1])
    coef[-1] -= 1 + np.median(problem.predict(coef))
    problem.coef = coef[None]
    assert problem.predict(problem.coef).min() < 0
    result = problem.repair(balance=balance)
    assert_feasible(problem, result)
    assert result.nearest.all()
    if balance:
        assert_balanced(problem, result)


@pytest.mark.parametrize("room", [0.0, 1e-12, 1e-6])
def test_only_a_constant_head_is_balanced(room):
    problem = Problem()
    problem.y[:] = MARGIN * problem.scale + room
    result = problem.repair()
    assert_feasible(problem, result)
    assert_balanced(problem, result)
    assert problem.predict(result.coef) == pytest.approx(room, abs=300 * room + 1e-8)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("failure", ["raises", "wrong", "empty"])
def test_survives_a_failing_solver(monkeypatch, failure, balance):
    def broken(system, target, maxiter=None):
        if failure == "raises":
            raise RuntimeError("Maximum number of iterations reached.")
        x, residual = nnls(system, target)
        return (0.0 * x, 1.0) if failure == "empty" else (x * (x == x.max()), residual)

    monkeypatch.setattr("sklpos.repair.programme.nnls", broken)
    problem = Problem()
    result = problem.repair(balance=balance)
    assert_feasible(problem, result)
    assert not result.nearest.any()
    assert all(cuts.size == 0 for cuts in result.cuts)
    assert np.ptp(problem.predict(result.coef)) > 0.1 * problem.scale
    if balance:
        assert_balanced(problem, result)


@pytest.mark.parametrize("seed", range(4))
def test_a_near_head_is_near_on_other_rows_too(seed):
    """As many weights as rows: without the jitter it is up to 25 times as far there."""
    rng, problem = np.random.default_rng(seed), Problem(n=100)
    own, other = (
        np.column_stack([rng.normal(size=(n, 99)).clip(min=0), np.ones(n)])
        for n in (100, 2000)
    )
    problem.features, problem.coef = own, rng.normal(size=(1, 100))
    change = problem.repair(balance=False).coef - problem.coef
    near, far = (np.sqrt(np.mean((rows @ change.T) ** 2)) for rows in (own, other))
    assert far < 1.8 * near
