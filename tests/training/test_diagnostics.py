"""KKT residuals and estimated multipliers against exact solutions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from constrained_nets import make_net, make_rows
from problems import constant, line, one_hot, random_dense
from torch import nn

from sklpos.nets.modules import MLP
from sklpos.strategies import ExactPenalty, Lagrangian, QuadraticPenalty
from sklpos.training.kkt import KKTResiduals, evaluate_training_state
from sklpos.training.step import DivergenceError

PROBLEMS = [line(), one_hot(), constant(), random_dense(0), random_dense(1)]


def at_solution(problem, strategy=None):
    """A linear net with the exact weights, and multipliers where it keeps some."""
    columns = [problem.X, np.ones((len(problem.X), 1))][: 1 + problem.bias]
    coef = np.linalg.lstsq(np.hstack(columns), problem.prediction, rcond=None)[0]
    linear = nn.Linear(problem.X.shape[1], 1, bias=problem.bias).double()
    with torch.no_grad():
        linear.weight.copy_(torch.as_tensor(coef[: problem.X.shape[1]]))
        if problem.bias:
            linear.bias.fill_(coef[-1])
    y = problem.y[:, None]
    net = make_net(linear, y, strategy=strategy or Lagrangian(), lr=0.1)
    if isinstance(net.strategy_, Lagrangian):
        exact = torch.as_tensor(problem.multipliers)
        net.constraint_.state.multiplier.copy_(exact[:, None])
    return net, make_rows(problem.X, y)


def largest(kkt: KKTResiduals) -> float:
    return max(map(abs, vars(kkt).values()))


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_residuals_vanish_at_the_solution(problem):
    net, rows = at_solution(problem)
    multipliers, objective, kkt = evaluate_training_state(net, rows)
    assert largest(kkt) < 1e-8
    assert objective == pytest.approx(problem.objective, rel=1e-9)
    np.testing.assert_array_equal(multipliers.ravel(), problem.multipliers)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_each_residual_shows_its_own_fault(problem):
    net, rows = at_solution(problem)
    bias = net.module_.bias if problem.bias else net.module_.weight[0]
    with torch.no_grad():
        bias -= 0.1
    _, _, kkt = evaluate_training_state(net, rows)
    assert kkt.max_violation > 0.05
    assert kkt.stationarity > 0.05
    assert kkt.complementarity > 0.05

    net, rows = at_solution(problem)
    with torch.no_grad():
        net.constraint_.state.multiplier.zero_()
    _, _, kkt = evaluate_training_state(net, rows)
    assert kkt.stationarity > 0.1
    assert kkt.max_violation < 1e-12
    assert kkt.complementarity == 0

    net, rows = at_solution(problem)
    with torch.no_grad():
        net.constraint_.state.multiplier -= 1.0
    _, _, kkt = evaluate_training_state(net, rows)
    if (problem.multipliers == 0).any():
        assert kkt.min_multiplier == -1


def test_violation_and_multipliers_within_their_signs_read_zero():
    net, rows = at_solution(line())
    with torch.no_grad():
        net.module_.bias += 5
        net.constraint_.state.multiplier += 5
    _, _, kkt = evaluate_training_state(net, rows)
    assert kkt.max_violation == 0
    assert kkt.min_multiplier == 0
    assert kkt.complementarity > 25  # of either sign


@pytest.mark.parametrize("criterion", [nn.MSELoss, nn.SmoothL1Loss])
def test_stationarity_is_the_norm_of_the_gradient(criterion):
    """Central differences of the weighted Lagrangian over every weight."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(9, 2)), rng.normal(size=(9, 3))
    weight = rng.uniform(0.2, 3, size=9)
    torch.manual_seed(0)
    module = MLP(2, 3, hidden_layer_sizes=(4,), activation="tanh")
    bound = np.array([0.1, -np.inf, -0.3])
    params = {"strategy": Lagrangian(), "head": "head", "criterion": criterion}
    net = make_net(module, y, lower_bound=bound, **params)
    net.constraint_.state.multiplier.copy_(
        torch.as_tensor(rng.uniform(0, 2, size=(9, 2)))
    )
    multiplier = net.constraint_.state.multiplier
    loss = {
        nn.MSELoss: nn.functional.mse_loss,
        nn.SmoothL1Loss: nn.functional.smooth_l1_loss,
    }[criterion]

    def lagrangian():
        with torch.no_grad():
            f = module(torch.as_tensor(X))
            losses = loss(f, torch.as_tensor(y), reduction="none")
            g = torch.as_tensor(bound)[[0, 2]] - f[:, [0, 2]]
            terms = losses.sum(dim=1) + (multiplier * g).sum(dim=1)
        return np.average(terms.numpy(), weights=weight) / 3

    slopes, step = [], 1e-5
    for values in module.parameters():
        for i in range(values.numel()):
            flat = values.data.view(-1)
            flat[i] += step
            up = lagrangian()
            flat[i] -= 2 * step
            down = lagrangian()
            flat[i] += step
            slopes.append((up - down) / (2 * step))
    _, _, kkt = evaluate_training_state(net, make_rows(X, y, weight))
    assert kkt.stationarity == pytest.approx(np.linalg.norm(slopes), rel=1e-6)


