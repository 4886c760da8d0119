"""Hard strategies solve published quadratic programmes, with their defaults.

One optimizer and one learning rate for all of them, annealed to 0.
"""

import numpy as np
import pytest
import torch
from marks import mostly_slow
from quadratic_programmes import PROGRAMMES
from scipy.optimize import nnls

from sklpos import STRATEGIES
from sklpos.strategies import OutputConstraint

HARD = [name for name, cls in STRATEGIES.items() if cls.guarantee == "training"]
EPOCHS = 1000
QUICK = "HS21"  # all of them take half a minute
CASES = [
    pytest.param(p, id=p.name, marks=() if p.name == QUICK else pytest.mark.slow)
    for p in PROGRAMMES
]


def minimise(programme, name, lr=0.1):
    """Return weights and multipliers of a plain loop over the full batch."""
    H, c, A, b = map(
        torch.as_tensor, (programme.H, programme.c, programme.A, programme.b)
    )
    rows, m = torch.arange(len(b)), len(b)
    constraint = OutputConstraint(n_samples=m, strategy=name).double()
    x = torch.zeros_like(c, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    for _ in range(EPOCHS):
        distance = (A @ x - b)[:, None]
        constraint.dual_step(distance, rows)
        loss = (x @ H @ x / 2 + c @ x) / m + constraint(distance, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        constraint.end_epoch()
    x = x.detach().numpy()
    if constraint.strategy.estimates_multipliers:
        return x, least_squares_multipliers(programme, x)
    return x, constraint.multipliers[:, 0].numpy()


def least_squares_multipliers(programme, x):
    active = programme.A @ x - programme.b < 1e-2
    multipliers = np.zeros(len(programme.b))
    if not active.any():
        return multipliers
    gradient = programme.H @ x + programme.c
    multipliers[active] = nnls(programme.A[active].T, gradient)[0]
    return multipliers


@pytest.mark.parametrize("programme", CASES)
@pytest.mark.parametrize("name", mostly_slow(HARD, "augmented_lagrangian"))
def test_the_defaults_reach_the_optimum_primal_and_dual(name, programme):
    x, multipliers = minimise(programme, name)
    optimum = programme.objective(programme.solution)
    assert programme.objective(x) == pytest.approx(optimum, rel=1e-6)
    assert (programme.b - programme.A @ x).max() < 1e-6
    exact = programme.multipliers
    if not programme.unique:  # their pull on the weights is
        multipliers, exact = programme.A.T @ multipliers, programme.A.T @ exact
    assert abs(multipliers - exact).max() < 1e-2 * abs(exact).max()


@pytest.mark.parametrize("programme", PROGRAMMES, ids=str)
def test_the_exact_solution_satisfies_the_kkt_conditions(programme):
    x, multipliers = programme.solution, programme.multipliers
    distance = programme.A @ x - programme.b
    gradient = programme.H @ x + programme.c - programme.A.T @ multipliers
    assert abs(gradient).max() < 1e-9
    assert distance.min() > -1e-9
    assert multipliers.min() >= 0
    assert abs(multipliers * distance).max() < 1e-9
    assert multipliers.max() > 1e-2  # a bound matters
    if programme.published is not None:
        optimum = programme.objective(x)
        assert optimum == pytest.approx(programme.published, rel=1e-9)
