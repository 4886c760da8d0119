"""The repaired head against general solvers, its optimality conditions and attacks."""

import numpy as np
import pytest
from heads import (
    Problem,
    assert_balanced,
    assert_feasible,
    assert_optimal,
    general_solver,
    ridge,
)

from sklpos.repair import HeadObjective


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("side", ["lower", "upper", "both"])
def test_matches_a_general_solver(side, bias, balance, weighted):
    problem = Problem(n=40, d=4, bias=bias).bound(side)
    if weighted:
        problem.objective_weights = np.random.default_rng(0).uniform(0.2, 3, 40)
    result = problem.repair(balance=balance)

    w = np.ones(40) if problem.objective_weights is None else problem.objective_weights
    nearest, balanced = general_solver(
        problem.features,
        problem.coef[0],
        w,
        metric=np.diag(ridge(problem)),
        bounds=(problem.lower_bound.item(), problem.upper_bound.item()),
        target=np.average(problem.y[:, 0], weights=w) if balance else None,
    )
    assert result.balanced.item() == balanced
    assert problem.predict(result.coef)[:, 0] == pytest.approx(nearest, abs=1e-6)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("side", ["lower", "upper", "both"])
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
def test_optimality_conditions(shape, side, balance):
    problem = Problem(**shape)
    if shape["n"] < shape["d"]:  # least squares would interpolate
        problem.coef = np.random.default_rng(1).normal(size=problem.coef.shape)
    problem.bound(side)
    result = problem.repair(balance=balance)
    signs = {np.sign(value) for values in result.multipliers for value in values}
    if problem.has_bias:
        assert signs == {"lower": {1}, "upper": {-1}, "both": {-1, 1}}[side]
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
