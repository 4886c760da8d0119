"""Outputs in an order: heads of steps, and what rounding may not change."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.nonnegative import NonnegativeBlocks, NonnegativeLinear
from sklpos.nets.within import keep_within

SIDES = [(None, None), (0.0, None), (-2.0, None), (None, 3.0), (-1.0, 1.0)]


def ordered(lower, upper, n_outputs=3, n_groups=1):
    bounds = Bounds.read(lower, upper, n_outputs)
    return Bounds(bounds.lower, bounds.upper, n_outputs).repeated(n_groups)


def random_layer(bounds, n_features=7, seed=0, **kwargs):
    torch.manual_seed(seed)
    linear = nn.Linear(n_features, len(bounds), **kwargs)
    nn.init.normal_(linear.weight)
    return NonnegativeLinear(linear, bounds)


@pytest.mark.global_state
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("lower", "upper"), SIDES)
def test_outputs_rise_within_their_bounds(lower, upper, bias):
    if not bias and lower == 0.0 and upper is not None:
        pytest.skip("0 must be within")
    layer = random_layer(ordered(lower, upper), dtype=torch.float64, bias=bias)
    features = torch.rand(200, 7, dtype=torch.float64)
    with torch.no_grad():
        # As an optimizer leaves them: of any sign.
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        outputs = layer(features)
        plain = layer.plain()(features)
    assert (outputs.diff(dim=1) >= 0).all()
    assert outputs.min() >= (-np.inf if lower is None else lower) - 1e-12
    assert outputs.max() <= (np.inf if upper is None else upper) + 1e-12
    torch.testing.assert_close(plain, outputs)


@pytest.mark.global_state
@pytest.mark.parametrize(("lower", "upper"), SIDES)
def test_gradients_by_hand_are_those_of_autograd(lower, upper):
    layer = random_layer(ordered(lower, upper, n_groups=2), dtype=torch.float64)
    weight, bias = layer.effective()
    pulls = torch.randn_like(weight), torch.randn_like(bias)
    own = (layer.weight, layer.bias)
    expected = torch.autograd.grad((weight, bias), own, pulls)
    for found, slope in zip(layer.pull_back(*pulls), expected, strict=True):
        torch.testing.assert_close(found, slope)


@pytest.mark.global_state
def test_blocks_are_in_order_one_by_one():
    torch.manual_seed(0)
    bounds = ordered(0.0, None, n_groups=4)
    layer = NonnegativeBlocks(nn.Linear(5, 12), bounds, n_blocks=4)
    outputs = layer(torch.rand(50, 20)).unflatten(1, (4, 3))
    assert (outputs.diff(dim=2) >= 0).all()
    # Only within a block.
    assert (outputs[:, 1:, 0] < outputs[:, :-1, 2]).any()


@pytest.mark.global_state
@pytest.mark.parametrize(("lower", "upper"), SIDES)
def test_a_layer_in_order_is_taken_over_as_it_is(lower, upper):
    """A start from a plain head that is in order already does not move it."""
    layer = random_layer(ordered(lower, upper), dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(0.1 + torch.rand(3) / 10)
        layer.weight.div_(100)
    again = NonnegativeLinear(layer.plain(), ordered(lower, upper))
    for found, expected in zip(again.effective(), layer.effective(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.global_state
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("lower", "upper"), SIDES)
def test_rounding_changes_no_order(lower, upper, dtype):
    """Quantiles that are nearly equal, over sums in many orders."""
    generator = torch.Generator().manual_seed(0)
    bounds = ordered(lower, upper)
    head = nn.Linear(40, 3, dtype=dtype)
    size = 1 / 80 if upper == 1.0 else 1e3
    sign = -1 if lower is None and upper is not None else 1
    with torch.no_grad():
        weight = sign * size * torch.rand(40, generator=generator)
        if lower is None and upper is None:
            weight = weight - weight.mean()
        head.weight.copy_(weight.expand(3, 40))
        head.bias.copy_(torch.full((3,), 0.1))
        keep_within(head, bounds)
        near = weight.to(dtype).expand(3, 40)
        torch.testing.assert_close(head.weight, near, rtol=1e-4, atol=0)
        features = torch.rand(300, 40, generator=generator).to(dtype)
        for _ in range(30):
            outputs = []
            # Each output with an order of its own.
            for j in range(3):
                order = torch.randperm(40, generator=generator)
                terms = features[:, order] * head.weight[j, order]
                sums = list(itertools.accumulate(terms.unbind(1), initial=head.bias[j]))
                outputs.append(sums[-1])
            outputs = torch.stack(outputs, dim=1)
            assert (outputs.diff(dim=1) >= 0).all()
            assert bounds.contain(outputs.double().numpy()).all()


@pytest.mark.global_state
def test_shrinking_below_an_upper_bound_changes_no_order():
    """The last output alone would exceed it, and shrink below the one before."""
    head = nn.Linear(2, 2, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.9, 0.0], [1.0, 9.0]]))
        head.bias.zero_()
        keep_within(head, ordered(0.0, 1.0, n_outputs=2))
        outputs = head(torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    assert (outputs.diff(dim=1) >= 0).all()
    assert 0.99 < outputs.max() <= 1
