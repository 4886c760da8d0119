"""Every strategy that claims it reaches the exact primal and dual solution."""

import problems
import pytest
import torch
from skorch.callbacks import LRScheduler

from sklpos import STRATEGIES, PositiveOutputRegressor
from sklpos.strategies import AugmentedLagrangian, Lagrangian, SlackMultipliers


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


# Plain descent on the weights, so that what is tested is the dual side; the kink of
# the l1 penalty needs steps that decay to nothing.
DEFAULT = decaying(torch.optim.SGD, 0.1, 0.1, 1000)
KINK = decaying(torch.optim.Adam, 0.05, 1e-4, 1500)
SETTINGS = {
    "exact_penalty": KINK,
    "augmented_lagrangian": {"strategy": AugmentedLagrangian(max_curvature=10.0)},
}
# 4 of 200 rows carry multipliers near 100: a long way at the default dual step.
DENSE = decaying(torch.optim.SGD, 0.02, 0.1, 2000)
DENSE_SETTINGS = {
    "exact_penalty": decaying(torch.optim.Adam, 0.05, 1e-4, 3000),
    "lagrangian": {"strategy": Lagrangian(dual_lr=10.0)},
    "slack": {"strategy": SlackMultipliers(dual_lr=1.0), "alpha": 10.0},
}

SMALL = [problems.one_hot(), problems.line(), problems.constant()]
TRAINING = [name for name, cls in STRATEGIES.items() if cls.guarantee == "training"]


def fit(problem, **params):
    model = PositiveOutputRegressor(
        repair=None,
        batch_size=-1,
        module__hidden_layer_sizes=(),
        module__bias=problem.bias,
        on_negative_y="ignore",
        random_state=0,
        **params,
    )
    return model.fit(problem.X, problem.y)


def assert_optimal(model, problem, *, objective, prediction, multiplier):
    predicted = model.predict(problem.X)
    reached = ((predicted - problem.y) ** 2).mean()
    assert reached == pytest.approx(problem.objective, rel=objective)
    assert predicted == pytest.approx(problem.prediction, abs=prediction)
    largest = problem.multipliers.max()
    difference = model.multipliers_.ravel() - problem.multipliers
    assert abs(difference).max() <= multiplier * largest


@pytest.mark.parametrize("problem", SMALL, ids=str)
@pytest.mark.parametrize("name", TRAINING)
def test_small_problems_are_solved_primal_and_dual(name, problem):
    model = fit(problem, **{"strategy": name} | DEFAULT | SETTINGS.get(name, {}))
    relative = 1e-3 if name == "exact_penalty" else 1e-4
    assert_optimal(model, problem, objective=relative, prediction=1e-4, multiplier=1e-3)
    assert model.kkt_.max_violation < 1e-4


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
@pytest.mark.parametrize("name", TRAINING)
def test_random_dense_problem_is_solved_primal_and_dual(name, seed):
    problem = problems.random_dense(seed)
    settings = DENSE | DENSE_SETTINGS.get(name, {})
    model = fit(problem, **{"strategy": name, **settings})
    relative = 1e-3 if name == "exact_penalty" else 1e-4
    assert_optimal(model, problem, objective=relative, prediction=1e-2, multiplier=2e-2)


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