@pytest.mark.parametrize("strategy", [Lagrangian, ExactPenalty])
def test_many_rows_are_looked_at_in_parts(strategy):
    """5,000 rows, which are 200 rows 25 times: all means stay."""
    problem, times = random_dense(0), 25
    found = []
    for copies in (1, times):
        net, rows = at_solution(repeated(problem, copies), strategy())
        with torch.no_grad():
            net.module_.weight += 0.01
        found.append(evaluate_training_state(net, rows))
    (once, objective, kkt), (again, same, parts) = found
    np.testing.assert_allclose(again, np.tile(once, (times, 1)), rtol=1e-6, atol=1e-9)
    assert same == pytest.approx(objective, rel=1e-12)
    assert vars(parts) == pytest.approx(vars(kkt), rel=1e-6, abs=1e-9)


def repeated(problem, times):
    rows = {
        name: np.concatenate([getattr(problem, name)] * times)
        for name in ("X", "y", "prediction", "multipliers")
    }
    return replace(problem, **rows)


def test_frozen_and_unused_weights_are_left_out():
    problem = line()
    net, rows = at_solution(problem)
    with torch.no_grad():
        net.module_.weight += 1
    net.module_.weight.requires_grad_(False)
    _, _, only_bias = evaluate_training_state(net, rows)
    f = problem.prediction + np.arange(4.0)
    expected = abs(np.mean(2 * (f - problem.y) - problem.multipliers))
    assert only_bias.stationarity == pytest.approx(expected)


def test_dropout_is_off_and_the_state_is_left_alone():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 1))
    net = make_net(MLP(2, 1, dropout=0.5), y, strategy=Lagrangian(), head="head")
    before = {k: v.clone() for k, v in net.module_.state_dict().items()}
    net.module_.train()
    one, two = (evaluate_training_state(net, make_rows(X, y)) for _ in range(2))
    assert one[1:] == two[1:]
    assert all(torch.equal(v, before[k]) for k, v in net.module_.state_dict().items())
    assert all(weight.grad is None for weight in net.module_.parameters())


