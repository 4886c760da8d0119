"""Splitting of ReLUs: attacked, and compared with exact minima."""

import time

import numpy as np
import pytest
import torch
from marks import mostly_slow
from networks import descend, outputs, random_network
from torch import nn

from sklpos.certificates import Ball, Box, Hull, certify_module
from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.search.attack import attack
from sklpos.certificates.search.branch_and_bound import Stops, branch_and_bound
from sklpos.certificates.search.milp import milp_minimum
from sklpos.certificates.search.relu_splits import relu_splits
from sklpos.certificates.search.split_duals import ascended
from sklpos.certificates.search.subproblems import Pool, Units


def cube(n_features, size=1.0):
    return Box(-size * np.ones(n_features), size * np.ones(n_features))


def normal_rows(count, n_features, seed=0):
    return np.random.default_rng(seed).normal(size=(count, n_features))


def minimum(module, domain, *, tolerance=1e-4, seconds=10.0, search=relu_splits):
    """The search for the first output, from the best point of an attack."""
    network = read_network(module).outputs([0])
    region = domain.region()
    start = attack(network, region)[:, 0]
    deadline = time.monotonic() + seconds
    return search(network, region, Stops(tolerance), start=start, deadline=deadline)


def units_of(module, domain):
    network = read_network(module)
    region = domain.region()
    return Units(network, region, crown_bounds(network, region).hidden)


@pytest.mark.parametrize(
    "activation", mostly_slow(["relu", "leaky_relu"], "leaky_relu")
)
@pytest.mark.parametrize("widths", [(3, 8, 1), (4, 6, 6, 1), (2, 4, 4, 4, 1)])
def test_the_minimum_is_that_of_integer_programming(widths, activation):
    for seed, hull in enumerate([False, True, True]):
        module = random_network(widths, activation, seed=seed)
        domain = Hull(normal_rows(12, widths[0])) if hull else cube(widths[0])
        found = minimum(module, domain)
        network = read_network(module)
        region = domain.region()
        hidden = crown_bounds(network, region).hidden
        integer = milp_minimum(network, region, hidden)
        exact = outputs(module, integer.minimiser[None])[0, 0]
        assert found.lower.item() == pytest.approx(exact, abs=1e-3)
        assert found.lower.item() <= exact + 1e-6


def test_parts_are_searched_together():
    module = random_network((3, 8, 1), seed=0)
    X = normal_rows(7, 3)
    domain = Ball(X, 0.5)
    together = minimum(module, domain, tolerance=1e-3)
    inputs = minimum(module, domain, tolerance=1e-3, search=branch_and_bound)
    assert (together.upper - together.lower <= 1e-3 + 1e-9).all()
    torch.testing.assert_close(together.upper, inputs.upper, rtol=0, atol=2e-3)
    distance = (together.minimiser - torch.as_tensor(X)).abs().amax(1)
    assert (distance <= 0.5 + 1e-9).all()


def test_ellipsoids_are_bounded_better_than_by_crown():
    module = random_network((3, 8, 1), seed=0)
    domain = Ball(normal_rows(7, 3), 0.5, "l2")
    found = minimum(module, domain, tolerance=1e-3, seconds=0.5)
    exact = minimum(module, domain, tolerance=1e-3, search=branch_and_bound)
    crown = crown_bounds(read_network(module), domain.region()).lower[:, 0]
    assert (found.lower <= exact.upper + 1e-9).all()
    assert (exact.upper - found.lower <= 0.3 * (exact.upper - crown) + 2e-3).all()


def domains(d, rng):
    """Ordinary and degenerate domains, with points inside of them."""
    low, high = -np.ones(d), np.ones(d)
    rows = rng.normal(size=(15, d))
    line = rows[0] + np.linspace(0, 1, 9)[:, None] * rows[1]
    for domain, vertices in (
        (Box(low, high), None),
        (Box(low, np.where(np.arange(d) == 0, high, low)), None),
        (Box(low, low), None),
        (Box(1e6 + low, 1e6 + high), None),
        (Hull(rows), rows),
        (Hull(np.vstack([rows, rows])), rows),
        (Hull(line), line),
        (Hull(rows[:1]), rows[:1]),
    ):
        if vertices is None:
            inside = rng.uniform(domain.low, domain.high, size=(200, d))
        else:
            weights = rng.dirichlet(0.2 * np.ones(len(vertices)), size=200)
            inside = np.vstack([weights @ vertices, vertices])
        yield domain, inside


