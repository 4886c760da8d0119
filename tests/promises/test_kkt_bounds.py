"""Lower and upper bounds: the same solutions, mirrored, and those of both together."""

import numpy as np
import pytest
import torch
from marks import mostly_slow
from quadratic_programmes import PROGRAMMES, solve
from scipy.optimize import minimize
from torch import nn

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.nets.bounds import Bounds
from sklpos.strategies import Certified, OutputConstraint

TRAINING = [name for name, cls in STRATEGIES.items() if cls.guarantee == "training"]
ANNEALED = {"optimizer": torch.optim.Adam, "lr": 0.1, "weight_decay": 0.0}


def regressor(**params):
    return PositiveOutputRegressor(
        **{"batch_size": -1, "on_violated_y": "ignore", "random_state": 0, **params}
    )


# -- exact solutions of problems with both bounds -----------------------------------

X_LINE = np.arange(4.0)[:, None]
# One output for each kind of bounds: a lower one, an upper one, both, and none.
LINES = np.hstack([X_LINE - 1, 1 - X_LINE, 2 * X_LINE - 3, X_LINE - 1])
LINE_BOUNDS = {"lower_bound": [0, None, 0, None], "upper_bound": [None, 0, 1, None]}
# The third line meets a bound at each end: 2 * (f - y) is orthogonal to 1 and x after
# both multipliers are subtracted.
LINE_SOLUTION = X_LINE * [4 / 7, -4 / 7, 1 / 3, 1] - [0, 0, 0, 1]
LINE_MULTIPLIERS = np.array(
    [[20 / 7, -20 / 7, 68 / 9, 0], [0] * 4, [0] * 4, [0, 0, -32 / 9, 0]]
)


def assert_optimal(model, X, Y, solution, multipliers, bounds):
    predicted = model.predict(X).reshape(solution.shape)
    objective = ((solution - Y) ** 2).mean()
    assert ((predicted - Y) ** 2).mean() == pytest.approx(objective, rel=1e-6)
    assert predicted == pytest.approx(solution, abs=1e-2)
    assert bounds.violation(predicted).max() < 1e-6 * Y.std()
    largest = abs(multipliers).max()
    assert abs(model.multipliers_ - multipliers).max() <= 1e-2 * largest
    assert model.kkt_.max_violation < 1e-6
    assert model.kkt_.complementarity < 1e-2
    assert model.kkt_.stationarity < 1e-2


@pytest.mark.parametrize("name", mostly_slow(TRAINING, "augmented_lagrangian", "slack"))
def test_every_kind_of_bounds_is_solved_primal_and_dual(name):
    params = {"strategy": name, "repair": None, "max_epochs": 1000} | ANNEALED
    module = {"module": MLP, "module__hidden_layer_sizes": ()}
    model = regressor(**params, **module, **LINE_BOUNDS).fit(X_LINE, LINES)
    bounds = Bounds.read(*LINE_BOUNDS.values(), n_outputs=4)
    assert_optimal(model, X_LINE, LINES, LINE_SOLUTION, LINE_MULTIPLIERS, bounds)


