"""Integer programming claims nothing that is false, whatever the scales of a net."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import random_network
from scipy.optimize import OptimizeResult, linprog
from torch import nn

from sklpos.certificates import Box, Hull, certify_module
from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.bounds.rounding import numerical_slack
from sklpos.certificates.search import programme
from sklpos.certificates.search.attack import attack
from sklpos.certificates.search.milp import IntegerMinimum, milp_minimum
from sklpos.certificates.search.programme import Programme

CUBE = Box(-np.ones(3), np.ones(3))


def badly_scaled(seed):
    """A net whose units, layers and inputs have sizes from 1e-6 to 1e6."""
    rng = np.random.default_rng(seed)
    n_features, width, depth = rng.choice([2, 6, 10]), rng.choice([3, 9]), 1 + seed % 3
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for n_inputs in (n_features, *[width] * (depth - 1)):
        layer = nn.Linear(n_inputs, width).double()
        sizes = torch.as_tensor(10.0 ** rng.uniform(-6, 6, size=(width, 1)))
        with torch.no_grad():
            layer.weight.normal_(generator=generator).mul_(sizes)
            layer.bias.normal_(generator=generator).mul_(10.0 ** rng.uniform(-3, 6))
        layers += [layer, nn.LeakyReLU(0.1) if seed % 2 else nn.ReLU()]
    head = nn.Linear(width, 1).double()
    with torch.no_grad():
        head.weight.normal_(generator=generator)
    centre = 10.0 ** rng.uniform(-6, 6) * rng.normal(size=n_features)
    radius = 10.0 ** rng.uniform(-6, 6) * rng.random(n_features)
    return nn.Sequential(*layers, head), centre - radius, centre + radius


def attained(network, region, seed):
    """The smallest output at corners, and after gradient descent from many starts."""
    low, high = region.low[0].numpy(), region.high[0].numpy()
    sides = np.random.default_rng(seed).integers(0, 2, size=(500, len(low)))
    found = attack(network, region, restarts=64, seed=seed)[:, 0]
    points = torch.cat([torch.as_tensor(np.where(sides, low, high)), found])
    values = network(points)
    return values.min().item(), (values.max() - values.min()).item()


def check(seeds):
    tight = []
    for seed in seeds:
        module, low, high = badly_scaled(seed)
        network, region = read_network(module), Box(low, high).region()
        hidden = crown_bounds(network, region).hidden
        slack = numerical_slack(network, region.low, region.high, hidden).item()
        found = milp_minimum(network, region, hidden, time_limit=1.0)
        smallest, spread = attained(network, region, seed)
        assert found.lower - slack <= smallest, seed
        if np.isfinite(found.lower) and found.minimiser is not None:
            value = network(torch.as_tensor(found.minimiser)).item()
            tight.append(value - found.lower <= 0.1 * spread + slack)
    # Not only sound: nearly all of the way to the minimum is proved as well.
    assert np.mean(tight) > 0.9


# In the unit of the network itself, bounds of these were false by 1 to 6 %, and more.
FALSE = (40, 113, 256, 304, 312, 623)


def test_no_bound_is_above_what_a_badly_scaled_net_attains():
    check((*range(12), *FALSE))


@pytest.mark.slow
def test_no_bound_is_above_what_a_thousand_badly_scaled_nets_attain():
    check(range(12, 1000))


def test_a_certificate_of_a_badly_scaled_net_is_right():
    for seed in FALSE:
        module, low, high = badly_scaled(seed)
        found = certify_module(module, Box(low, high), method="milp", time_limit=2)
        assert (found.proved_min_ <= found.attained_min_).all()


@pytest.mark.parametrize("status", [0, 4])
def test_a_linear_bound_holds_for_any_multipliers_of_the_solver(monkeypatch, status):
    rng = np.random.default_rng(0)
    matrix, x = rng.normal(size=(5, 4)), rng.uniform(-1, 1, size=4)
    ours = Programme()
    columns = ours.columns(-np.ones(4), np.ones(4))
    ours.rows(matrix[:3], columns, matrix[:3] @ x + 0.1, np.full(3, -np.inf))
    ours.rows(matrix[3:], columns, matrix[3:] @ x)
    exact = linprog(
        [1, 0, 0, 0],
        A_ub=matrix[:3],
        b_ub=matrix[:3] @ x + 0.1,
        A_eq=matrix[3:],
        b_eq=matrix[3:] @ x,
        bounds=(-1, 1),
    )
    assert ours.lowest(0, 1.0) == pytest.approx(exact.fun, abs=1e-9)

    def wrong(*args, **kwargs):
        sides = (SimpleNamespace(marginals=rng.normal(size=n)) for n in (3, 2))
        names = ("ineqlin", "eqlin")
        return OptimizeResult(
            status=status, fun=9.0, **dict(zip(names, sides, strict=True))
        )

    monkeypatch.setattr(programme, "linprog", wrong)
    for _ in range(50):
        assert ours.lowest(0, 1.0) <= exact.fun


def test_a_solver_that_contradicts_the_net_is_not_believed(monkeypatch):
    network = read_network(random_network((3, 8, 1), seed=0))
    region = CUBE.region()
    hidden = crown_bounds(network, region).hidden
    honest = milp_minimum(network, region, hidden)

    def wrong(*args, **kwargs):
        found = solve(*args, **kwargs)
        found.fun += 0.5
        found.mip_dual_bound = 0.5
        return found

    solve = programme.milp
    monkeypatch.setattr(programme, "milp", wrong)
    relaxed = milp_minimum(network, region, hidden).lower
    assert np.isfinite(relaxed)
    assert relaxed <= honest.lower


def test_a_bound_that_a_later_column_contradicts_is_taken_back(monkeypatch):
    """The point that is found for the upper bound lies below the proved lower one."""
    module = random_network((3, 8, 1), seed=0)
    lowest = certify_module(module, CUBE, tolerance=1e-6)

    def false(network, region, hidden, *, time_limit):
        values = iter(calls.pop(0))
        return IntegerMinimum(next(values), next(values), "the solver")

    point = lowest.counterexample_
    calls = [(lowest.attained_min_[0] + 1e-3, None), (-1e6, point)]
    monkeypatch.setattr("sklpos.certificates.methods.milp_minimum", false)
    monkeypatch.setattr("sklpos.certificates.methods._attack", lambda proof: None)
    bounds = {"lower_bound": -1e3, "upper_bound": 1e3, "tolerance": 1e-9}
    found = certify_module(module, CUBE, method="milp", **bounds)
    crown = certify_module(module, CUBE, method="crown", **bounds)
    assert found.attained_min_ == pytest.approx(lowest.attained_min_)
    assert found.proved_min_ == crown.proved_min_


@pytest.mark.parametrize("domain", [CUBE, Hull(np.eye(3))], ids=repr)
def test_a_value_that_was_seen_outweighs_the_solver(monkeypatch, domain):
    def false(network, region, hidden, *, time_limit):
        return IntegerMinimum(1e6, region.low[0].numpy(), "the solver")

    module = random_network((3, 8, 1), seed=0)
    honest = certify_module(module, domain, method="crown", lower_bound=-0.1)
    monkeypatch.setattr("sklpos.certificates.methods.milp_minimum", false)
    found = certify_module(
        module, domain, method="milp", lower_bound=-0.1, tolerance=1e-3
    )
    assert found.proved_min_ == honest.proved_min_
    assert "the solver" not in found.assumptions_
