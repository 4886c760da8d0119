"""Every strategy that claims it reaches the exact primal and dual solution."""

from itertools import product

import numpy as np
import problems
import pytest
import torch
from scipy.optimize import minimize
from skorch.callbacks import LRScheduler

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.strategies import (
    Certified,
)


def decaying(optimizer, lr, end, epochs):
    """Full batch, the learning rate shrinking to `end` times its start."""
    gamma = end ** (1 / epochs)
    schedule = LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=gamma)
    return {
        "optimizer": optimizer,
        "lr": lr,
        "callbacks": [schedule],
        "max_epochs": epochs,
    }


# What the defaults of every strategy are made for: one learning rate for all problems.
ANNEALED = {"optimizer": torch.optim.Adam, "lr": 0.1, "weight_decay": 0.0}

DEFAULT = decaying(torch.optim.SGD, 0.1, 0.1, 1000)

SMALL = [problems.one_hot(), problems.line(), problems.constant()]
TRAINING = [name for name, cls in STRATEGIES.items() if cls.guarantee == "training"]


def fit(problem, **params):
    model = PositiveOutputRegressor(
        repair=None,
        batch_size=-1,
        module=MLP,
        module__hidden_layer_sizes=(),
        module__bias=problem.bias,
        on_violated_y="ignore",
        random_state=0,
        **params,
    )
    return model.fit(problem.X, problem.y)


def assert_optimal(model, problem):
    predicted = model.predict(problem.X)
    reached = ((predicted - problem.y) ** 2).mean()
    assert reached == pytest.approx(problem.objective, rel=1e-6)
    assert predicted == pytest.approx(problem.prediction, abs=1e-2)
    assert model.kkt_.max_violation < 1e-6
    largest = problem.multipliers.max()
    difference = model.multipliers_.ravel() - problem.multipliers
    assert abs(difference).max() <= 1e-2 * largest


@pytest.mark.slow  # `test_kkt_bounds.py` solves a problem of several outputs
@pytest.mark.parametrize("problem", SMALL, ids=str)
@pytest.mark.parametrize("name", TRAINING)
def test_small_problems_are_solved_primal_and_dual(name, problem):
    assert_optimal(fit(problem, strategy=name, max_epochs=1000, **ANNEALED), problem)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", TRAINING)
def test_random_dense_problem_is_solved_primal_and_dual(name, seed):
    problem = problems.random_dense(seed)
    assert_optimal(fit(problem, strategy=name, max_epochs=2000, **ANNEALED), problem)


def solve_over_corners(problem):
    """Minimise the squared error over lines that are >= 0 in all corners of the box."""
    ones, corners = (
        np.ones((len(problem.X), 1)),
        [*zip(*bounds_of(problem), strict=True)],
    )
    design = np.hstack([problem.X, ones])
    cuts = np.array([[*corner, 1.0] for corner in product(*corners)])
    solution = minimize(
        lambda v: ((design @ v - problem.y) ** 2).mean(),
        np.append(np.zeros(problem.X.shape[1]), 1.0),
        jac=lambda v: 2 * design.T @ (design @ v - problem.y) / len(design),
        constraints={"type": "ineq", "fun": lambda v: cuts @ v, "jac": lambda v: cuts},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solution.success
    return design @ solution.x, solution.fun


def bounds_of(problem):
    return problem.X.min(axis=0), problem.X.max(axis=0)


CONVEX = [problems.line(), problems.constant(), problems.random_dense(0)]
# The best weights are 0, where the bound has kinks: steps that decay to nothing.
CORNERED = decaying(torch.optim.SGD, 0.02, 1e-3, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("problem", CONVEX, ids=str)
def test_certified_linear_model_is_the_best_of_those_positive_over_the_box(problem):
    """Over a box the interval bound of a linear model is exact, and concave.

    The head's bias has slope 1 in it, so all multipliers, those of the rows in the
    mean convention, sum up to the mean slope of the loss.
    """
    settings = CORNERED if len(problem.X) > 4 else DEFAULT
    model = fit(problem, strategy=Certified(safety=0.0, dual_lr=0.5), **settings)
    prediction, objective = solve_over_corners(problem)
    reached = model.predict(problem.X)
    scale = model.net_.targets.scale[0]
    assert ((reached - problem.y) ** 2).mean() == pytest.approx(objective, rel=1e-3)
    assert reached == pytest.approx(prediction, abs=1e-2 * scale)
    low, high = bounds_of(problem)
    lowest = model.output_bounds(low[None], high[None])[0].item()
    assert lowest == pytest.approx(0, abs=1e-3 * scale)
    domain = scale * model.net_.domain_constraint_.state.multiplier.item()
    total = model.multipliers_.mean() + domain
    assert total == pytest.approx(2 * (prediction - problem.y).mean(), rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 1.0, 10.0])
def test_penalty_settles_where_its_formula_says(alpha):
    problem = problems.constant()
    model = fit(problem, strategy="penalty", alpha=alpha, **DEFAULT)
    assert model.predict(problem.X) == pytest.approx(-1 / (1 + alpha), abs=1e-6)
    multiplier = 2 * alpha / (1 + alpha)
    assert model.multipliers_.item() == pytest.approx(multiplier, abs=1e-6)


def test_dense_oracle_satisfies_the_kkt_conditions():
    problem = problems.random_dense(0)
    gradient = 2 * (problem.prediction - problem.y) - problem.multipliers
    assert abs(problem.X.T @ gradient).max() < 1e-9
    assert abs(gradient.sum()) < 1e-9
    assert problem.prediction.min() > -1e-9
    assert problem.multipliers.min() >= 0
    assert abs(problem.prediction * problem.multipliers).max() < 1e-9
    assert problem.multipliers.max() > 0
