"""Convex hulls of rows: what they keep, and which boxes miss them."""

import numpy as np
import pytest
import torch
from networks import random_network

from sklpos.certificates import Ball, Hull
from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.domains.regions import Region
from sklpos.certificates.search.branch_and_bound import Stops, branch_and_bound

KINDS = ["cloud", "lattice", "flat", "few"]


def hull_rows(kind, d):
    rng = np.random.default_rng(d)
    points = rng.normal(size=(300, d))
    if kind == "lattice":  # many rows in a plane, and on an edge
        points = np.round(points)
    elif kind == "flat":
        points[:, -1] = points[:, 0]
    elif kind == "few":
        points = points[: d + 1]
    return 1e3 + points * 10.0 ** np.arange(d)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hull_needs_its_surface_only(kind):
    for d in 1, 2, 3, 4:
        points = hull_rows(kind, d)
        body = Hull(points).region().body
        directions = torch.as_tensor(np.random.default_rng(0).normal(size=(500, d)))
        expected = (torch.as_tensor(points) @ directions.T).amin(0)
        found = body.lowest(directions[None])[0][0]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        if kind == "cloud" and 1 < d < 4:
            assert len(body.points) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_no_box_that_meets_the_hull_is_missed(kind):
    for d in 1, 2, 3, 4, 7:
        points = hull_rows(kind, d)
        rng = np.random.default_rng(1)
        inside = rng.dirichlet(np.full(len(points), 0.02), size=500) @ points
        inside = torch.as_tensor(np.vstack([points, inside]))
        body = Hull(points).region().body
        size = torch.as_tensor(10.0 ** rng.uniform(-12, 0, size=inside.shape))
        low, high = inside - size, inside + size
        assert not body.misses(low, high).any()
        assert not body.misses(inside, high).any()
        far = inside + 20 * 10.0 ** torch.arange(d)
        assert kind == "flat" or body.misses(far, far + size).all()


def test_points_just_outside_a_hull_are_seen():
    for d in 2, 3:
        rng = np.random.default_rng(0)
        points = rng.normal(size=(200, d))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        body = Hull(points).region().body
        outside = torch.as_tensor(points * (1 + 1e-6))
        assert body.misses(outside, outside).all()


def test_far_hulls_keep_their_corners():
    for d in 2, 3, 4:
        rng = np.random.default_rng(d)
        for _ in range(20):
            points = 1e9 + rng.normal(size=(d + 4, d))
            body = Hull(points).region().body
            directions = rng.normal(size=(200, d))
            kept = (body.points.numpy() - 1e9) @ directions.T
            np.testing.assert_array_equal(
                kept.min(axis=0).round(6),
                ((points - 1e9) @ directions.T).min(0).round(6),
            )
            low = torch.as_tensor(points)
            assert not body.misses(low, low).any()


@pytest.mark.parametrize("kind", ["hull", "l2"])
def test_the_parts_of_far_bodies_are_bounded_as_those_of_near_ones(kind):
    # Multiples of 2**-20, which keep all their digits when 2**30 is added.
    points = np.round(np.random.default_rng(0).normal(size=(40, 4)) * 2**20) / 2**20
    far = np.array([0, 2.0**30, 2.0**30, 2.0**30])
    slope = torch.as_tensor([[[1.0, 0.0, 1e-6, 0.0]]]).double()
    found, unrefined = [], []
    for shift in (0, far):
        rows = points + shift
        domain = Ball(rows[:1], 2.0**-10, "l2") if kind == "l2" else Hull(rows)
        region = domain.region()
        for feature in (1, 2, 3, 1, 2, 0):
            region = region.halves(torch.full((len(region),), feature))
        moved = slope[0] @ torch.as_tensor(np.zeros(4) + shift)
        found.append(region.lowest(slope, refine=True) - moved)
        unrefined.append(region.lowest(slope) - moved)
    assert (found[0] - unrefined[0] > 1e-6).any()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["hull", "l2"])
def test_points_of_a_part_lie_above_its_bounds(kind):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 3))
    domain = Hull(rows) if kind == "hull" else Ball(rows[:1], [1.0, 0.5, 2.0], "l2")
    region = domain.region()
    points = region.sample(20_000, torch.Generator().manual_seed(0))[:, 0]
    for feature in (0, 1, 2) * 3:
        region = region.halves(torch.full((len(region),), feature))
    slopes = torch.as_tensor(rng.normal(size=(1, 20, 3)))
    lowest = region.lowest(slopes, refine=True)
    assert (lowest > region.lowest(slopes) + 1e-3).any()
    values = points @ slopes[0].T
    misses = region.misses()
    assert misses.any()
    for k in range(len(region)):
        inside = ((points >= region.low[k]) & (points <= region.high[k])).all(1)
        assert (values[inside] >= lowest[k] - 1e-9).all()
        assert not (misses[k] and inside.any())


def test_a_constant_feature_does_not_hide_that_a_box_misses_the_hull():
    points = np.column_stack([hull_rows("cloud", 2), np.full(300, 0.1)])
    body = Hull(points).region().body
    far = torch.as_tensor(points + np.array([20.0, 200.0, 0.0]))
    assert body.misses(far, far).all()


def test_a_search_may_meet_boxes_that_all_miss_the_hull():
    body = Hull([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).region().body
    outside = torch.full((1, 2), 2.0, dtype=torch.float64)
    found = branch_and_bound(
        read_network(random_network([2, 8, 1])),
        Region(outside, outside + 1, body),
        Stops(1e-6),
        start=body.points[:1],
    )
    assert found.n_boxes == 0