@pytest.mark.parametrize("scale", mostly_slow([1e-6, 1.0, 1e6], 1e6))
@pytest.mark.parametrize(
    "dtype", mostly_slow([torch.float32, torch.float64], torch.float64)
)
def test_nothing_is_found_below_what_is_proved(scale, dtype):
    rng = np.random.default_rng(0)
    module = random_network((4, 10, 10, 2), "leaky_relu", seed=1, dtype=dtype)
    with torch.no_grad():
        # Units of very different sizes, which the next layer undoes.
        sizes = torch.logspace(-4, 4, 10, dtype=dtype)
        module[0].weight.mul_(sizes[:, None])
        module[0].bias.mul_(sizes)
        module[2].weight.div_(sizes)
        module[4].weight.mul_(scale)
        module[4].bias.mul_(scale)
    for domain, inside in domains(4, rng):
        found = certify_module(
            module,
            domain,
            lower_bound=-1e9 * scale,
            upper_bound=1e9 * scale,
            scale=scale,
            method="relu_splits",
            tolerance=1e-3,
            time_limit=0.2,
        )
        values = outputs(module, inside)
        assert (values >= found.proved_min_).all()
        assert (values <= found.proved_max_).all()
        assert (found.proved_min_ <= found.attained_min_).all()
        assert (found.proved_max_ >= found.attained_max_).all()


def test_batch_norm_and_descent_do_not_break_it():
    for seed in range(2):
        module = random_network((5, 12, 12, 1), seed=seed)
        norm = nn.BatchNorm1d(12, dtype=torch.float64).eval()
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.1, 3)
        module.insert(3, norm)
        box = cube(5)
        found = minimum(module, box, seconds=0.5)
        start = np.random.default_rng(seed).uniform(-1, 1, size=(200, 5))
        reached = descend(module, start, box.low, box.high)
        assert outputs(module, reached).min() >= found.lower.item() - 1e-9


def test_multipliers_may_be_anything_but_negative():
    """Bounds of subproblems hold for the points that belong to them."""
    module = random_network((3, 8, 8, 1), seed=2)
    domain = Hull(normal_rows(12, 3))
    units = units_of(module, domain)
    network = units.network
    rng = np.random.default_rng(0)
    X = torch.as_tensor(rng.dirichlet(0.3 * np.ones(12), size=4000) @ domain.points)
    first = network.layers[0](X)
    inputs = torch.cat([first, network.layers[2](network.layers[1](first))], dim=1)
    values = network(X)[:, 0]
    compared = 0
    for bounds in bounded_by_chance(units, rng, rounds=6):
        for bound, sign in bounds:
            inside = ((inputs * sign) >= 0).all(1)
            compared += inside.any().item()
            assert (values[inside] >= bound - 1e-9).all()
    assert compared > 20


def bounded_by_chance(units, rng, rounds):
    """Bounds and signs of subproblems, split by chance, with ascended multipliers."""
    some = units.whole()
    enough = torch.tensor([torch.inf], dtype=torch.float64)
    for _ in range(rounds):
        some, _ = ascended(units, some, enough, steps=30)
        yield zip(some.bound, some.sign, strict=True)
        some = some.take(some.unit >= 0)
        crossing = ((some.low < 0) & (some.high > 0)).double()
        unit = torch.multinomial(crossing, 1, generator=torch.Generator())[:, 0]
        some.unit.copy_(unit)
        some = units.retightened(some.children())
        assert (some.multiplier >= 0).all()


def test_children_cover_their_parent():
    """Every input keeps a subproblem that it belongs to, however often it is split."""
    module = random_network((3, 8, 8, 1), seed=3)
    units = units_of(module, cube(3))
    X = torch.rand((500, 3), generator=torch.Generator().manual_seed(0)).double()
    X = 2 * X - 1
    network = units.network
    first = network.layers[0](X)
    inputs = torch.cat([first, network.layers[2](network.layers[1](first))], dim=1)
    some = units.whole()
    for _ in range(5):
        crossing = (some.low < 0) & (some.high > 0)
        some.unit.copy_(crossing.double().argmax(1))
        some = units.retightened(some.take(crossing.any(1)).children())
        within = (some.low[:, None] <= inputs + 1e-9) & (
            inputs - 1e-9 <= some.high[:, None]
        )
        assert within.all(2).any(0).all()


def test_empty_subproblems_are_dropped():
    # Both units have the same input, so one cannot be on and the other off.
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU())
    module = module.append(nn.Linear(1, 1)).double().eval()
    with torch.no_grad():
        for layer in module[::2]:
            layer.weight.fill_(1.0)
            layer.bias.fill_(0.0)
        module[2].bias.fill_(-0.5)
    units = units_of(module, cube(1))
    whole = units.whole()
    whole.unit.zero_()
    halves = units.retightened(whole.children())
    assert len(halves) == 2
    # Below the first kink, the second unit is off for good.
    torch.testing.assert_close(halves.high[1, 1].item(), -0.5)
    halves.unit.fill_(1)
    assert len(units.retightened(halves.take(torch.tensor([0])).children())) == 2


