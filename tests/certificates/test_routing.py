"""The method "auto" chooses: held to what it proves, beside the other methods."""

import numpy as np
import pytest
from networks import random_network

from sklpos.certificates import Ball, Box, Hull, certify_module, methods
from sklpos.certificates.bounds.alpha_crown import tightened
from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import read_network


def cube(n_features):
    return Box(-np.ones(n_features), np.ones(n_features))


def hull(n_features):
    return Hull(np.random.default_rng(0).normal(size=(60, n_features)))


def gap(module, domain, method="auto", seconds=1.0):
    """How far the proved bound is below the smallest value found."""
    found = certify_module(
        module, domain, method=method, tolerance=1e-3, time_limit=seconds
    )
    return found.attained_min_[0] - found.proved_min_[0]


def test_slopes_are_improved_before_a_search():
    """A bound that alpha-CROWN proves and CROWN does not needs no search."""
    module = random_network((10, 30, 30, 1), seed=0)
    crown, alpha = (
        certify_module(module, cube(10), lower_bound=-100, tolerance=1e-3, method=name)
        for name in ("crown", "alpha_crown")
    )
    assert crown.proved_min_[0] < alpha.proved_min_[0] - 1
    bound = alpha.proved_min_[0] - 1e-6
    found = certify_module(module, cube(10), lower_bound=bound, time_limit=60.0)
    assert found.status_ == "verified"
    assert found.n_boxes_ == crown.n_boxes_


def test_slopes_are_not_improved_after_the_deadline():
    network = read_network(random_network((10, 30, 30, 1), seed=0))
    region = cube(10).region()
    hidden = crown_bounds(network, region).hidden
    late = tightened(network, region, hidden, deadline=-np.inf)
    once = tightened(network, region, hidden, steps=1)
    best = tightened(network, region, hidden)
    last = max(hidden)
    assert (late[last][0] == once[last][0]).all()
    assert late[last][0].sum() < best[last][0].sum() - 1


@pytest.mark.parametrize(
    ("widths", "domain", "method"),
    [
        ((8, 64, 64, 1), cube, "branch_and_bound"),
        ((9, 24, 1), cube, "milp"),
        ((9, 40, 1), cube, "branch_and_bound"),
        ((20, 40, 1), cube, "relu_splits"),
        ((9, 24, 1), hull, "milp"),
        ((9, 40, 1), hull, "relu_splits"),
        ((20, 16, 1), hull, "relu_splits"),
    ],
)
def test_the_choice_depends_on_features_and_units(monkeypatch, widths, domain, method):
    for name in methods._SEARCHES:
        # Only the choice counts, so that no deadline has a say in it.
        monkeypatch.setitem(methods._SEARCHES, name, lambda proof, j, deadline: None)
    module = random_network(widths, seed=0)
    found = certify_module(module, domain(widths[0]), tolerance=1e-6, time_limit=60.0)
    assert found.method_ == method


@pytest.mark.slow
@pytest.mark.parametrize(
    ("widths", "domain", "rival"),
    [
        ((20, 16, 16, 1), hull, "branch_and_bound"),
        ((20, 16, 16, 1), hull, "milp"),
        ((24, 40, 1), cube, "branch_and_bound"),
        ((24, 40, 1), cube, "milp"),
        ((12, 20, 1), cube, "branch_and_bound"),
    ],
)
def test_the_choice_proves_more_than_its_rivals(widths, domain, rival):
    module = random_network(widths, seed=0)
    chosen = gap(module, domain(widths[0]))
    # Many times as much if there is time; twice if the machine is busy.
    assert chosen < gap(module, domain(widths[0]), rival) / 2


@pytest.mark.slow
def test_few_features_are_searched_by_splitting_inputs():
    module = random_network((5, 64, 1), seed=0)
    assert gap(module, cube(5), seconds=20.0) <= 1.1e-3
    assert gap(module, cube(5), "relu_splits") > 1e-2


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_round_balls_of_many_features_are_searched(activation):
    """Neither splits of ReLUs nor integer programmes take them for granted."""
    module = random_network((10, 12, 1), activation, seed=0)
    ball = Ball(np.zeros((1, 10)), 0.5, norm="l2")
    found = certify_module(module, ball, tolerance=1e-3, time_limit=0.5)
    assert found.proved_min_[0] <= found.attained_min_[0]


@pytest.mark.slow
def test_many_balls_leave_time_for_the_search():
    module = random_network((3, 60, 60, 1), seed=0)
    X = np.random.default_rng(0).normal(size=(400, 3))
    alone, both = (
        certify_module(
            module, Ball(X, 0.2), tolerance=1e-3, time_limit=2.0, method=method
        )
        for method in ("alpha_crown", "auto")
    )
    # Each ball is bounded twice, by intervals and CROWN, before anything is searched.
    assert alone.n_boxes_ == 2 * len(X)
    assert both.n_boxes_ > 4 * len(X)
