"""Optimised slopes: between CROWN and the linear programme, without a trace."""

import numpy as np
import pytest
import torch
from networks import outputs, random_network
from oracles import triangle_bound

from sklpos.certificates import Ball, Box, certify_module
from sklpos.certificates.bounds.alpha_crown import (
    alpha_crown_bounds,
    ascend,
    raised_bounds,
)
from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import read_network


def bounds_of(module, region, steps=30):
    """By CROWN, with slopes of the last bounds optimised, and with those of all."""
    network = read_network(module)
    crown = crown_bounds(network, region)
    raised, tightened = (
        optimised(network, region, crown.hidden, steps=steps)
        for optimised in (raised_bounds, alpha_crown_bounds)
    )
    return crown.lower, raised, tightened


@pytest.mark.parametrize("widths", [(4, 16, 16, 1), (8, 64, 64, 1), (3, 8, 8, 8, 1)])
def test_the_linear_programme_is_approached_and_not_passed(widths):
    for seed in range(2):
        module = random_network(widths, seed=seed, gain=1.0)
        network = read_network(module)
        low, high = -0.5 * np.ones(widths[0]), 0.5 * np.ones(widths[0])
        region = Box(low, high).region()
        crown = crown_bounds(network, region)
        raised = raised_bounds(network, region, crown.hidden).item()
        programme = triangle_bound(network, low, high, crown.hidden)
        assert crown.lower.item() <= raised <= programme + 1e-7
        assert programme - raised <= 0.2 * (programme - crown.lower.item()) + 1e-7


def test_optimising_hidden_bounds_passes_the_programme_of_crown():
    module = random_network((8, 32, 32, 1), seed=0, gain=1.0)
    network = read_network(module)
    low, high = -np.ones(8), np.ones(8)
    region = Box(low, high).region()
    crown = crown_bounds(network, region)
    lower = alpha_crown_bounds(network, region, crown.hidden).item()
    assert lower > triangle_bound(network, low, high, crown.hidden)


def test_smooth_activations_gain():
    for name in ("tanh", "softplus", "gelu"):
        module = random_network((4, 16, 16, 1), name, seed=1)
        region = Box(-0.5 * np.ones(4), 0.5 * np.ones(4)).region()
        crown, raised, tightened = (b.item() for b in bounds_of(module, region))
        assert crown < raised < tightened


def test_parts_and_outputs_do_not_influence_each_other():
    module = random_network((3, 12, 12, 2), seed=0)
    region = Ball(np.random.default_rng(0).normal(size=(5, 3)), 0.4).region()
    together = bounds_of(module, region)[2]
    for part in range(5):
        alone = bounds_of(module, region.take(torch.tensor([part])))[2]
        torch.testing.assert_close(alone[0], together[part], rtol=0, atol=1e-9)
    network = read_network(module)
    hidden = crown_bounds(network, region).hidden
    first = raised_bounds(network.outputs([0]), region, hidden)
    both = raised_bounds(network, region, hidden)
    torch.testing.assert_close(first[:, 0], both[:, 0], rtol=0, atol=1e-9)


def test_more_steps_are_never_worse_and_leave_no_gradient():
    network = read_network(random_network((4, 16, 16, 1), seed=0))
    region = Box(-np.ones(4), np.ones(4)).region()
    hidden = crown_bounds(network, region).hidden
    rows = torch.ones((1, 1), dtype=torch.float64)
    with torch.no_grad():
        found = [
            ascend(network, len(network.layers), rows, region, hidden, steps=steps)
            for steps in (1, 3, 10, 30, 30)
        ]
    assert torch.equal(found[-2], found[-1])
    assert (torch.cat(found).diff(dim=0) >= 0).all()
    assert found[0] < found[-1]
    assert all(not b.requires_grad and b.dtype == torch.float64 for b in found)
    assert not any(end.requires_grad for pair in hidden.values() for end in pair)


def test_a_certificate_lies_between_those_of_crown_and_of_the_search():
    module = random_network((3, 16, 16, 2), seed=0, dtype=torch.float32)
    crown, alpha, search = (
        certify_module(
            module, Box(-np.ones(3), np.ones(3)), method=method, tolerance=0.1
        )
        for method in ("crown", "alpha_crown", "branch_and_bound")
    )
    assert (crown.proved_min_ < alpha.proved_min_).all()
    assert (alpha.proved_min_ <= search.attained_min_).all()
    assert alpha.method_ == "alpha_crown"


def test_a_verdict_that_crown_cannot_give():
    module = random_network((3, 16, 16, 1), seed=0)
    X = np.random.default_rng(0).normal(size=(30, 3))
    bound = np.quantile(outputs(module, X), 0.1)
    verified = [
        certify_module(module, Ball(X, 0.5), lower_bound=bound, method=method).rows_
        == "verified"
        for method in ("crown", "alpha_crown", "branch_and_bound")
    ]
    assert not (verified[0] & ~verified[1]).any()
    assert not (verified[1] & ~verified[2]).any()
    assert verified[0].sum() < verified[1].sum()
