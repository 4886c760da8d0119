"""Bounds are attacked: nothing may be found below what is proved."""

import numpy as np
import pytest
import torch
from networks import ACTIVATIONS, grid, outputs, random_network
from scipy.optimize import linprog
from torch import nn

from sklpos.certificates.bounds import crown
from sklpos.certificates.bounds.activations import (
    find_relaxation,
    register_relaxation,
    unregister_relaxation,
)
from sklpos.certificates.bounds.crown import crown_bounds, interval_bounds
from sklpos.certificates.bounds.network import Affine, read_network
from sklpos.certificates.bounds.rounding import numerical_slack
from sklpos.certificates.domains.shapes import Ball, Box, Hull
from sklpos.nets.modules import MLP

ROUNDING = 1e-9


@pytest.fixture(params=ACTIVATIONS)
def activation(request):
    return request.param


def intervals(seed, count=2000):
    rng = np.random.default_rng(seed)
    center = rng.normal(size=count) * rng.choice([0.1, 1, 5, 30], size=count)
    radius = rng.exponential(size=count) * rng.choice([1e-9, 1e-3, 0.3, 3, 40], count)
    return torch.tensor(center - radius), torch.tensor(center + radius)


def test_lines_enclose_the_activation(activation):
    relaxation = find_relaxation(ACTIVATIONS[activation]())
    low, high = intervals(0)
    lines = relaxation.lines(low, high)
    mix = torch.linspace(0, 1, 501, dtype=torch.float64)[:, None]
    z = low + mix * (high - low)
    g = ACTIVATIONS[activation]()(z)
    tolerance = relaxation.error + 1e-12 * (1 + z.abs())
    assert (lines.lower_slope * z + lines.lower_intercept <= g + tolerance).all()
    assert (lines.upper_slope * z + lines.upper_intercept >= g - tolerance).all()


def test_image_and_steepness_enclose_the_activation(activation):
    relaxation = find_relaxation(ACTIVATIONS[activation]())
    low, high = intervals(1)
    mix = torch.linspace(0, 1, 501, dtype=torch.float64)[:, None]
    z = low + mix * (high - low)
    g = relaxation(z)
    lowest, highest = relaxation.image(low, high)
    assert (lowest <= g + 1e-12).all()
    assert (highest >= g - 1e-12).all()
    rise = g.diff(dim=0).abs()
    assert (rise <= relaxation.steepness(low, high) * z.diff(dim=0) + 1e-12).all()


@pytest.mark.parametrize("width", [0.0, 1e-15, 1e-12])
def test_steepness_holds_on_intervals_as_narrow_as_rounding(activation, width):
    relaxation = find_relaxation(ACTIVATIONS[activation]())
    z = torch.linspace(-3, 3, 41, dtype=torch.float64) + 0.013
    slope = (relaxation(z + 1e-6) - relaxation(z - 1e-6)) / 2e-6
    assert (relaxation.steepness(z, z + width) >= slope.abs() - 1e-5).all()


def test_lines_are_tight_on_small_intervals(activation):
    relaxation = find_relaxation(ACTIVATIONS[activation]())
    low = torch.linspace(-3, 3, 61, dtype=torch.float64) + 0.013
    lines = relaxation.lines(low, low + 0.01)
    middle = low + 0.005
    gap = (lines.upper_slope - lines.lower_slope) * middle
    gap = gap + lines.upper_intercept - lines.lower_intercept
    crosses = (low < 0) & (low + 0.01 > 0)
    assert gap[~crosses].max() < 1e-4
    assert gap[~crosses].min() > -1e-12


def test_saturated_activations_stay_tight_on_wide_intervals():
    wide = torch.tensor([50.0], dtype=torch.float64)
    for layer in (nn.Tanh(), nn.Sigmoid()):
        lines = find_relaxation(layer).lines(-wide, wide)
        at_end = lines.upper_slope * wide + lines.upper_intercept
        assert at_end.item() < 3.0


@pytest.mark.parametrize("widths", [(3, 8, 2), (2, 8, 8, 2), (3, 8, 8, 8, 1)])
@pytest.mark.parametrize("size", [0.05, 1.0])
def test_bounds_hold(activation, widths, size):
    for seed in range(3):
        module = random_network(widths, activation, seed=seed)
        network = read_network(module)
        rng = np.random.default_rng(seed)
        low = rng.normal(size=(20, widths[0]))
        high = low + size * rng.exponential(size=low.shape)
        low, high = torch.tensor(low), torch.tensor(high)
        region = Ball(np.zeros((1, widths[0])), 1.0).region()
        region = type(region)(low, high)
        points = region.sample(300, torch.Generator().manual_seed(seed))
        values = module(points).detach()
        crown = crown_bounds(network, region)
        for lower, upper in (
            interval_bounds(network, low, high),
            (crown.lower, crown.upper),
        ):
            assert (values >= lower - ROUNDING).all()
            assert (values <= upper + ROUNDING).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_hold_on_balls(norm):
    module = random_network((4, 16, 16, 1), seed=1)
    center = np.random.default_rng(0).normal(size=(10, 4))
    domain = Ball(center, radius=[0.1, 0.5, 0.0, 1.0], norm=norm)
    found = crown_bounds(read_network(module), domain.region())
    points = domain.region().sample(2000, torch.Generator().manual_seed(0))
    assert (module(points) >= found.lower - ROUNDING).all()