def test_what_is_dropped_counts():
    """A bound that is high enough is reported, and not the next higher one."""
    module = random_network((3, 16, 16, 1), seed=0)
    network = read_network(module)
    region = cube(3).region()
    start = attack(network, region)[:, 0]
    lowest = network(start).item()
    for share in (0.5, 0.1, 0.01):
        target = lowest - share * abs(lowest)
        found = relu_splits(network, region, Stops(1e-6, target), start=start)
        assert target <= found.lower.item() <= found.upper.item() <= lowest
    loose = relu_splits(network, region, Stops(1.0), start=start)
    assert loose.upper.item() - 1.0 <= loose.lower.item() <= lowest
    assert loose.lower.item() < lowest


def test_a_part_without_hope_is_left():
    module = random_network((4, 32, 32, 1), seed=0)
    network = read_network(module)
    region = cube(4).region()
    start = attack(network, region)[:, 0]
    stops = Stops(1e-6, hopeless=network(start).item() + 1)
    found = relu_splits(network, region, stops, start=start)
    assert found.n_boxes == 1
    assert found.lower.item() <= found.upper.item()


def test_the_pool_gives_back_what_was_put_in():
    whole = units_of(random_network((2, 4, 1)), cube(2)).whole()
    pool = Pool(whole.take(torch.arange(0)))
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(50):
        bounds = torch.as_tensor(rng.normal(size=int(rng.integers(0, 9))))
        some = whole.take(torch.zeros(len(bounds), dtype=torch.long))
        some.bound.copy_(bounds)
        pool.add(some)
        expected = sorted(expected + bounds.tolist())
        count = int(rng.integers(0, 6))
        assert sorted(pool.take_worst(count).bound.tolist()) == expected[:count]
        expected = expected[count:]
        assert len(pool) == len(expected)
        lowest = pool.lowest(torch.tensor([torch.inf], dtype=torch.float64))
        assert lowest.item() == (expected[0] if expected else np.inf)


def test_nets_that_bounds_cannot_close_are_closed():
    module = random_network((20, 14, 1), seed=0, gain=1.0)
    box = cube(20)
    least = minimum(module, box, tolerance=1e-3).lower.item()
    statuses = {
        method: certify_module(
            module, box, lower_bound=least - 0.05, method=method
        ).status_
        for method in ("crown", "alpha_crown", "relu_splits")
    }
    assert statuses == {
        "crown": "unknown",
        "alpha_crown": "unknown",
        "relu_splits": "verified",
    }


@pytest.mark.slow
def test_many_features_are_closer_than_by_splitting_inputs():
    module = random_network((30, 32, 1), seed=0, gain=1.0)
    for domain in (cube(30), Hull(normal_rows(60, 30))):
        splits, inputs = (
            minimum(module, domain, seconds=1.0, search=search)
            for search in (relu_splits, branch_and_bound)
        )
        gaps = [(found.upper - found.lower).item() for found in (splits, inputs)]
        assert gaps[0] < gaps[1] / 2


def test_the_deadline_is_kept():
    module = random_network((20, 64, 64, 1), seed=0)
    rows = normal_rows(300, 20)
    for domain in (cube(20), Hull(rows), Ball(rows, 1.0)):
        network, region = read_network(module), domain.region()
        start = region.low if region.body is None else region.body.points[:1]
        begun = time.monotonic()
        found = relu_splits(
            network, region, Stops(1e-6), start=start, deadline=begun + 0.3
        )
        assert time.monotonic() - begun < 3.0
        assert (found.lower <= found.upper).all()
        assert torch.isfinite(found.lower).all()


def test_linear_networks_have_nothing_to_split():
    module = nn.Sequential(nn.Linear(3, 1)).double().eval()
    found = minimum(module, cube(3))
    weight, bias = (p.detach().numpy() for p in module[0].parameters())
    assert found.lower.item() == pytest.approx(bias[0] - np.abs(weight).sum())


def test_other_activations_are_refused():
    for activation in ("tanh", "hardtanh", "absolute", "steep_leaky_relu"):
        module = random_network((2, 4, 1), activation)
        with pytest.raises(ValueError, match="method='relu_splits' takes networks of"):
            certify_module(
                module, cube(2), lower_bound=-1, method="relu_splits", tolerance=0.0
            )