def random_range(seed):
    """200 rows and 5 features, and a range that a third of the targets leave."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 5))
    y = X @ rng.normal(size=5) + 0.5 + rng.normal(size=200)
    return X, y, *np.quantile(y, [0.2, 0.9])


def solve_range(X, y, lower, upper):
    """Predictions and signed multipliers of the best line within a range."""
    n, design = len(X), np.hstack([X, np.ones((len(X), 1))])
    cuts = np.vstack([design, -design])
    ends = np.repeat([lower, -upper], n)
    weights, dual = solve(2 * design.T @ design, -2 * design.T @ y, cuts, ends)
    return design @ weights, dual[:n] - dual[n:]


def test_the_oracle_of_a_range_agrees_with_a_general_solver():
    X, y, lower, upper = random_range(0)
    prediction, multipliers = solve_range(X, y, lower, upper)
    design = np.hstack([X, np.ones((len(X), 1))])
    cuts = np.vstack([design, -design])
    room = np.repeat([lower, -upper], len(X))
    found = minimize(
        lambda v: ((design @ v - y) ** 2).mean(),
        np.append(np.zeros(5), (lower + upper) / 2),
        jac=lambda v: 2 * design.T @ (design @ v - y) / len(y),
        constraints={
            "type": "ineq",
            "fun": lambda v: cuts @ v - room,
            "jac": lambda v: cuts,
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    assert design @ found.x == pytest.approx(prediction, abs=1e-6)
    assert multipliers.max() > 0.1  # both bounds matter
    assert multipliers.min() < -0.1
    slope = 2 * (prediction - y) - multipliers
    assert design.T @ slope == pytest.approx(np.zeros(6), abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TRAINING)
def test_a_random_range_is_solved_primal_and_dual(name, seed):
    X, y, lower, upper = random_range(seed)
    params = {"strategy": name, "repair": None, "max_epochs": 1000} | ANNEALED
    params |= {"lower_bound": lower, "upper_bound": upper}
    module = {"module": MLP, "module__hidden_layer_sizes": ()}
    model = regressor(**params, **module).fit(X, y)
    prediction, multipliers = solve_range(X, y, lower, upper)
    columns = (part[:, None] for part in (y, prediction, multipliers))
    assert_optimal(model, X, *columns, Bounds.read(lower, upper, 1))


# -- published programmes, with their ranges as ranges ------------------------------


def as_ranges(programme):
    """Outputs with both bounds, for pairs of rows that bound the same expression.

    Returns the rows, and for each of them the number of its lower and upper bound in
    the programme.
    """
    A, used, ranges = programme.A, set(), []
    for row in range(len(A)):
        if row in used:
            continue
        opposite = [j for j in range(row, len(A)) if np.allclose(A[j], -A[row])]
        used.update(opposite)
        ranges.append((row, opposite[0] if opposite else None))
    return ranges


RANGES = [p for p in PROGRAMMES if p.name in ("HS21", "OSQP")]


@pytest.mark.slow
@pytest.mark.parametrize("programme", RANGES, ids=str)
@pytest.mark.parametrize("name", TRAINING)
def test_programmes_with_ranges(name, programme):
    """One of them has an equality: both bounds at the same place."""
    epochs = 1000
    ranges = as_ranges(programme)
    rows = [row for row, _ in ranges]
    upper = [None if j is None else -programme.b[j] for _, j in ranges]
    H, c, A = map(torch.as_tensor, (programme.H, programme.c, programme.A[rows]))
    constraint = OutputConstraint(
        n_samples=1,
        n_outputs=len(ranges),
        lower_bound=programme.b[rows],
        upper_bound=upper,
        strategy=name,
    ).double()
    x = torch.zeros_like(c, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for _ in range(epochs):
        outputs = (A @ x)[None]
        constraint.dual_step(outputs, [0])
        loss = (x @ H @ x / 2 + c @ x) / len(rows) + constraint(outputs, [0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        constraint.end_epoch()
    assert x.detach().numpy() == pytest.approx(programme.solution, abs=1e-4)
    if not constraint.strategy.estimates_multipliers:
        pull = programme.A.T @ programme.multipliers
        found = A.T @ constraint.multipliers[0]
        assert found.numpy() == pytest.approx(pull, abs=1e-2 * abs(pull).max())


# -- the mirror image ---------------------------------------------------------------


def mirrored_net(net):
    """The net whose outputs are minus those of the other."""
    head = nn.Linear(8, 2).double()
    with torch.no_grad():
        for own, other in zip(head.parameters(), net[-1].parameters(), strict=True):
            own.copy_(-other)
    return nn.Sequential(*net[:-1], head)


MIRRORED = [(0.0, None), ([0.0, None], [None, 0.9]), ([0.0, -0.3], [None, 0.9])]


@pytest.mark.parametrize("sides", MIRRORED, ids=["lower", "each", "both"])
def test_the_mirror_image_of_the_data_gives_that_of_the_model(
    data, mostly_slow_strategy, sides
):
    """Steps, schedules, multipliers and the repair do not know which side is which."""
    torch.manual_seed(0)
    strategy = mostly_slow_strategy
    net = nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 2)).double()
    lower, upper = sides
    if strategy == "nonnegative_weights" and sides is MIRRORED[-1]:
        pytest.skip("with both bounds, its cone starts at the lower one")
    params = {"strategy": strategy, "max_epochs": 12, "lr": 0.02}
    if strategy == "certified":
        # Its ending is a proof, which is a search and would stop by the clock.
        params |= {"strategy": Certified(warm_up=5), "repair": None}
    bounds = {"lower_bound": lower, "upper_bound": upper}
    model = regressor(module=net, **params, **bounds).fit(data.X, data.Y)
    bounds = {"lower_bound": minus(upper), "upper_bound": minus(lower)}
    mirror = regressor(module=mirrored_net(net), **params, **bounds)
    mirror.fit(data.X, -data.Y)
    np.testing.assert_allclose(
        mirror.predict(data.X_new), -model.predict(data.X_new), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        mirror.multipliers_, -model.multipliers_, rtol=1e-9, atol=1e-9
    )
    for name, value in vars(model.kkt_).items():
        assert getattr(mirror.kkt_, name) == pytest.approx(value, rel=1e-6, abs=1e-9)


def minus(bound):
    if isinstance(bound, list):
        return [minus(value) for value in bound]
    return None if bound is None else -bound


# -- the unit of y ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "zero"),
    [
        (1e-6, 0.0),
        (1.0, 273.15),
        pytest.param(1e6, 0.0, marks=pytest.mark.slow),
        pytest.param(1.8, 32.0, marks=pytest.mark.slow),
    ],
)
def test_the_unit_of_y_does_not_matter_with_both_bounds(
    small, data, mostly_slow_strategy, unit, zero
):
    """Grams and tonnes, Celsius, Kelvin and Fahrenheit."""
    strategy = mostly_slow_strategy
    params = {"strategy": strategy, "module__activation": "sigmoid", "max_epochs": 20}
    params |= {"on_violated_y": "ignore"}
    if strategy == "certified":
        params["repair"] = None  # a search would stop by the clock
    one = small(lower_bound=0.0, upper_bound=1.0, **params).fit(data.X, data.Y)
    bounds = {"lower_bound": zero, "upper_bound": unit + zero}
    other = small(**bounds, **params).fit(data.X, unit * data.Y + zero)
    np.testing.assert_allclose(
        (other.predict(data.X_new) - zero) / unit,
        one.predict(data.X_new),
        rtol=1e-7,
        atol=1e-7,
    )
    np.testing.assert_allclose(
        other.multipliers_ / unit, one.multipliers_, rtol=1e-6, atol=1e-7
    )