def test_ellipsoids_give_higher_bounds_than_boxes():
    network = read_network(random_network((4, 16, 1), seed=1))
    lower = [
        crown_bounds(network, Ball(np.zeros((1, 4)), 1.0, norm=norm).region()).lower
        for norm in ("linf", "l2")
    ]
    assert lower[1].item() > lower[0].item()


def test_bounds_hold_on_hulls_and_beat_the_box():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 1)) * np.ones(4) + 0.1 * rng.normal(size=(40, 4))
    module = random_network((4, 16, 16, 1), seed=2)
    network = read_network(module)
    mixtures = rng.dirichlet(0.1 * np.ones(40), size=5000) @ rows
    hull = crown_bounds(network, Hull(rows).region())
    box = crown_bounds(network, Box(rows.min(0), rows.max(0)).region())
    assert outputs(module, mixtures).min() >= hull.lower.item() - ROUNDING
    assert outputs(module, rows).min() >= hull.lower.item() - ROUNDING
    assert hull.lower.item() > box.lower.item() + 0.1


def test_affine_networks_are_bounded_exactly():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().eval()
    corners = grid([-1] * 3, [1] * 3, 2)
    found = crown_bounds(read_network(module), Box([-1] * 3, [1] * 3).region())
    np.testing.assert_allclose(found.lower[0], outputs(module, corners).min(0))
    np.testing.assert_allclose(found.upper[0], outputs(module, corners).max(0))


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


def crown_by_loops(weights, biases, low, high):
    """Lower bound of the one output, unit by unit, from the formulas of the paper.

    Every hidden unit's bounds are found in the same way; no intervals are used.
    """
    bounds = []  # of what enters the ReLUs, layer by layer
    for depth in range(len(weights)):
        found = []
        for unit in range(len(biases[depth])):
            ends = []
            for sign in (1.0, -1.0):
                row, offset = sign * weights[depth][unit], sign * biases[depth][unit]
                for k in reversed(range(depth)):
                    slopes = np.zeros(len(row))
                    for i, (least, most) in enumerate(bounds[k]):
                        if least >= 0:
                            slopes[i] = 1.0
                        elif most > 0 and row[i] >= 0:
                            slopes[i] = float(most > -least)
                        elif most > 0:
                            slopes[i] = most / (most - least)
                            offset -= row[i] * slopes[i] * least
                    row = row * slopes
                    offset += row @ biases[k]
                    row = row @ weights[k]
                corner = np.where(row > 0, low, high)
                ends.append(sign * (row @ corner + offset))
            found.append(ends)
        bounds.append(found)
    return bounds[-1][0][0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [0.1, 1.0])
def test_crown_equals_loops_written_from_the_paper(seed, size, monkeypatch):
    module = random_network((8, 64, 64, 1), seed=seed, gain=1.0)
    linear = [layer for layer in module if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().numpy() for layer in linear]
    biases = [layer.bias.detach().numpy() for layer in linear]
    low, high = -size * np.ones(8), size * np.ones(8)
    expected = crown_by_loops(weights, biases, low, high)
    region = Box(low, high).region()
    assert crown_bounds(read_network(module), region).lower.item() >= expected - 1e-9
    monkeypatch.setattr(crown, "_intersect", lambda interval, linear: linear)
    pure = crown_bounds(read_network(module), region)
    assert pure.lower.item() == pytest.approx(expected, rel=1e-9)


def triangle_bound(network, low, high, hidden):
    """Minimum of the one output over the triangles of all ReLUs, by linprog."""
    columns, equal, less = list(zip(low, high, strict=True)), [], []
    now = list(range(len(low)))
    for number, layer in enumerate(network.layers):
        first = len(columns)
        if isinstance(layer, Affine):
            columns += [(None, None)] * len(layer.bias)
            for i, (row, bias) in enumerate(zip(layer.weight, layer.bias, strict=True)):
                pairs = dict(zip(now, row.tolist(), strict=True)) | {first + i: -1.0}
                equal.append((pairs, -bias.item()))
            now = list(range(first, len(columns)))
            continue
        for i, z in enumerate(now):
            low, high = (bound[0, i].item() for bound in hidden[number])
            y = first + i
            columns.append((0, None))
            less.append(({z: 1.0, y: -1.0}, 0.0))
            slope = (max(high, 0) - max(low, 0)) / (high - low)
            less.append(({y: 1.0, z: -slope}, max(low, 0) - slope * low))
        now = list(range(first, len(columns)))

    def matrix(rows):
        dense = np.zeros((len(rows), len(columns)))
        for k, (pairs, _) in enumerate(rows):
            dense[k, list(pairs)] = list(pairs.values())
        return dense, [value for _, value in rows]

    A_eq, b_eq = matrix(equal)
    A_ub, b_ub = matrix(less)
    objective = np.zeros(len(columns))
    objective[now] = 1
    return linprog(objective, A_ub, b_ub, A_eq, b_eq, bounds=columns).fun


