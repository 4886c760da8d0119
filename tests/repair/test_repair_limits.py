"""Repairs without a bias, of degenerate features, and with a solver that fails."""

import numpy as np
import pytest
from heads import MARGIN, Problem, assert_balanced, assert_feasible, assert_optimal
from scipy.optimize import linprog, nnls

from sklpos.repair import Repair
from sklpos.repair.objective import HeadObjective


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


@pytest.mark.parametrize("seed", range(4))
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

    monkeypatch.setattr("sklpos.repair.least_distance.nnls", broken)
    problem = Problem()
    result = problem.repair(balance=balance)
    assert_feasible(problem, result)
    assert not result.nearest.any()
    assert all(cuts.size == 0 for cuts in result.cuts)
    assert np.ptp(problem.predict(result.coef)) > 0.1 * problem.scale
    if balance:
        assert_balanced(problem, result)


def test_a_summary_is_short_however_many_outputs_there_are():
    many = np.ones(500)
    yes = many > 0
    rows = np.ones((1000, 500))
    found = Repair(rows, many, yes, ~yes, 0 * many, many, many, "a row")
    assert len(repr(found)) < 200
    assert "a row" in repr(found)
    assert found.multipliers_.shape == (1000, 500)
    assert "no head" not in repr(found)
    none = Repair(rows, many, ~yes, ~yes, many, many, many, "a row")
    assert "no head obeys the bounds of 500 outputs" in repr(none)


def test_weights_that_exploded_have_an_infinite_cost():
    objective = HeadObjective(np.eye(2) - 0.5, np.zeros(2), has_bias=True)
    heads = np.array([[1e300, -1e300], [1e200, 0.0]])
    assert objective.mean_square(heads).tolist() == [np.inf, np.inf]
