"""Lines around an activation, attacked: nothing may be found outside them."""

import numpy as np
import pytest
import torch
from networks import ACTIVATIONS, grid, outputs
from torch import nn

from sklpos.certificates import Box
from sklpos.certificates.bounds.activations import (
    find_relaxation,
    register_relaxation,
    unregister_relaxation,
)
from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import read_network


@pytest.fixture(params=ACTIVATIONS)
def relaxation(request):
    return find_relaxation(ACTIVATIONS[request.param]())


def intervals(seed, count=2000):
    rng = np.random.default_rng(seed)
    center = rng.normal(size=count) * rng.choice([0.1, 1, 5, 30], size=count)
    radius = rng.exponential(size=count) * rng.choice([1e-9, 1e-3, 0.3, 3, 40], count)
    return torch.tensor(center - radius), torch.tensor(center + radius)


def inside(low, high, count=301):
    """Points of every interval, from one end to the other."""
    return low + torch.linspace(0, 1, count, dtype=low.dtype)[:, None] * (high - low)


def test_all_lines_that_are_offered_enclose_the_activation(relaxation):
    low, high = intervals(0)
    family = relaxation.family(low, high)
    usual = relaxation.usual_mix(low, high)
    z = inside(low, high)
    g = relaxation(z)
    tolerance = relaxation.error + 1e-12 * (1 + z.abs())
    for mix in (usual, *(torch.full_like(low, mix) for mix in (0, 0.2, 0.5, 0.9, 1))):
        lines = family(mix)
        assert (lines.lower_slope * z + lines.lower_intercept <= g + tolerance).all()
        assert (lines.upper_slope * z + lines.upper_intercept >= g - tolerance).all()
    for part, chosen in zip(family(usual), relaxation.lines(low, high), strict=True):
        assert torch.equal(part, chosen)


def test_image_and_steepness_enclose_the_activation(relaxation):
    low, high = intervals(1)
    z = inside(low, high)
    g = relaxation(z)
    lowest, highest = relaxation.image(low, high)
    assert (lowest <= g + 1e-12).all()
    assert (highest >= g - 1e-12).all()
    rise = g.diff(dim=0).abs()
    assert (rise <= relaxation.steepness(low, high) * z.diff(dim=0) + 1e-12).all()


def test_steepness_holds_on_intervals_as_narrow_as_rounding(relaxation):
    z = torch.linspace(-3, 3, 41, dtype=torch.float64) + 0.013
    slope = (relaxation(z + 1e-6) - relaxation(z - 1e-6)) / 2e-6
    for width in (0.0, 1e-15, 1e-12):
        assert (relaxation.steepness(z, z + width) >= slope.abs() - 1e-5).all()


def test_lines_are_tight_on_small_intervals(relaxation):
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
