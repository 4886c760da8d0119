"""The nearest head over a box of features, against a general solver."""

import numpy as np
import pytest
from scipy.optimize import minimize

from sklpos.repair.objective import HeadObjective
from sklpos.repair.robust import (
    nearest_robust_head,
    smallest_mix_into,
    smallest_shift_into,
    worst_case,
)


def make_problem(seed, d=4, n=60, has_bias=True):
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(size=(n, d)), 0)
    low, high = features.min(axis=0) - 0.1, features.max(axis=0) + 0.3
    rows = np.hstack([features, np.ones((n, 1))]) if has_bias else features
    y = np.maximum(features @ rng.normal(size=d), 0)[:, None] + 0.2
    objective = HeadObjective.from_rows([rows], y, has_bias=has_bias)
    start = np.linalg.lstsq(rows, y, rcond=None)[0].T
    return start - 0.05, objective, low, high


def brute_worst(head, low, high):
    d = len(low)
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), -1).reshape(-1, d)
    return (corners @ head[:d] + head[d:].sum()).min()


def oracle(start, objective, low, high, target, lower, upper=np.inf):
    """SLSQP on the 2**d corners."""
    d = len(low)
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), -1).reshape(-1, d)
    rows = np.hstack([corners, np.ones((len(corners), len(start) - d))])
    matrix = objective.metric
    sides = [(sign, end) for sign, end in ((1, lower), (-1, upper)) if np.isfinite(end)]
    constraints = [
        {"type": "ineq", "fun": lambda v, sign=sign, end=end: sign * (rows @ v - end)}
        for sign, end in sides
    ]
    if target is not None:
        mean = objective.mean_features
        constraints.append({"type": "eq", "fun": lambda v: mean @ v - target})
    first = np.zeros(len(start))
    # A constant inside the bounds.
    first[-1] = target or (lower + 1 if np.isinf(upper) else upper - 0.01)
    found = minimize(
        lambda v: (v - start) @ matrix @ (v - start),
        first,
        jac=lambda v: 2 * matrix @ (v - start),
        constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.fun


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_head_is_nearer(seed, balance):
    start, objective, low, high = make_problem(seed)
    required = np.array([0.02])
    head = nearest_robust_head(
        start, objective, low, high, lower_bound=required, balance=balance
    )
    assert worst_case(start, low, high)[0] < 0  # there is something to repair
    lowest = worst_case(head, low, high)[0]
    np.testing.assert_allclose(lowest, brute_worst(head[0], low, high), atol=1e-12)
    np.testing.assert_allclose(lowest, 0.02, atol=1e-8)
    target = objective.mean_target[0] if balance else None
    if balance:
        np.testing.assert_allclose(head @ objective.mean_features, target, rtol=1e-10)
    change = (head - start)[0]
    cost = change @ objective.metric @ change
    expected = oracle(start[0], objective, low, high, target, 0.02)
    assert cost <= expected * (1 + 1e-6) + 1e-9


def highest(head, low, high):
    return -worst_case(-head, low, high)


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("lower", [0.02, -np.inf])
@pytest.mark.parametrize("seed", range(3))
def test_no_head_is_nearer_under_an_upper_bound(seed, lower, balance):
    start, objective, low, high = make_problem(seed)
    mean = objective.mean_target[0]
    top = highest(start, low, high)[0]
    upper = (mean + top) / 2
    head = nearest_robust_head(
        start,
        objective,
        low,
        high,
        lower_bound=[lower],
        upper_bound=[upper],
        balance=balance,
    )
    assert top > upper  # there is something to repair
    lowest = worst_case(head, low, high)[0]
    np.testing.assert_allclose(lowest, brute_worst(head[0], low, high), atol=1e-12)
    assert highest(head, low, high)[0] <= upper + 1e-8
    assert lowest >= lower - 1e-8
    if balance:
        np.testing.assert_allclose(head @ objective.mean_features, mean, rtol=1e-10)
    change = (head - start)[0]
    cost = change @ objective.metric @ change
    target = mean if balance else None
    expected = oracle(start[0], objective, low, high, target, lower, upper)
    assert cost <= expected * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_head_is_mirrored(seed):
    start, objective, low, high = make_problem(seed)
    mirrored = HeadObjective(
        objective.gram, objective.mean_features, -objective.mean_target
    )
    one = nearest_robust_head(
        start, objective, low, high, lower_bound=0.02, balance=True
    )
    other = nearest_robust_head(
        -start, mirrored, low, high, lower_bound=None, upper_bound=-0.02, balance=True
    )
    np.testing.assert_allclose(other, -one, rtol=1e-8, atol=1e-10)


def test_equal_bounds_leave_a_constant():
    start, objective, low, high = make_problem(0)
    head = nearest_robust_head(
        start, objective, low, high, lower_bound=1.0, upper_bound=1.0, balance=True
    )[0]
    np.testing.assert_allclose(head, [0, 0, 0, 0, 1], atol=1e-9)


def test_an_unbounded_feature_has_no_weight_between_two_bounds():
    start, objective, low, high = make_problem(3)
    high[:2] = np.inf
    head = nearest_robust_head(
        start, objective, low, high, lower_bound=0.0, upper_bound=9.0, balance=True
    )[0]
    np.testing.assert_array_equal(head[:2], 0)
    assert (head[2:4] != 0).any()
    np.testing.assert_allclose(head @ objective.mean_features, objective.mean_target)


def test_a_head_that_holds_stays():
    start, objective, low, high = make_problem(0)
    head = nearest_robust_head(
        start, objective, low, high, lower_bound=np.array([-1e3]), balance=False
    )
    np.testing.assert_array_equal(head, start)


def test_a_free_output_is_balanced_all_the_same():
    start, objective, low, high = make_problem(0)
    free = np.array([-np.inf])
    same = nearest_robust_head(
        start, objective, low, high, lower_bound=free, balance=False
    )
    np.testing.assert_array_equal(same, start)
    head = nearest_robust_head(
        start, objective, low, high, lower_bound=free, balance=True
    )
    np.testing.assert_allclose(head @ objective.mean_features, objective.mean_target)
    missing = objective.mean_target - start @ objective.mean_features
    change = head - start
    cost = np.sum(change @ objective.metric * change)
    assert cost <= missing**2 * (1 + 1e-6)  # a shift of the bias would do


def test_a_target_below_the_bound_is_given_up():
    start, objective, low, high = make_problem(1)
    required = objective.mean_target + 1
    head = nearest_robust_head(
        start, objective, low, high, lower_bound=required, balance=True
    )
    np.testing.assert_allclose(worst_case(head, low, high), required, atol=1e-8)


def test_without_a_bias():
    start, objective, low, high = make_problem(2, has_bias=False)
    low = np.full_like(low, 0.0)
    head = nearest_robust_head(
        start, objective, low, high, lower_bound=np.zeros(1), balance=False
    )
    assert worst_case(head, low, high)[0] >= -1e-9
    assert (head >= -1e-9).all()  # over [0, high] nothing else holds


def test_an_unbounded_feature_gets_a_weight_of_one_sign():
    start, objective, low, high = make_problem(3)
    high[:2], low[2:] = np.inf, -np.inf
    head = nearest_robust_head(
        start, objective, low, high, lower_bound=np.zeros(1), balance=True
    )[0]
    assert (head[:2] >= 0).all()
    assert (head[2:4] <= 0).all()
    assert np.isfinite(worst_case(head[None], low, high)[0])
    np.testing.assert_allclose(head @ objective.mean_features, objective.mean_target)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_y_does_not_matter(scale):
    start, objective, low, high = make_problem(4)
    scaled = HeadObjective(
        objective.gram, objective.mean_features, scale * objective.mean_target
    )
    one = nearest_robust_head(
        start, objective, low, high, lower_bound=np.zeros(1), balance=True
    )
    other = nearest_robust_head(
        scale * start, scaled, low, high, lower_bound=np.zeros(1), balance=True
    )
    np.testing.assert_allclose(other / scale, one, rtol=1e-5, atol=1e-8)


def test_a_mix_moves_the_extreme_predictions_into_bounds():
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.normal(size=(50, 3)), np.ones((50, 1))])
    head = rng.normal(size=4)
    before = rows @ head
    low, high, mean = before.min(), before.max(), before.mean()
    raised = smallest_mix_into(low, high, (low + 0.5, np.inf), mean)
    after = rows @ raised(head)
    np.testing.assert_allclose(after, raised.gain * before + raised.offset)
    np.testing.assert_allclose(after.min(), low + 0.5)
    np.testing.assert_allclose(after.mean(), mean)
    for bounds in ((low + 0.1, high - 0.5), (low + 0.5, high - 0.1)):
        after = rows @ smallest_mix_into(low, high, bounds, mean)(head)
        room = np.array([after.min() - bounds[0], bounds[1] - after.max()])
        assert (room >= -1e-12).all()
        assert room.min() == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(after.mean(), mean)
    same = smallest_mix_into(low, high, (low, high), mean)(head)
    np.testing.assert_array_equal(same, head)
    constant = smallest_mix_into(low, high, (0.1, 0.1), 0.1)(head)
    np.testing.assert_array_equal(constant, [0, 0, 0, 0.1])


@pytest.mark.parametrize(
    ("bounds", "offset"),
    [((1, 9), 1), ((1, np.inf), 1), ((-9, 2), -1), ((-9, 9), 0), ((1, 4), 1)],
)
def test_the_smallest_shift_has_either_sign(bounds, offset):
    assert smallest_shift_into(0.0, 3.0, bounds) == (1.0, offset)