def test_multipliers_without_state_are_the_slope_of_the_penalty():
    problem = line()
    net, rows = at_solution(problem, QuadraticPenalty())
    with torch.no_grad():
        net.module_.bias -= 0.5
    multipliers, _, _ = evaluate_training_state(net, rows)
    violation = np.maximum(0.5 - problem.prediction, 0)
    np.testing.assert_allclose(multipliers.ravel(), 2 * violation, atol=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_exact_penalty_estimates_its_multipliers(problem):
    net, rows = at_solution(problem, ExactPenalty())
    multipliers, _, kkt = evaluate_training_state(net, rows)
    np.testing.assert_allclose(multipliers.ravel(), problem.multipliers, atol=1e-9)
    assert largest(kkt) < 1e-9


def test_estimated_multipliers_with_weights_and_free_outputs():
    """Two one-hot problems side by side and a free output between them."""
    problem, weight = one_hot(), np.array([0.5, 1.0, 2.0, 4.0])
    y = np.column_stack([problem.y, [9.0, -9.0, 0.0, 1.0], -problem.y])
    linear = nn.Linear(4, 3, bias=False).double()
    solution = np.maximum(y, [0, -np.inf, 0])
    with torch.no_grad():
        linear.weight.copy_(torch.as_tensor(solution.T))
    bound = [0.0, -np.inf, 0.0]
    net = make_net(linear, y, strategy=ExactPenalty(), lower_bound=bound)
    multipliers, _, kkt = evaluate_training_state(net, make_rows(problem.X, y, weight))
    expected = 2 * (solution - y) * [1, 0, 1]
    np.testing.assert_allclose(multipliers, expected, atol=1e-9)
    assert largest(kkt) < 1e-9


def test_estimated_multipliers_take_weights_for_repetition():
    X, y = np.arange(4.0)[:, None], np.array([[-1.0], [1.0], [-2.0], [0.5]])
    weight = np.array([3.0, 1.0, 2.0, 1.0])
    again = np.repeat(np.arange(4), weight.astype(int))
    found = []
    for rows in (make_rows(X, y, weight), make_rows(X[again], y[again])):
        linear = nn.Linear(1, 1)
        for values in linear.parameters():
            nn.init.zeros_(values)
        net = make_net(linear, rows.y.numpy(), strategy=ExactPenalty())
        found.append(evaluate_training_state(net, rows))
    (weighted, *_, kkt), (repeated, *_, same) = found
    pull = weight @ np.hstack([weighted, X * weighted])  # all that is unique of them
    expected = np.sum(np.hstack([repeated, X[again] * repeated]), axis=0)
    np.testing.assert_allclose(pull, expected, rtol=1e-9)
    assert kkt.stationarity == pytest.approx(same.stationarity, abs=1e-9)


def test_estimated_multipliers_without_active_rows_are_zero():
    problem = line()
    net, rows = at_solution(problem, ExactPenalty())
    with torch.no_grad():
        net.module_.bias += 1
    multipliers, _, kkt = evaluate_training_state(net, rows)
    assert not multipliers.any()
    assert kkt.stationarity > 1


def test_estimated_multipliers_on_many_dead_rows():
    """More active rows than features, many of them equal: any solution will do."""
    rng = np.random.default_rng(0)
    X = np.repeat(np.maximum(rng.normal(size=(40, 6)), 0), 30, axis=0)
    y = -rng.exponential(size=(1200, 1))
    linear = nn.Linear(6, 1).double()
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    net = make_net(linear, y, strategy=ExactPenalty())
    multipliers, _, kkt = evaluate_training_state(net, make_rows(X, y))
    assert multipliers.min() >= 0
    assert kkt.stationarity < 1e-9
    assert multipliers.mean() == pytest.approx(-2 * y.mean())


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("strategy", [Lagrangian, ExactPenalty])
def test_a_state_that_is_not_finite_is_an_error(strategy, weight):
    net, rows = at_solution(line(), strategy())
    with torch.no_grad():
        net.module_.weight.fill_(weight)
    with pytest.raises(DivergenceError, match=r"ends at (nan|inf); lower lr \(now 0.1"):
        evaluate_training_state(net, rows)


def test_without_bounded_outputs_only_the_gradient_is_left():
    problem = line()
    linear = nn.Linear(1, 1).double()
    y = problem.y[:, None]
    net = make_net(linear, y, strategy=Lagrangian(), lower_bound=-np.inf)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(-1.0)
    multipliers, objective, kkt = evaluate_training_state(net, make_rows(problem.X, y))
    np.testing.assert_array_equal(multipliers, np.zeros((4, 1)))
    assert objective == 0
    assert largest(kkt) == 0
