"""Bounds are attacked: nothing may be found outside what is proved."""

import numpy as np
import pytest
import torch
from marks import mostly_slow
from networks import ACTIVATIONS, descend, grid, outputs, random_network
from oracles import crown_by_loops, triangle_bound
from torch import nn

from sklpos.certificates import Ball, Box, Hull
from sklpos.certificates.bounds.alpha_crown import alpha_crown_bounds, raised_bounds
from sklpos.certificates.bounds.crown import crown_bounds, interval_bounds
from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.domains.regions import Region

ROUNDING = 1e-9


def bounds_of(network, region, steps=6):
    """Lower bounds, by every method, and upper bounds, by those that have them."""
    interval = interval_bounds(network, region.low, region.high)
    crown = crown_bounds(network, region)
    raised, tightened = (
        optimised(network, region, crown.hidden, steps=steps)
        for optimised in (raised_bounds, alpha_crown_bounds)
    )
    return (interval[0], crown.lower, raised, tightened), (interval[1], crown.upper)


def assert_nothing_is_outside(tried, lowers, uppers):
    for lower in lowers:
        assert (tried.min(axis=0) >= lower.numpy() - ROUNDING).all()
    for upper in uppers:
        assert (tried.max(axis=0) <= upper.numpy() + ROUNDING).all()


@pytest.mark.parametrize(
    "activation", mostly_slow(ACTIVATIONS, "relu", "leaky_relu", "tanh", "gelu", "silu")
)
def test_nothing_is_found_outside_in_boxes(activation):
    for seed, widths in enumerate([(3, 8, 2), (2, 8, 8, 2), (2, 6, 6, 6, 2)] * 2):
        module = random_network(widths, activation, seed=seed)
        rng = np.random.default_rng(seed)
        low = rng.normal(size=(8, widths[0]))
        high = low + (0.05 if seed < 3 else 1.0) * rng.exponential(size=low.shape)
        region = Region(torch.tensor(low), torch.tensor(high))
        points = region.sample(300, torch.Generator().manual_seed(seed)).numpy()
        starts, *box = (
            np.resize(part, (30 * len(low), widths[0]))
            for part in (points[:30], low, high)
        )
        ends = descend(module, starts, *box, steps=20).reshape(30, *low.shape)
        tried = outputs(module, np.vstack([points, ends]))
        assert_nothing_is_outside(tried, *bounds_of(read_network(module), region))


@pytest.mark.parametrize("kind", ["linf", "l2", "hull"])
def test_nothing_is_found_outside_in_bodies(kind):
    rows = np.random.default_rng(0).normal(size=(12, 3))
    domain = Hull(rows) if kind == "hull" else Ball(rows, [0.2, 0.0, 0.6], kind)
    region = domain.region()
    points = region.sample(2000, torch.Generator().manual_seed(0)).numpy()
    for name in ("relu", "absolute", "tanh", "silu"):
        module = random_network((3, 12, 12, 2), name, seed=2)
        lowers, uppers = bounds_of(read_network(module), region, steps=10)
        assert_nothing_is_outside(outputs(module, points), lowers, uppers)
        _, crown, *optimised = lowers
        assert all((lower > crown).any() for lower in optimised)


def test_ellipsoids_give_higher_bounds_than_boxes():
    network = read_network(random_network((4, 16, 1), seed=1))
    lower = [
        crown_bounds(network, Ball(np.zeros((1, 4)), 1.0, norm=norm).region()).lower
        for norm in ("linf", "l2")
    ]
    assert lower[1].item() > lower[0].item()


def test_hulls_give_higher_bounds_than_boxes():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 1)) * np.ones(4) + 0.1 * rng.normal(size=(40, 4))
    module = random_network((4, 16, 16, 1), seed=2)
    mixtures = rng.dirichlet(0.1 * np.ones(40), size=5000) @ rows
    hull, box = (
        crown_bounds(read_network(module), domain.region()).lower.item()
        for domain in (Hull(rows), Box(rows.min(0), rows.max(0)))
    )
    assert outputs(module, np.vstack([rows, mixtures])).min() >= hull - ROUNDING
    assert hull > box + 0.1


def test_affine_networks_are_bounded_exactly():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().eval()
    corners = outputs(module, grid([-1] * 3, [1] * 3, 2))
    region = Box([-1] * 3, [1] * 3).region()
    (_, *lowers), (_, upper) = bounds_of(read_network(module), region)
    for lower in lowers:
        np.testing.assert_allclose(lower[0], corners.min(0))
    np.testing.assert_allclose(upper[0], corners.max(0))


def test_crown_equals_a_computation_by_hand():
    # y = relu(x) - relu(x) / 2 as two units, x in [-1, 3]: lines x and 3 (x + 1) / 4,
    # so x - 3 (x + 1) / 8 <= y <= 3 (x + 1) / 4 - x / 2; intervals give [-1.5, 3].
    module = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double().eval()
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        module[2].weight.copy_(torch.tensor([[1.0, -0.5]]))
        module[0].bias.zero_()
        module[2].bias.zero_()
    found = crown_bounds(read_network(module), Box([-1.0], [3.0]).region())
    assert found.lower.item() == pytest.approx(-1.0)
    assert found.upper.item() == pytest.approx(1.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [0.1, 1.0])
def test_crown_equals_loops_written_from_the_paper(seed, size):
    module = random_network((8, 64, 64, 1), seed=seed, gain=1.0)
    linear = [layer for layer in module if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().numpy() for layer in linear]
    biases = [layer.bias.detach().numpy() for layer in linear]
    low, high = -size * np.ones(8), size * np.ones(8)
    found = crown_bounds(read_network(module), Box(low, high).region()).lower.item()
    expected = crown_by_loops(weights, biases, low, high)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_crown_is_just_below_the_linear_programme(seed):
    module = random_network((8, 64, 64, 1), seed=seed, gain=1.0)
    network = read_network(module)
    low, high = -0.2 * np.ones(8), 0.2 * np.ones(8)
    box = Box(low, high).region()
    found = crown_bounds(network, box)
    interval = interval_bounds(network, box.low, box.high)[0]
    programme = triangle_bound(network, low, high, found.hidden)
    smallest = outputs(module, grid(low, high, 2)).min()
    assert interval.item() < found.lower.item() <= programme + 1e-7 <= smallest
    assert programme - found.lower.item() < 0.5 * (smallest - interval.item())
