"""Margins against rounding: compared with sums in which every operation errs."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from networks import outputs, random_network
from oracles import rounded
from torch import nn

from sklpos.certificates import All, Ball, Box, certify_module
from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import fold_inputs, read_network
from sklpos.certificates.bounds.rounding import (
    bound_rounding,
    lowest_everywhere,
    rounding_error,
)
from sklpos.nets.input_map import InputMap

UNIT = 2.0**-24
RNG = np.random.default_rng(0)


def linear(weight, bias=None):
    weight = torch.as_tensor(weight)
    layer = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.as_tensor(bias))
    return layer


def norm_whose_terms_cancel():
    layer = nn.BatchNorm1d(2)
    with torch.no_grad():
        layer.running_mean.fill_(1000.0)
        layer.bias.fill_(1000.0)
    return layer


ONE = linear([[1.0]], [0.0])
CHAINS = {
    # One large term, of which each addition may lose a little.
    "long sum": ([linear(1e-3 * np.ones((1, 30)) + np.eye(1, 30))], 30),
    "cancellation": (
        [linear([[1e4, -1e4], [1.0, 1.0]], [-0.1, 0.3]), linear([[1.0, 1.0]])],
        2,
    ),
    "cancellation and a steep slope": (
        [linear([[1e4, -1e4]], [-0.1]), nn.LeakyReLU(5.0), linear([[1.0]])],
        2,
    ),
    "tanh": ([linear([[3.0]]), nn.Tanh(), linear([[1.0]])], 1),
    "slopes one after the other": (
        [linear([[-1.0]]), *[nn.LeakyReLU(0.99) for _ in range(30)], ONE],
        1,
    ),
    "batch norm": (
        [linear(np.eye(2)), norm_whose_terms_cancel(), linear([[1.0, 1.0]])],
        2,
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_margin_covers_an_error_of_every_operation(name):
    layers, n_features = CHAINS[name]
    network = read_network(nn.Sequential(*layers).eval())
    x = np.ones(n_features)
    low, high = rounded(layers, x, UNIT)
    point = torch.as_tensor(x)[None]
    exact = network(point)[0].numpy()
    margin = rounding_error(network, point, point)[0].numpy()
    assert (exact - low <= margin * (1 + 1e-6)).all()
    assert (high - exact <= margin * (1 + 1e-6)).all()
    # It is not much larger than it must be.
    assert (margin <= 10 * (high - low)).all()


STEPS = {
    "scalers": [(np.eye(2), np.ones(2))] * 6,
    "scalers that cancel": [(np.eye(2), [1e4, 1e4]), (np.eye(2), [-1e4, -1e4])],
    "a long projection": [(1e-3 * np.ones((2, 40)) + np.eye(2, 40), [0.5, 0.5])],
    "projections that cancel": [
        (1e4 * np.array([[1.0, 1.0], [1.0, 1.0]]), [0.0, 0.0]),
        (np.array([[1.0, -1.0], [1.0, 1.0]]), [0.0, 0.0]),
    ],
    "an offset that cancels later": [
        (np.eye(2), [1e4, 1e4]),
        (np.array([[1.0, -1.0], [2.0, -2.0]]), [0.0, 0.0]),
    ],
}


def folded_steps(module, steps):
    maps = []
    for matrix, offset in steps:
        diagonal = np.array_equal(matrix, np.diag(np.diag(matrix)))
        first = np.diag(matrix) if diagonal else matrix
        maps.append((InputMap.scaling if diagonal else InputMap.linear)(first, offset))
    chain, *rest = maps
    for each in rest:
        chain = chain.then(each)
    return fold_inputs(read_network(module), chain)


@pytest.mark.parametrize("name", STEPS)
def test_the_margin_covers_an_error_of_every_operation_of_the_steps(name):
    steps = STEPS[name]
    x = RNG.uniform(1, 2, size=steps[0][0].shape[1])
    point = torch.as_tensor(x)[None]
    for head in (linear([[1.0, 1.0]], [0.3]), linear([[1.0, -1.0]], [0.3])):
        network = folded_steps(head, steps)
        value = x
        for matrix, offset in steps:
            value = matrix @ value + offset
        exact = outputs(head.double(), value[None])[0]
        np.testing.assert_allclose(network(point)[0], exact, atol=1e-11)
        # The steps work in the dtype of the net, to which their values are rounded.
        low, high = rounded([*steps, (np.eye(2), None), head], x, UNIT)
        margin = rounding_error(network, point, point, dtype=torch.float32)[0].numpy()
        assert (exact - low <= margin * (1 + 1e-6) + 1e-11).all()
        assert (high - exact <= margin * (1 + 1e-6) + 1e-11).all()


@pytest.mark.parametrize("factor", [3.0, -3.0])
def test_ranges_before_a_map_are_rounded_outwards(factor):
    # The offset is large, so that little of the range is left after it.
    scale = InputMap.scaling([factor], [1e6])
    for x in RNG.uniform(-1, 1, size=(200, 2)):
        low, high = np.sort(x)
        after = np.sort(factor * np.array([low, high]) + 1e6)
        before = scale.range_before(after[:1], after[1:])
        assert before[0] <= low <= high <= before[1]


def test_an_offset_takes_room_from_the_largest_input():
    scale = InputMap.scaling([2.0], [1e30])
    assert 0 < scale.largest_before(3e30) < 1e30
    assert scale.largest_before(1e30) == 0


def test_weights_that_cancel_exactly_still_round():
    # 1/3 + 2/3 is 1, but x/3 + 2x/3 is not x for every x in float32.
    steps = [
        (np.array([[1 / 3], [2 / 3], [-1.0]]), np.zeros(3)),
        (np.ones((1, 3)), [0]),
    ]
    head = linear([[1.0]], [1.0])
    network = folded_steps(head, steps)
    assert (network.layers[0].weight == 0).all()
    point = torch.ones((1, 1), dtype=torch.float64)
    assert (rounding_error(network, point, point) > UNIT).all()
    assert (lowest_everywhere(network) == -torch.inf).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_margin_covers_the_rounding_of_the_bounds_themselves(norm):
    """Over single points, the bounds are sums that can be computed exactly."""
    below = above = 0
    for seed in range(20):
        module = random_network((3, 6, 6, 1), seed=seed)
        x = np.random.default_rng(seed).normal(size=3)
        network, region = read_network(module), Ball(x[None], 0.0, norm).region()
        found = crown_bounds(network, region)
        own = bound_rounding(network, region.low, region.high, found.hidden).item()
        exact = exactly(module, x)
        below += Fraction(found.lower.item()) > exact
        above += Fraction(found.upper.item()) < exact
        assert Fraction(found.lower.item()) - Fraction(own) <= exact
        assert Fraction(found.upper.item()) + Fraction(own) >= exact
    # So the margin is needed.
    assert below + above > 5


def exactly(module, x):
    values = [Fraction(v) for v in x.tolist()]
    for layer in module:
        if isinstance(layer, nn.Linear):
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            values = [
                sum(map(Fraction.__mul__, map(Fraction, row), values), Fraction(bias))
                for row, bias in rows
            ]
        else:
            values = [max(v, Fraction(0)) for v in values]
    return values[0]


def test_the_threshold_of_softplus_is_part_of_the_margin():
    layers = linear([[1.0]], [0.0]), nn.Softplus(threshold=2.0), linear([[1.0], [-1.0]])
    module = nn.Sequential(*layers).double()
    points = np.linspace(1, 3, 2001)[:, None]
    values = outputs(module, points)
    for method in ("interval", "crown", "alpha_crown", "branch_and_bound"):
        for low, high in ((1, 3), (2.0005, 2.001), (2, 2.5)):
            found = certify_module(
                module,
                Box([low], [high]),
                lower_bound=-1e3,
                method=method,
                tolerance=1e-3,
                time_limit=0.2,
            )
            inside = values[(points[:, 0] >= low) & (points[:, 0] <= high)]
            assert (inside >= found.proved_min_).all()
            assert (inside <= found.proved_max_).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_bounded_features_are_rounded_everywhere(dtype):
    for seed in range(30):
        head = nn.Linear(40, 1, dtype=dtype)
        nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(seed))
        module = nn.Sequential(nn.Linear(40, 40, dtype=dtype), nn.Hardtanh(), head)
        with torch.no_grad():
            module[0].weight.copy_(torch.eye(40))
            module[0].bias.zero_()
        found = certify_module(module, All(40), lower_bound=-1e3)
        assert found.proved_min_ > -1e3
        # All features have the sign that lowers the sum.
        lowest = outputs(module, -1e3 * head.weight.detach().double().sign().numpy())
        assert (lowest >= found.proved_min_).all()
        assert (lowest <= found.proved_min_ + 1e-3).all()