@pytest.mark.parametrize("seed", range(3))
def test_crown_is_just_below_the_linear_programme(seed):
    module = random_network((8, 64, 64, 1), seed=seed, gain=1.0)
    network = read_network(module)
    low, high = -0.2 * np.ones(8), 0.2 * np.ones(8)
    found = crown_bounds(network, Box(low, high).region())
    interval = interval_bounds(network, torch.tensor(low), torch.tensor(high))[0]
    programme = triangle_bound(network, low, high, found.hidden)
    smallest = outputs(module, grid(low, high, 2)).min()
    assert interval.item() < found.lower.item() <= programme + 1e-7 <= smallest
    assert programme - found.lower.item() < 0.5 * (smallest - interval.item())


def batch_norm_network():
    module = nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(3),
        nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Tanh()),
        nn.Identity(),
        nn.Linear(8, 8, bias=False),
        nn.BatchNorm1d(8, affine=False),
        nn.Softplus(),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        module(2 + torch.randn(50, 3, generator=generator))
    return module.eval()


def small_mlp():
    return MLP(3, 2, hidden_layer_sizes=(5, 4), activation="gelu", dropout=0.1).eval()


def shared_activation():
    act = nn.ReLU()
    return nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 1))


@pytest.mark.parametrize("make", [batch_norm_network, small_mlp, shared_activation])
def test_read_networks_compute_the_same(make):
    module = make().eval()
    X = torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
    exact = module.double()(X.double()).detach()
    np.testing.assert_allclose(read_network(module)(X.double()), exact, atol=1e-12)


def test_the_margin_covers_float32_rounding(activation):
    for seed in range(3):
        module = random_network(
            (3, 32, 32, 2), activation, seed=seed, dtype=torch.float32
        )
        network = read_network(module)
        low, high = -3 * torch.ones(1, 3).double(), 3 * torch.ones(1, 3).double()
        points = 6 * torch.rand(2000, 3, dtype=torch.float64) - 3
        error = (network(points) - module(points.float()).double()).abs().amax(0)
        slack = numerical_slack(network, low, high)[0]
        assert (error <= slack).all()
        assert (slack < 1.0).all()


class Unknown(nn.Module):
    def forward(self, X):
        return X.sum(1, keepdim=True)


class OwnSequential(nn.Sequential):
    def forward(self, X):
        return -super().forward(X)


class OwnLinear(nn.Linear):
    def forward(self, X):
        return -super().forward(X)


def hooked():
    module = nn.Sequential(nn.Linear(2, 1))
    module[0].register_forward_hook(lambda *_: torch.zeros(1))
    return module


def patched():
    module = nn.Sequential(nn.Linear(2, 1))
    module[0].forward = lambda X: -X
    return module


def parametrized():
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Unknown(), "Unknown is not understood"),
        (OwnSequential(nn.Linear(2, 1)), "OwnSequential is not understood"),
        (nn.Sequential(OwnLinear(2, 1)), "OwnLinear \\('0'\\) is not understood"),
        (nn.Sequential(nn.Linear(2, 1), nn.Mish()), "Mish \\('1'\\)"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), "Softmax"),
        (hooked(), "Linear \\('0'\\) has a hook"),
        (patched(), "has a hook or a forward of its own"),
        (parametrized(), "ParametrizedLinear"),
        (nn.Sequential(nn.Linear(2, 1), nn.Dropout()).train(), "training mode"),
        (nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).train(), "training mode"),
        (
            nn.Sequential(
                nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1)
            ).eval(),
            "no running statistics",
        ),
        (nn.Sequential(nn.Flatten(0), nn.Linear(2, 1)), "more than flatten rows"),
        (nn.ReLU(), "begin with nn.Linear"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(module, message):
    with pytest.raises(ValueError, match=message):
        read_network(module)


def test_nan_parameters_are_refused():
    module = nn.Linear(2, 1)
    nn.init.constant_(module.weight, torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        read_network(module)


@pytest.fixture
def mish():
    register_relaxation(nn.Mish, nn.functional.mish, curvature=1.0)
    yield nn.Mish
    unregister_relaxation(nn.Mish)


def test_a_registered_activation_is_bounded(mish):
    module = nn.Sequential(nn.Linear(2, 8), mish(), nn.Linear(8, 1)).double().eval()
    found = crown_bounds(read_network(module), Box([-1, -1], [1, 2]).region())
    values = outputs(module, grid([-1, -1], [1, 2], 50))
    assert found.lower.item() <= values.min()
    assert values.min() - found.lower.item() < 1.0


def test_a_wrong_curvature_is_refused():
    with pytest.raises(ValueError, match="curvature is too small"):
        register_relaxation(nn.Mish, nn.functional.mish, curvature=0.1)
    with pytest.raises(TypeError, match="must be a subclass"):
        register_relaxation(nn.Mish(), curvature=1.0)
